"""What a run promises that is written to several trackers, and what of training reaches them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from components.core.component import StrictConfig
from components.core.errors import ConfigError, PostmillError
from components.core.events import (
    CheckpointLoaded,
    Event,
    MetricLogged,
    RunFinished,
    SampleGenerated,
    SpeedChosen,
    StageCached,
    StageFinished,
    StageSkipped,
    TrainingAdapted,
    TrainingEvaluated,
    TrainingFinished,
    TrainingStarted,
    TrainStep,
)
from components.core.kinds import registry
from components.interfaces import Tracker
from components.services.tracking import RunTracking
from components.services.workspace import Workspace
from tests.contract.tracked import READERS


class Memory(Tracker):
    """A throw-away tracker that remembers what it is told, and fails where it is told to."""

    class Config(StrictConfig):
        fails: str = ""

    config: Config

    def start(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        self.tags, self.points, self.files, self.status = dict(tags), list[Any](), dict[str, str](), ""
        self.fail("start")
        return f"id of {type(self).__name__}"

    def tag(self, tags: Mapping[str, str]) -> None:
        self.fail("tag")
        self.tags |= tags

    def metrics(self, values: Any) -> None:
        self.fail("metrics")
        self.points += [(step, dict(figures)) for step, figures in values]

    def file(self, path: Path, folder: str = "") -> None:
        self.fail("file")
        self.files[f"{folder}/{path.name}"] = path.read_text(encoding="utf-8")

    def finish(self, status: str) -> None:
        self.fail("finish")
        self.status = status

    def fail(self, where: str) -> None:
        if self.config.fails == where:
            raise OSError(f"no room to {where}")


class Second(Memory):
    """Another one."""


class Third(Memory):
    """And another one."""


@pytest.fixture(autouse=True)
def trackers() -> Iterator[None]:
    """The throw-away trackers, registered for one test."""
    registry.names("tracker")
    with registry.owned_by("tests"):
        for cls in (Memory, Second, Third):
            registry.add("tracker", cls.__name__.lower(), cls)
    yield
    with registry.owned_by("tests"):
        registry.forget("tests")


def tracking(root: Path, plan: Any, tracker: Any, registered: bool = False) -> RunTracking:
    """The service, as the recipe's key `services.tracking.tracker` configures it."""
    plan = plan if registered else plan.model_copy(update={"register_as": None})
    return RunTracking(Workspace(root), plan, RunTracking.Config.model_validate({"tracker": tracker}))


def three(root: Path, lab: Any, **fails: str) -> tuple[RunTracking, list[Any]]:
    """A run on three trackers, one of which fails somewhere."""
    names = ("memory", "second", "third")
    run = tracking(root, lab.plan, [{"type": name, "fails": fails.get(name, "")} for name in names])
    return run, list(run.trackers.trackers.values())


def a_step(step: int) -> TrainStep:
    """A step of training."""
    return TrainStep(step=step, total=12, loss=0.5, tokens_per_s=10.0, figures={"learning_rate": 0.1})


def train(run: RunTracking, steps: int) -> None:
    """A run that only trains."""
    with run:
        for step in range(1, steps + 1):
            run.workspace.bus.emit(a_step(step))


def test_all_hear_the_same(lab: Any, tmp_path: Path) -> None:
    """Every tracker of the list gets everything; the id is the first one's, and each knows those of the others."""
    run, told = three(tmp_path, lab)
    train(run, 12)
    assert run.run_id == "id of Memory"
    assert run.tracker is told[0]
    for tracker in told:
        assert [step for step, _ in tracker.points] == list(range(1, 13))
        assert tracker.points == told[0].points
        assert tracker.tags == told[0].tags
        assert tracker.tags["postmill.run.second"] == "id of Second"
        assert tracker.status == "FINISHED"


@pytest.mark.parametrize("sick", ["second", "memory"])
def test_one_that_does_not_start(lab: Any, tmp_path: Path, sick: str) -> None:
    """A tracker that does not start is named before any work, and nothing stays open behind it (B17)."""
    run, told = three(tmp_path, lab, **{sick: "start"})
    with pytest.raises(PostmillError, match=f"^tracker '{sick}': OSError: no room to start$"), run:
        pytest.fail("the run began")
    opened = told[:1] if sick == "second" else []
    assert [tracker.status for tracker in opened] == ["FAILED"] * len(opened)
    assert all(sick in tracker.tags["postmill.error"] for tracker in opened)
    assert not hasattr(told[2], "tags")


