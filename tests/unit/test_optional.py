"""Steps that a recipe switches off or does not insist on: left out with a reason, and the rest goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from components.core.artifacts import Artifact, Identity
from components.core.component import StrictConfig
from components.core.errors import ConfigError, StepNotBegun, StepSkipped, TrainingError
from components.core.events import Event, EventBus, StageFailed, StageFinished, StageSkipped
from components.core.kinds import registry
from components.core.recipe import Recipe, Spec, parse_recipe
from components.interfaces import Benchmark, EvalRows, Measurement, Metric, Pass, StepContext, Subject, Trainer
from components.services.application import Application
from components.services.benchmarking import BenchmarkService, scoreboard
from components.services.data import DataService
from components.services.optimization import OptimizationService
from components.services.optional import optional
from components.services.training import TrainingService
from components.services.workspace import Workspace
from tests import tiny


class Breaks(StrictConfig):
    """What goes wrong, if anything."""

    error: str = ""
    mark: str = "x"


ERRORS = {"training": TrainingError("loss is not a number"), "keys": KeyboardInterrupt(), "exit": SystemExit(3)}


def break_as(config: Breaks) -> None:
    if config.error:
        raise ERRORS[config.error]


class TestTrainer(Trainer):
    """Copies a word behind those that were there."""

    __test__ = False
    Config = Breaks

    @classmethod
    def produces_kind(cls, config: Any) -> str:
        return "model"

    def train(self, model: Artifact, dataset: Artifact, out: Path, context: StepContext) -> Mapping[str, Any]:
        break_as(self.config)
        before = (model.path / "words").read_text() if (model.path / "words").exists() else ""
        (out / "words").write_text(before + self.config.mark)
        return {}


class TestPass(Pass):
    """Copies a word behind those that were there."""

    __test__ = False
    Config = Breaks
    consumes = ("model",)
    produces = "model"

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        break_as(self.config)
        (out / "words").write_text((source.path / "words").read_text() + self.config.mark)
        return {}


class TestBenchmark(Benchmark):
    """Counts letters."""

    __test__ = False
    Config = Breaks
    metrics = (Metric("letters", "", "higher", "letters"),)

    def measure(self, subjects: Sequence[Subject], rows: EvalRows, context: StepContext) -> list[Measurement]:
        break_as(self.config)
        return [
            Measurement(
                subject=subject.name,
                benchmark=self.config.mark,
                metrics={self.config.mark: len((subject.artifact.path / "words").read_text())},
            )
            for subject in subjects
        ]


@pytest.fixture(autouse=True, scope="module")
def components() -> Iterator[None]:
    """Throw-away components, forgotten at the end."""
    with registry.owned_by("test"):
        registry.add("trainer", "test_trainer", TestTrainer)
        registry.add("pass", "test_pass", TestPass)
        registry.add("benchmark", "test_benchmark", TestBenchmark)
    yield
    with registry.owned_by("test"):
        registry.forget("test")


def spec(kind: str, error: str = "", mark: str = "x", **switches: bool) -> Spec:
    """One throw-away step."""
    return Spec(kind=kind, type=f"test_{kind}", config=Breaks(error=error, mark=mark), **switches)


@pytest.fixture
def bus(workspace: Workspace) -> EventBus:
    return workspace.bus


@pytest.fixture
def told(bus: EventBus) -> list[Event]:
    told: list[Event] = []
    bus.on_any(told.append)
    return told


def skips(told: list[Event]) -> list[dict[str, Any]]:
    return [event.data for event in told if isinstance(event, StageSkipped)]


# ---------------------------------------------------------------- the rule


def test_step_that_is_wanted_is_done(bus: EventBus, told: list[Event]) -> None:
    """A step that works is neither skipped nor announced as such, required or not (C50)."""
    done = []
    for required in (True, False):
        with optional(spec("trainer", required=required), bus, "train", "x"):
            done.append(required)
    assert done == [True, False]
    assert told == []


@pytest.mark.parametrize("required", [True, False])
def test_step_that_is_switched_off(bus: EventBus, told: list[Event], required: bool) -> None:
    """A step with `enabled: false` is not begun; it ends as skipped with that reason, required or not (C50)."""
    with (
        pytest.raises(StepSkipped, match=r"^switched off in the recipe \(enabled: false\)$"),
        optional(spec("trainer", enabled=False, required=required), bus, "train", "sft"),
    ):
        raise AssertionError("not reached")
    assert skips(told) == [{"stage": "train", "name": "sft", "reason": "switched off in the recipe (enabled: false)"}]


def test_optional_step_that_fails(bus: EventBus, told: list[Event], caplog: pytest.LogCaptureFixture) -> None:
    """A step with `required: false` that fails ends as skipped with its error as reason, told and logged (C50)."""
    caplog.set_level("INFO", logger="components")
    caplog.set_level("INFO")
    error = TrainingError("loss is not a number")
    with pytest.raises(StepSkipped) as caught, optional(spec("trainer", required=False), bus, "train", "sft"):
        raise error
    reason = "it failed and is not required: TrainingError: loss is not a number"
    assert str(caught.value) == reason
    assert caught.value.__cause__ is error
    assert skips(told) == [{"stage": "train", "name": "sft", "reason": reason}]
    assert "train sft failed and is not required" in caplog.text
    assert "Traceback" in caplog.text


def test_required_step_that_fails(bus: EventBus, told: list[Event]) -> None:
    """A required step that fails raises its own error, unchanged, and is not announced as skipped (C50)."""
    error = TrainingError("loss is not a number")
    with pytest.raises(TrainingError) as caught, optional(spec("trainer"), bus, "train", "sft"):
        raise error
    assert caught.value is error
    assert caught.value.__cause__ is None
    assert told == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_interrupts_are_never_swallowed(bus: EventBus, told: list[Event], error: BaseException) -> None:
    """Ctrl-C and exit end the run, however optional the step is (C50)."""
    with pytest.raises(type(error)) as caught, optional(spec("trainer", required=False), bus, "train", "sft"):
        raise error
    assert caught.value is error
    assert told == []


@pytest.mark.parametrize("required", [True, False])
def test_skip_inside_a_step_is_told_once(bus: EventBus, told: list[Event], required: bool) -> None:
    """A step inside a step that is skipped passes through and is announced once (C50)."""
    inner = spec("pass", required=False)
    with (
        pytest.raises(StepSkipped, match="ValueError: no"),
        optional(spec("trainer", required=required), bus, "train", "outer"),
        optional(inner, bus, "optimize", "inner"),
    ):
        raise ValueError("no")
    assert [skip["name"] for skip in skips(told)] == ["inner"]


def test_secrets_stay_out_of_reasons(bus: EventBus, told: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret in an error message reaches neither the evidence nor whoever hears of the skipped step (C50)."""
    monkeypatch.setenv("HF_TOKEN", "hf_CANARY123")
    with pytest.raises(StepSkipped) as caught, optional(spec("trainer", required=False), bus, "train", "sft"):
        raise OSError("401 for Bearer hf_CANARY123")
    assert "hf_CANARY123" not in f"{caught.value} {skips(told)}"
    assert str(caught.value).endswith("OSError: 401 for Bearer ***")


# ---------------------------------------------------------------- training


@pytest.fixture
def dataset(workspace: Workspace, tmp_path: Path) -> Artifact:
    return DataService(workspace).validate(parse_recipe(tiny.recipe(tmp_path, tmp_path / "m")).data)


@pytest.fixture
def base(workspace: Workspace) -> Artifact:
    """A model whose weights are one word."""

    def make(out: Path) -> dict[str, Any]:
        (out / "words").write_text("base")
        return {}

    identity = Identity(stage="model", config={}, parents={}, code="", versions={})
    return workspace.store.build(identity, "model", {}, make)


def words(artifact: Artifact) -> str:
    return (artifact.path / "words").read_text()


@pytest.mark.parametrize(
    ("steps", "expected", "skipped"),
    [
        ([("", {}), ("", {})], "base01", 0),
        ([("training", {"required": False}), ("", {})], "base1", 1),
        ([("", {}), ("training", {"required": False})], "base0", 1),
        ([("", {}), ("training", {"required": False}), ("", {})], "base02", 1),
        ([("", {"enabled": False}), ("", {})], "base1", 1),
        ([("", {}), ("", {"enabled": False})], "base0", 1),
        ([("training", {"required": False}), ("training", {"required": False})], "base", 2),
    ],
)
def test_training_falls_back(
    workspace: Workspace,
    told: list[Event],
    base: Artifact,
    dataset: Artifact,
    steps: list[tuple[str, dict[str, bool]]],
    expected: str,
    skipped: int,
) -> None:
    """A training step that is skipped is passed over: the next one starts from the model before it (C50)."""
    plan = [spec("trainer", error, str(i), **switches) for i, (error, switches) in enumerate(steps)]
    assert words(TrainingService(workspace).train(plan, base, dataset, 17)) == expected
    assert len(skips(told)) == skipped


def test_required_training_raises(workspace: Workspace, told: list[Event], base: Artifact, dataset: Artifact) -> None:
    """A required training step that fails ends the training with its own error; the steps after it do not run (C50)."""
    plan = [spec("trainer"), spec("trainer", "training", "y"), spec("trainer", mark="z")]
    with pytest.raises(TrainingError, match="loss is not a number"):
        TrainingService(workspace).train(plan, base, dataset, 17)
    assert skips(told) == []
    assert sum(isinstance(event, StageFailed) for event in told) == 1
    assert sum(isinstance(event, StageFinished) and event.stage == "train" for event in told) == 1