@pytest.mark.parametrize("sick", ["second", "memory"])
def test_one_that_fails_on_the_way(lab: Any, tmp_path: Path, sick: str) -> None:
    """A tracker that fails in the middle takes nothing from the others, and the run says that it has holes (B17)."""
    run, told = three(tmp_path, lab, **{sick: "metrics"})
    event = MetricLogged(values={"heat": 1.0})
    with run:
        run.workspace.bus.emit(event)
    ((failed, error),) = run.workspace.bus.failures
    assert failed is event
    assert str(error) == f"tracker '{sick}': OSError: no room to metrics"
    assert told[0].tags[f"postmill.failed.{sick}"] == "OSError: no room to metrics"
    for tracker in told:
        assert tracker.status == "FINISHED"
        assert tracker.points == ([] if tracker.config.fails else [(0, {"heat": 1.0})])


def test_steps_are_not_written_twice(lab: Any, tmp_path: Path) -> None:
    """Losses that one tracker refuses wait for it; the others get each of them once, and all are closed (B17)."""
    run, (first, second, third) = three(tmp_path, lab, second="metrics")
    ended: list[RunFinished] = []
    run.workspace.bus.on(RunFinished, ended.append)
    with pytest.raises(PostmillError, match="^tracker 'second': OSError: no room to metrics$"):
        train(run, 12)
    assert [[step for step, _ in tracker.points] for tracker in (first, second, third)] == [
        list(range(1, 13)),
        [],
        list(range(1, 13)),
    ]
    assert [tracker.status for tracker in (first, second, third)] == ["FAILED"] * 3
    assert [event.status for event in ended] == ["FAILED"]


@pytest.mark.parametrize("sick", ["second", "memory"])
def test_one_that_does_not_close(lab: Any, tmp_path: Path, sick: str) -> None:
    """A tracker that cannot close its run fails it under its name; all others are closed, and the first one knows
    (B17)."""
    run, told = three(tmp_path, lab, **{sick: "finish"})
    ended: list[RunFinished] = []
    run.workspace.bus.on(RunFinished, ended.append)
    with pytest.raises(PostmillError, match=f"^tracker '{sick}': OSError: no room to finish$"), run:
        pass
    assert [tracker.status for tracker in told] == {
        "second": ["FAILED", "", "FINISHED"],
        "memory": ["", "FINISHED", "FINISHED"],
    }[sick]
    assert ("postmill.failed.second" in told[0].tags) == (sick == "second")
    assert [(event.status, event.error) for event in ended] == [
        ("FAILED", f"PostmillError: tracker '{sick}': OSError: no room to finish")
    ]


@pytest.mark.parametrize("tracker", ["memory", ["memory", "mlflow"], [{"type": "memory"}]])
def test_the_registry_wants_mlflow_first(lab: Any, tmp_path: Path, tracker: Any) -> None:
    """A recipe that registers is refused at its start where the run's id would mean nothing to the registry (B17)."""
    with pytest.raises(ConfigError, match=r"belongs to a run in MLflow, and 'memory' makes none; write tracker: \[mlf"):
        tracking(tmp_path, lab.plan, tracker, registered=True)
    assert tracking(tmp_path, lab.plan, ["mlflow", "memory"], registered=True).tracker.config.root == tmp_path
    assert tracking(tmp_path, lab.plan, tracker).run_id == ""


def test_a_list_survives_a_dump() -> None:
    """The configuration of several trackers reads back as it was written out (A36)."""
    config = RunTracking.Config.model_validate({"tracker": ["mlflow", {"type": "wandb", "api_key": "env:K"}]})
    dumped = config.model_dump(mode="json")
    assert [tracker["type"] for tracker in dumped["tracker"]] == ["mlflow", "wandb"]
    assert dumped["tracker"][1]["api_key"] == "env:K"
    assert RunTracking.Config.model_validate(dumped) == config