@pytest.mark.parametrize("error", ["keys", "exit"])
def test_interrupted_training(workspace: Workspace, base: Artifact, dataset: Artifact, error: str) -> None:
    """Ctrl-C in an optional training step ends the run (C50)."""
    with pytest.raises(type(ERRORS[error])):
        TrainingService(workspace).train([spec("trainer", error, required=False)], base, dataset, 17)


def test_failed_step_is_tried_again(workspace: Workspace, base: Artifact, dataset: Artifact) -> None:
    """Nothing of a skipped step is in the store: the next run does it if it works by then (C50)."""
    service = TrainingService(workspace)
    failing = [spec("trainer", "training", required=False)]
    assert words(service.train(failing, base, dataset, 17)) == "base"
    assert not list((workspace.store.root / "train").glob("*/manifest.json"))
    assert words(service.train([spec("trainer", required=False)], base, dataset, 17)) == "basex"


# ---------------------------------------------------------------- optimization


def test_pass_that_is_switched_off(workspace: Workspace, told: list[Event], base: Artifact) -> None:
    """A pass that is switched off is passed over; the chain goes on without it (C50)."""
    chain = [spec("pass", mark="1"), spec("pass", mark="2", enabled=False), spec("pass", mark="3")]
    assert words(OptimizationService(workspace).variant("v", chain, base, 17)) == "base13"
    assert [skip["name"] for skip in skips(told)] == ["v/test_pass"]


@pytest.mark.parametrize("enabled", [True, False])
def test_step_whose_condition_is_not_met(bus: EventBus, told: list[Event], enabled: bool) -> None:
    """A step whose condition is not met is not begun, with that reason; being switched off weighs more (C29, C50)."""
    with (
        pytest.raises(StepNotBegun) as caught,
        optional(spec("pass", enabled=enabled), bus, "optimize", "x", "too small"),
    ):
        raise AssertionError("not reached")
    assert str(caught.value) == ("too small" if enabled else "switched off in the recipe (enabled: false)")
    assert [skip["reason"] for skip in skips(told)] == [str(caught.value)]


def test_optional_pass_takes_its_variant_with_it(workspace: Workspace, told: list[Event], base: Artifact) -> None:
    """A failing optional pass skips its variant, which would not be what it says; other variants are made (C50)."""
    service = OptimizationService(workspace)
    chain = [spec("pass", mark="1"), spec("pass", "training", required=False), spec("pass", mark="3")]
    with pytest.raises(StepSkipped, match="TrainingError: loss is not a number"):
        service.variant("broken", chain, base, 17)
    assert words(service.variant("whole", [spec("pass", mark="1")], base, 17)) == "base1"
    assert [skip["name"] for skip in skips(told)] == ["broken/test_pass"]


def test_required_pass_raises(workspace: Workspace, told: list[Event], base: Artifact) -> None:
    """A failing required pass ends the run with its own error (C50)."""
    with pytest.raises(TrainingError):
        OptimizationService(workspace).variant("v", [spec("pass", "training")], base, 17)
    assert skips(told) == []


@pytest.mark.parametrize("error", ["keys", "exit"])
def test_interrupted_pass(workspace: Workspace, base: Artifact, error: str) -> None:
    """Ctrl-C in an optional pass ends the run (C50)."""
    with pytest.raises(type(ERRORS[error])):
        OptimizationService(workspace).variant("v", [spec("pass", error, required=False)], base, 17)


# ---------------------------------------------------------------- benchmarks


def test_failing_benchmark_is_left_out(
    workspace: Workspace, told: list[Event], base: Artifact, dataset: Artifact
) -> None:
    """An optional benchmark that fails and one that is switched off are left out; the others measure (C50)."""
    plan = [
        spec("benchmark", mark="first"),
        spec("benchmark", "training", "broken", required=False),
        spec("benchmark", mark="off", enabled=False),
        spec("benchmark", mark="last", required=False),
    ]
    subjects = [Subject(name=name, artifact=base) for name in ("base", "trained")]
    found = BenchmarkService(workspace).measure(plan, subjects, dataset, 17)
    assert scoreboard(found).metrics("base") == scoreboard(found).metrics("trained") == {"first": 4, "last": 4}
    assert [skip["reason"][:12] for skip in skips(told)] == ["it failed an", "switched off"]


class OneOfTwo(TestBenchmark):
    """Fails on the second subject."""

    def measure(self, subjects: Sequence[Subject], rows: EvalRows, context: StepContext) -> list[Measurement]:
        if subjects[0].name == "second":
            raise OSError("out of memory")
        return super().measure(subjects, rows, context)


def test_benchmark_is_skipped_as_a_whole(
    workspace: Workspace, told: list[Event], base: Artifact, dataset: Artifact
) -> None:
    """A benchmark that fails on one subject is left out for all: figures are compared or not there (C50)."""
    try:
        with registry.owned_by("test half"):
            registry.add("benchmark", "test_half", OneOfTwo)
        half = Spec(kind="benchmark", type="test_half", config=Breaks(), required=False)
        subjects = [Subject(name=name, artifact=base) for name in ("first", "second")]
        assert BenchmarkService(workspace).measure([half], subjects, dataset, 17) == []
        assert len(skips(told)) == 1
    finally:
        with registry.owned_by("test half"):
            registry.forget("test half")


def test_required_benchmark_raises(workspace: Workspace, base: Artifact, dataset: Artifact) -> None:
    """A failing required benchmark ends the run with its own error (C50)."""
    with pytest.raises(TrainingError):
        BenchmarkService(workspace).measure(
            [spec("benchmark", "training")], [Subject(name="base", artifact=base)], dataset, 17
        )


@pytest.mark.parametrize("error", ["keys", "exit"])
def test_interrupted_benchmark(workspace: Workspace, base: Artifact, dataset: Artifact, error: str) -> None:
    """Ctrl-C in an optional benchmark ends the run (C50)."""
    with pytest.raises(type(ERRORS[error])):
        BenchmarkService(workspace).measure(
            [spec("benchmark", error, required=False)], [Subject(name="base", artifact=base)], dataset, 17
        )


# ---------------------------------------------------------------- recipes


def written(tmp_path: Path, **changes: Any) -> Recipe:
    return parse_recipe(tiny.recipe(tmp_path, tmp_path / "m", **changes))


def test_switches_in_a_recipe(tmp_path: Path) -> None:
    """Every component of a recipe takes `required` and `enabled`, which do not decide the result (C50)."""
    switched = [{"type": "test_benchmark", "required": False}, {"type": "test_benchmark", "enabled": False}]
    recipe = written(tmp_path, benchmark=switched, gate=[], register=None)
    first, second = recipe.benchmark
    assert (first.required, first.enabled, second.required, second.enabled) == (False, True, True, False)
    assert first.identity() == second.identity() == {"type": "test_benchmark", "error": "", "mark": "x"}
    assert parse_recipe(recipe.dump()) == recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": [{"type": "test_trainer", "enabled": False}]}, "train: at least one step must be switched on"),
        ({"gate": [{"type": "budget", "max": {"bytes": 1}, "required": False}]}, "gate.0: a gate is never optional"),
        ({"gate": [{"type": "budget", "max": {"bytes": 1}, "enabled": False}]}, "gate.0: a gate is never optional"),
        ({"train": [{"type": "test_trainer", "required": "no"}]}, "required: write true or false, found 'no'"),
        ({"train": [{"type": "test_trainer", "enabled": 0}]}, "enabled: write true or false, found 0"),
    ],
)
def test_switches_that_make_no_sense(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """A recipe without training, with an optional gate, or with a switch that is no truth value is refused (C50)."""
    with pytest.raises(ConfigError) as caught:
        written(tmp_path, **changes)
    assert any(message in problem for problem in caught.value.problems), caught.value.problems


def test_optional_steps_in_a_run(tmp_path: Path, base: Artifact, dataset: Artifact) -> None:
    """The services of a run skip what fails and remember why, for the evidence (C50, R8)."""
    recipe = written(
        tmp_path,
        train=[{"type": "test_trainer", "mark": "1"}, {"type": "test_trainer", "error": "training", "required": False}],
        optimize={"plain": [{"type": "test_pass"}]},
        benchmark=[{"type": "test_benchmark", "error": "training", "required": False}, {"type": "test_benchmark"}],
        gate=[],
        register=None,
    )
    from components.core.settings import Settings

    quiet = Settings(root=tmp_path, monitoring={"enabled": False}, plugins={"enabled": False})
    told: list[Event] = []
    with Application(quiet) as app, app.run(recipe) as run:
        app.bus.on_any(told.append)
        trained = run.get(TrainingService).train(recipe.train, base, dataset, recipe.seed)
        variant = run.get(OptimizationService).variant("plain", recipe.optimize["plain"], trained, recipe.seed)
        found = run.get(BenchmarkService).measure(
            recipe.benchmark, [Subject(name="plain", artifact=variant)], dataset, recipe.seed
        )
    assert words(variant) == "base1x"
    assert len(found) == 1
    assert [(skip["stage"], skip["name"]) for skip in skips(told)] == [
        ("train", "test_trainer"),
        ("benchmark", "test_benchmark"),
    ]