EVENTS: list[Event] = [
    SpeedChosen(
        choice={"threads": 2, "dtype": "bfloat16"},
        tried=[{"threads": 1, "dtype": "float32", "tokens_per_s": 7.5}, {"threads": 2, "tokens_per_s": 9.0}],
    ),
    CheckpointLoaded(path="checkpoints/step-3", step=3),
    a_step(4),
    TrainingAdapted(step=4, reason="out of memory", action="half the batch, twice the accumulation"),
    TrainingEvaluated(step=4, figures={"loss": 0.75, "rows": 6}),
    SampleGenerated(step=4, prompt="Wo bleibt das Zelt?", answer='{"category":"delivery"}'),
    SampleGenerated(step=8, prompt="?", answer="ä\nb"),
]


def test_training_is_told(lab: Any, tmp_path: Path) -> None:
    """Speed, resumption, evaluation, adaptation and samples of training are in the run afterwards (B17)."""
    run = tracking(tmp_path, lab.plan, "memory")
    with run:
        for event in EVENTS:
            run.workspace.bus.emit(event)
    assert not run.workspace.bus.failures
    told: Any = run.tracker
    assert (told.tags["speed.threads"], told.tags["speed.dtype"]) == ("2", "bfloat16")
    assert json.loads(told.tags["speed.tried"])[0]["dtype"] == "float32"
    assert told.tags["postmill.resumed_from"] == "step 3, checkpoints/step-3"
    assert told.tags["postmill.adapted.4"] == "out of memory; half the batch, twice the accumulation"
    assert (0, {"speed/threads": 2}) in told.points
    assert (1, {"speed/threads": 1, "speed/tokens_per_s": 7.5}) in told.points
    assert (4, {"eval/loss": 0.75, "eval/rows": 6}) in told.points
    assert [json.loads(line) for line in told.files["/samples.jsonl"].splitlines()] == [
        {"step": 4, "prompt": "Wo bleibt das Zelt?", "answer": '{"category":"delivery"}'},
        {"step": 8, "prompt": "?", "answer": "ä\nb"},
    ]


def several(lab: Any, *steps: dict[str, Any]) -> Any:
    """The recipe with these training steps."""
    first = lab.plan.train[0]
    train = [first.model_copy(update={"required": False, **step}) for step in steps]
    return lab.plan.model_copy(update={"train": [*train, first]})


def losses_of(run: RunTracking) -> dict[str, list[int]]:
    """Names of the losses that were written, and at which steps."""
    points: Any = run.tracker.points  # type: ignore[attr-defined]
    found: dict[str, list[int]] = {}
    for step, figures in points:
        for name in figures:
            if name.endswith("/loss"):
                found.setdefault(name, []).append(step)
    return found


def one_step(bus: Any, trainer: str) -> None:
    """A training step of two steps, from its begin to its end."""
    bus.emit(TrainingStarted(trainer=trainer))
    for step in (1, 2):
        bus.emit(a_step(step))
    bus.emit(TrainingEvaluated(step=2, figures={"loss": 1.0}))
    bus.emit(TrainingFinished(trainer=trainer, figures={"steps": 2}))
    bus.emit(StageFinished(stage="train", name=trainer, key="k", size=1))


def test_each_training_step_has_its_own_names(lab: Any, tmp_path: Path) -> None:
    """Of several training steps each writes under its place and type, so that none overwrites another (B8, B17)."""
    run = tracking(tmp_path, several(lab, {"type": "dpo"}), "memory")
    with run:
        bus = run.workspace.bus
        one_step(bus, "dpo")
        bus.emit(SpeedChosen(choice={"threads": 2}))
        bus.emit(TrainingAdapted(step=2, reason="out of memory", action="less"))
        one_step(bus, "sft")
    assert not bus.failures
    told: Any = run.tracker
    both = {"1-dpo": [1, 2], "2-sft": [1, 2]}
    expected = {f"train/{name}/loss": steps for name, steps in both.items()}
    assert losses_of(run) == expected | {f"eval/{name}/loss": [2] for name in both}
    assert (0, {"train/1-dpo/total_steps": 2}) in told.points
    assert (0, {"train/2-sft/total_steps": 2}) in told.points
    assert told.tags["speed.1-dpo.threads"] == "2"
    assert "postmill.adapted.1-dpo.2" in told.tags


@pytest.mark.parametrize("how", ["cached", "skipped", "failed", "switched off"])
def test_training_steps_that_are_passed_over(lab: Any, tmp_path: Path, how: str) -> None:
    """A step that is cached, skipped, failed or switched off keeps its place, also before one of its own type."""
    steps = {"enabled": False} if how == "switched off" else {}
    run = tracking(tmp_path, several(lab, steps, {}), "memory")
    skipped = StageSkipped(stage="train", name="sft", reason="it failed")
    with run:
        bus = run.workspace.bus
        if how == "cached":
            bus.emit(StageCached(stage="train", name="sft", key="k"))
        elif how == "failed":
            bus.emit(TrainingStarted(trainer="sft"))
            bus.emit(skipped)
        else:
            bus.emit(skipped)
        bus.emit(TrainingStarted(trainer="sft"))
        bus.emit(TrainingStarted(trainer="sft"))  # tried again
        bus.emit(a_step(1))
    assert losses_of(run) == {f"train/{1 if how == 'switched off' else 2}-sft/loss": [1]}


def test_one_training_step_that_is_on(lab: Any, tmp_path: Path) -> None:
    """With one step switched on, the names are those without a place."""
    run = tracking(tmp_path, several(lab, {"type": "dpo", "enabled": False}), "memory")
    with run:
        run.workspace.bus.emit(StageSkipped(stage="train", name="dpo", reason="switched off"))
        one_step(run.workspace.bus, "sft")
    assert losses_of(run) == {"train/loss": [1, 2], "eval/loss": [2]}


def test_steps_that_come_again(lab: Any, tmp_path: Path) -> None:
    """A step is written once, unless training went back: to the beginning, or to a checkpoint (B8)."""
    run = tracking(tmp_path, lab.plan, "memory")
    with run:
        bus = run.workspace.bus
        bus.emit(TrainingStarted(trainer="sft"))
        for step in (1, 2, 2, 1, 3):
            bus.emit(a_step(step))
        bus.emit(TrainingAdapted(step=3, reason="out of memory", action="less"))
        bus.emit(CheckpointLoaded(path="step-2", step=2))
        for step in (1, 2, 3, 4):
            bus.emit(a_step(step))
        bus.emit(TrainingAdapted(step=4, reason="out of memory", action="less"))
        bus.emit(a_step(1))
    assert not bus.failures
    assert losses_of(run) == {"train/loss": [1, 2, 3, 3, 4, 1]}


def test_no_samples_no_file(lab: Any, tmp_path: Path) -> None:
    """A run without samples has no file of them."""
    run = tracking(tmp_path, lab.plan, "memory")
    with run:
        pass
    assert run.tracker.files == {}  # type: ignore[attr-defined]


def test_samples_hold_no_secret(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model repeats of a secret is blotted out, as everywhere (C54)."""
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    run = tracking(tmp_path, lab.plan, "memory")
    with run:
        run.workspace.bus.emit(SampleGenerated(step=1, prompt="token?", answer="it is hf_0123456789"))
    assert "hf_0123456789" not in run.tracker.files["/samples.jsonl"]  # type: ignore[attr-defined]


def test_all_real_ones_at_once(lab: Any, tmp_path: Path) -> None:
    """MLflow, W&B, Comet and TensorBoard record the same training, and MLflow names the runs of the others (B17)."""
    pytest.importorskip("comet_ml")  # comes with postmill[comet]
    run = tracking(tmp_path, lab.plan, list(READERS), registered=True)
    with run:
        for event in EVENTS:
            run.workspace.bus.emit(event)
    assert not run.workspace.bus.failures
    ids = {"mlflow": run.run_id}
    ids |= {name: READERS["mlflow"](tmp_path, run.run_id).tags[f"postmill.run.{name}"] for name in READERS}
    assert ids["mlflow"] == run.run_id
    for name, read in READERS.items():
        seen = read(tmp_path, ids[name])
        assert seen.status == "FINISHED"
        assert seen.params["train.0.max_steps"] == "3"
        assert seen.tags["speed.dtype"] == "bfloat16"
        assert seen.metrics["train/loss"] == [(4, 0.5)]
        assert seen.metrics["eval/loss"] == [(4, 0.75)]
        assert sorted(seen.metrics["speed/tokens_per_s"]) == [(1, 7.5), (2, 9.0)]
        assert len(seen.files["samples.jsonl"].splitlines()) == 2
