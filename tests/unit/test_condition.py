"""Passes under a condition (`when`): how it is written, what it is refused for, when it lets its pass run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from components.core.artifacts import Artifact, Identity
from components.core.component import StrictConfig
from components.core.condition import Condition, numbers, show
from components.core.errors import ConfigError, PostmillError, StepSkipped
from components.core.events import Event, StageSkipped
from components.core.kinds import registry
from components.core.recipe import Recipe, parse_recipe
from components.core.schema import recipe_schema
from components.core.search import Search, Variants, parsed_chain
from components.interfaces import Pass, Scoreboard, StepContext
from components.services import optimization
from components.services.evidence import markdown
from components.services.model import ModelService
from components.services.optimization import OptimizationService
from components.services.tracking import RunTracking
from components.services.workspace import Workspace
from flows.display import Display
from flows.plan import steps
from tests import tiny

ABOVE = {"above": {"bytes": "1kB"}}
BELOW = {"below": {"bytes": "1kB"}}


class Shrink(Pass):
    """Takes bytes away, and records figures."""

    consumes = ("model",)
    produces = "model"

    class Config(StrictConfig):
        by: int = 0
        mean_kl: float | None = None
        error: str = ""
        effect: str = ""

    @classmethod
    def effects(cls, config: Any) -> frozenset[str]:
        return frozenset({config.effect} if config.effect else ())

    def estimated_memory(self, parameters: int) -> int:
        return parameters

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        if self.config.error:
            raise OSError(self.config.error)
        (out / "weights").write_bytes((source.path / "weights").read_bytes()[self.config.by :])
        measured = {} if self.config.mean_kl is None else {"mean_kl": self.config.mean_kl}
        return {**measured, "parity": {"kl": 0.5, "exact": True}}


class Picky(Shrink):
    """Cannot follow what was marked."""

    not_after = frozenset({"marked"})


class Needy(Shrink):
    """Can only follow what was marked."""

    @classmethod
    def refusal(cls, config: Any, kind: str, effects: frozenset[str]) -> str | None:
        return None if "marked" in effects else "wants a mark"


class Turn(Shrink):
    """Turns a model into something else."""

    produces = "onnx"


@pytest.fixture(autouse=True, scope="module")
def components() -> Iterator[None]:
    """Throw-away passes, forgotten at the end."""
    with registry.owned_by("test"):
        for name, cls in {"shrink": Shrink, "picky": Picky, "needy": Needy, "turn": Turn}.items():
            registry.add("pass", name, cls)
    yield
    with registry.owned_by("test"):
        registry.forget("test")


@pytest.fixture
def base(workspace: Workspace) -> Artifact:
    """A model of 2000 bytes."""

    def make(out: Path) -> dict[str, Any]:
        (out / "weights").write_bytes(bytes(2000))
        return {"parameters": 500, "mean_kl": 9}

    identity = Identity(stage="model", config={}, parents={}, code="", versions={})
    return workspace.store.build(identity, "model", {}, make)


@pytest.fixture
def told(workspace: Workspace) -> list[Event]:
    told: list[Event] = []
    workspace.bus.on_any(told.append)
    return told


def reasons(told: list[Event]) -> list[str]:
    return [event.reason for event in told if isinstance(event, StageSkipped)]


def shrink(by: int = 0, type: str = "shrink", **more: Any) -> dict[str, Any]:
    return {"type": type, "by": by, **more}


def made(workspace: Workspace, source: Artifact, *chain: dict[str, Any]) -> Artifact:
    return OptimizationService(workspace).variant("small", parsed_chain(list(chain)), source, 17)


def written(tmp_path: Path, *chain: dict[str, Any], **changes: Any) -> Recipe:
    """The tiny recipe with one variant, of a trainer that gives a whole model."""
    plain = tiny.recipe(tmp_path, tmp_path / "model", optimize={"small": list(chain)}, **changes)
    plain["train"][0]["lora"] = None
    return parse_recipe(plain)


def problems(tmp_path: Path, *chain: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        written(tmp_path, *chain)
    return caught.value.problems


# ---------------------------------------------------------------- how it is written


def test_sizes_and_numbers() -> None:
    """A limit is a number, or a size with its unit like in a budget; the condition reads as a sentence (C29)."""
    found = Condition.model_validate({"above": {"bytes": "200MB", "mean_kl": 0.05}, "below": {"parameters": 10**9}})
    assert found.above == {"bytes": 200e6, "mean_kl": 0.05}
    assert str(found) == "bytes above 200 MB and mean_kl above 0.05 and parameters below 1,000,000,000"


def test_a_recipe_with_a_condition(tmp_path: Path) -> None:
    """A condition survives dump, YAML and overrides, is no part of a pass's identity, and the plan shows it (C29)."""
    recipe = written(tmp_path, shrink(1, when=ABOVE, required=False), shrink(2))
    first, second = recipe.optimize["small"]
    assert first.dump()["when"] == {"above": {"bytes": 1000.0}}
    assert "when" not in second.dump()
    assert parse_recipe(recipe.dump()) == parse_recipe(yaml.safe_load(yaml.safe_dump(recipe.dump()))) == recipe
    assert first.identity() == written(tmp_path, shrink(1)).optimize["small"][0].identity()
    changed = recipe.with_updates({"optimize.small.0.when.above.bytes": "3kB"})
    assert changed.optimize["small"][0].when == Condition(above={"bytes": 3000})
    assert recipe.with_updates({"optimize.small.0.when": None}).optimize["small"][0].when is None
    line = next(line for line in steps(recipe) if line.startswith("optimize"))
    assert line == "optimize  small: shrink [when bytes above 1.0 kB] [may fail] -> shrink"


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ({}, "when: name a figure and its limit, for example when: {above: {bytes: 200MB}}"),
        ({"size": {"bytes": 1}}, "when.size: unknown key 'size' (known: above, below)"),
        ({"above": {"bytes": "3XB"}}, "when.above.bytes: unknown unit 'XB'; known: B, KB"),
        ({"above": {"bytes": "many"}}, "when.above.bytes: Input should be a valid number"),
        ({"above": {"bytes": float("nan")}}, "when.above.bytes: Input should be a finite number"),
        ("always", "when: Input should be a valid dictionary"),
        (
            {"above": {"bytes": "2kB"}, "below": {"bytes": "1kB"}},
            "when: nothing is bytes above 2.0 kB and bytes below 1.0 kB; the pass would never run",
        ),
    ],
    ids=["empty", "key", "unit", "text", "nan", "shape", "never"],
)
def test_conditions_that_are_none(tmp_path: Path, when: Any, said: str) -> None:
    """Whatever is wrong with a condition is told with its place when the recipe is read (C29, A38)."""
    (problem,) = problems(tmp_path, shrink(when=when))
    assert problem.startswith(f"optimize.small.0.{said}")


def test_a_misspelt_condition(tmp_path: Path) -> None:
    """The key that was meant is named (A38)."""
    (problem,) = problems(tmp_path, shrink(wen=ABOVE))
    assert problem == "optimize.small.0.wen: unknown key 'wen'; did you mean 'when'?"


@pytest.mark.parametrize("section", ["model", "train", "benchmark", "gate"])
def test_only_passes_have_one(tmp_path: Path, section: str) -> None:
    """Other components, and passes that do not stand in a chain of the recipe, refuse the key with the reason (C29)."""
    plain = tiny.recipe(tmp_path, tmp_path / "model")
    part = plain[section] if section == "model" else plain[section][0]
    part["when"] = ABOVE
    at = section if section == "model" else f"{section}.0"
    with pytest.raises(ConfigError) as caught:
        parse_recipe(plain)
    said = f"{at}.when: only a pass in a chain of 'optimize' may have a condition; take it out"
    assert caught.value.problems == [said]


def test_a_pass_inside_a_pass_has_none(tmp_path: Path) -> None:
    """The base of `onnx_adapters` is no chain of the recipe: a condition there would never be asked (C29)."""
    plain = tiny.recipe(tmp_path, tmp_path / "model")
    plain["optimize"] = {"swap": [{"type": "onnx_adapters", "base": [{"type": "onnx", "when": ABOVE}]}]}
    with pytest.raises(ConfigError, match=r"swap\.0\.base\.0\.when: only a pass in a chain of 'optimize'"):
        parse_recipe(plain)


def test_the_schema_knows_it(tmp_path: Path) -> None:
    """Editors accept a condition of a pass, and no other key in it and no other place for it (A38, C29)."""
    jsonschema = pytest.importorskip("jsonschema")
    check = jsonschema.Draft202012Validator(recipe_schema()).is_valid
    plain = written(tmp_path, shrink(when=ABOVE)).dump()
    assert check(plain)
    plain["optimize"]["small"][0]["when"] = {"above": {"bytes": "1kB"}, "below": {"mean_kl": 0.1}}
    assert check(plain)
    plain["optimize"]["small"][0]["when"]["over"] = {}
    assert not check(plain)
    plain["optimize"]["small"][0]["when"] = None
    assert check(plain)
    plain["train"][0]["when"] = ABOVE
    assert not check(plain)


# ---------------------------------------------------------------- whether the chain fits in every case


def test_it_gives_what_it_takes(tmp_path: Path) -> None:
    """A pass that turns one kind into another has no condition: nothing could follow it in both cases (C29)."""
    (problem,) = problems(tmp_path, shrink(type="turn", when=ABOVE))
    assert problem.startswith("optimize.small.0: pass 'turn' has a condition ('when') and turns model into onnx")
    plain = tiny.recipe(tmp_path, tmp_path / "model")
    plain["optimize"] = {"small": [{"type": "merge_adapter", "when": ABOVE}]}
    with pytest.raises(ConfigError, match="turns adapter into model"):
        parse_recipe(plain)


def test_effects_of_what_may_run(tmp_path: Path) -> None:
    """What must not follow an effect does not follow a pass that may have it (C29)."""
    (problem,) = problems(tmp_path, shrink(effect="marked", when=ABOVE), shrink(type="picky"))
    assert problem == (
        "optimize.small.1: pass 'picky' cannot follow a pass that leaves the model marked (it may come to that: a pass "
        "before it runs under a condition; drop its 'when', or this pass)"
    )
    assert written(tmp_path, shrink(effect="marked", when=ABOVE), shrink(), shrink(effect="marked", when=BELOW))


def test_effects_of_what_may_not_run(tmp_path: Path) -> None:
    """What needs an effect is refused where the pass that has it may be passed over, and told so; after one that
    always runs it is fine (C29)."""
    (problem,) = problems(tmp_path, shrink(effect="marked", when=ABOVE), shrink(type="needy"))
    assert problem.startswith("optimize.small.1: pass 'needy' wants a mark (it may come to that: a pass before it runs")
    assert problems(tmp_path, shrink(type="needy")) == ["optimize.small.0: pass 'needy' wants a mark"]
    assert written(tmp_path, shrink(effect="marked"), shrink(type="needy", when=ABOVE))


def test_what_is_off_is_not_asked(tmp_path: Path) -> None:
    """A pass that is switched off may have any condition, and its effects do not count (C67)."""
    off = {"when": {"above": {"nothing": 1}}, "enabled": False, "effect": "marked"}
    assert written(tmp_path, shrink(**off), shrink(type="picky"))


def test_figures_of_a_first_pass(tmp_path: Path) -> None:
    """Before any pass has run only bytes and parameters are known: anything else is refused before training (C29)."""
    assert problems(tmp_path, shrink(when={"above": {"byte": 1}})) == [
        "optimize.small.0: pass 'shrink' asks in its 'when' for 'byte'; did you mean 'bytes'? (known there: bytes, "
        "parameters)"
    ]
    assert written(tmp_path, shrink(), shrink(when={"above": {"whatever it measures": 1}}))


# ---------------------------------------------------------------- whether it runs


@pytest.mark.parametrize(
    ("when", "runs"),
    [
        (ABOVE, True),
        (BELOW, False),
        ({"above": {"bytes": 2000}}, False),
        ({"below": {"bytes": 2000}}, False),
        ({"above": {"bytes": 1999}, "below": {"bytes": 2001}}, True),
        ({"above": {"bytes": 1}, "below": {"parameters": 500}}, False),
        ({"above": {"bytes": 1}, "below": {"parameters": 501}}, True),
    ],
    ids=str,
)
def test_when_it_runs(workspace: Workspace, told: list[Event], base: Artifact, when: Any, runs: bool) -> None:
    """It runs if all limits are met, strictly; otherwise it is passed over, and nothing else happens (C29)."""
    found = made(workspace, base, shrink(100, when=when))
    assert found.size == (1900 if runs else 2000)
    assert (found == base) != runs
    assert len(reasons(told)) == (not runs)


def test_the_rest_goes_on(workspace: Workspace, told: list[Event], base: Artifact) -> None:
    """The chain without the step gives the same artifact, from the store; and so does one in which the step runs
    without being asked (C29, A28)."""
    without = made(workspace, base, shrink(100), shrink(50))
    told.clear()
    assert made(workspace, base, shrink(100), shrink(7, when=BELOW), shrink(50)) == without
    assert made(workspace, base, shrink(100, when=ABOVE), shrink(50, when=ABOVE)) == without
    assert {event.topic for event in told} == {"stage.cached", "stage.skipped"}


def test_it_is_asked_of_what_stands_before_it(workspace: Workspace, told: list[Event], base: Artifact) -> None:
    """The figures are those of what the pass would start from: what a pass before it took away is gone (C29)."""
    found = made(workspace, base, shrink(1500), shrink(7, when=ABOVE), shrink(9, when=BELOW))
    assert found.size == 491
    assert reasons(told) == ["its condition ('when') is not met: bytes is 500 B, not above 1.0 kB"]


def test_recorded_figures(workspace: Workspace, told: list[Event], base: Artifact) -> None:
    """What passes recorded may be asked for, in sections too; of several the newest counts, and one that a later pass
    says nothing about stays known (C29)."""
    near, far = {"below": {"mean_kl": 0.1}}, {"above": {"mean_kl": 0.1}}
    chain = [shrink(1, mean_kl=0.3), shrink(2, when=near), shrink(4, mean_kl=0.02), shrink(8), shrink(16, when=near)]
    chain += [shrink(32, when=far), shrink(64, when={"above": {"parity.kl": 0.4}})]
    assert made(workspace, base, *chain).size == 2000 - 1 - 4 - 8 - 16 - 64
    assert reasons(told) == [
        "its condition ('when') is not met: mean_kl is 0.3, not below 0.1",
        "its condition ('when') is not met: mean_kl is 0.02, not above 0.1",
    ]


def test_a_figure_that_is_not_there(workspace: Workspace, base: Artifact) -> None:
    """A figure that nobody recorded is one error that names it, the nearest, and all that are there; `required: false`
    does not hide it, and figures of training are none of a pass (C29)."""
    asked = shrink(when={"above": {"mean_kl": 1}}, required=False)
    with pytest.raises(ConfigError) as caught:
        made(workspace, base, shrink(), asked)
    known = "bytes, parameters, parity.kl, bytes_before, bytes_after, seconds"
    assert str(caught.value) == (
        f"optimize.small/shrink: the pass asks in its 'when' for 'mean_kl' (known there: {known})"
    )
    with pytest.raises(ConfigError, match=r"'mean_kll'; did you mean 'mean_kl'\?"):
        made(workspace, base, shrink(mean_kl=0.1), shrink(when={"above": {"mean_kll": 1}}))


def test_a_figure_of_a_pass_that_did_not_run(workspace: Workspace, base: Artifact, told: list[Event]) -> None:
    """What a pass would have recorded that was passed over counts as not met, and the reason names that pass (C29)."""
    chain = (shrink(mean_kl=0.1, when=BELOW), shrink(by=500, when={"above": {"mean_kl": 0.01}}))
    assert made(workspace, base, *chain) == base
    assert "asks in its 'when' for 'mean_kl'" in reasons(told)[1]
    assert reasons(told)[1].endswith("and shrink did not run")


def test_a_figure_that_is_no_number() -> None:
    """A figure that is not a number meets no limit, and the reason says so (C29)."""
    not_a_number = Condition(above={"x": 1}).unmet({"x": float("nan")})
    assert not_a_number == "its condition ('when') is not met: x is nan, not above 1"
    assert "not below 1" in Condition(below={"x": 1}).unmet({"x": float("nan")})


def test_failing_is_not_passing_over(workspace: Workspace, base: Artifact) -> None:
    """A pass whose condition is met and that fails ends its variant, as any other pass does (C50)."""
    with pytest.raises(OSError, match="broken"):
        made(workspace, base, shrink(error="broken", when=ABOVE))
    with pytest.raises(StepSkipped, match="OSError: broken"):
        made(workspace, base, shrink(error="broken", when=ABOVE, required=False))
    assert made(workspace, base, shrink(error="broken", when=BELOW)) == base


def test_how_figures_are_shown() -> None:
    """Sizes have a unit, whole numbers are whole, others are short; truth values and text are no figures (C29)."""
    assert [
        show("bytes", 2e8),
        show("parity.bytes_after", 999),
        show("parameters", 1e9),
        show("mean_kl", 0.01234567),
    ] == [
        "200 MB",
        "999 B",
        "1,000,000,000",
        "0.01235",
    ]
    assert dict(numbers({"a": 1, "b": True, "c": "x", "d": {"e": 2.5, "f": [3]}})) == {"a": 1, "d.e": 2.5}


# ---------------------------------------------------------------- who is told


def test_console_and_report(tmp_path: Path, workspace: Workspace, base: Artifact) -> None:
    """The reason with both numbers stands in the terminal, in the tracker's notes and in the report; of two steps of
    one name both do (C29, F4)."""
    recipe = written(tmp_path, shrink(1, when=BELOW), shrink(2, when={"above": {"parameters": "1GB"}}))
    console = Console(record=True, width=200, force_terminal=False)
    with RunTracking(workspace, recipe) as run, Display(console, workspace.bus):
        OptimizationService(workspace).variant("small", recipe.optimize["small"], base, 17)
        notes = run.notes()
    both = [
        "its condition ('when') is not met: bytes is 2.0 kB, not below 1.0 kB",
        "its condition ('when') is not met: parameters is 500, not above 1,000,000,000",
    ]
    assert notes == {"optimize small/shrink": "; ".join(both)}
    text = console.export_text()
    assert all(f"optimize  small/shrink: skipped: {reason}" in text for reason in both)
    report = markdown(recipe, Scoreboard([]), None, notes)
    assert f"- optimize small/shrink: {'; '.join(both)}" in report


# ---------------------------------------------------------------- before any work


def test_memory_of_what_may_not_run(workspace: Workspace, base: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is asked for as much as the largest model takes that the condition lets through (C29)."""
    monkeypatch.setattr(optimization, "free_memory", lambda: 400)
    service = OptimizationService(workspace)
    with pytest.raises(PostmillError, match="needs about 500 B of memory"):
        service.require(Variants({"small": parsed_chain([shrink()])}), base)
    service.require(Variants({"small": parsed_chain([shrink(when={"below": {"parameters": 300}})])}), base)


def test_in_a_search(workspace: Workspace) -> None:
    """Limits may be searched for, and the space is checked like a chain (C29, C39)."""
    limits = {"above": {"bytes": {"any": ["1kB", "2kB"]}}}
    search = Search.model_validate({"space": [[shrink(1), shrink(2, when=limits)]], "sampler": "grid"})
    assert len(search.chains()) == 2
    assert list(search.unfit("model")) == []
    wrong = Search.model_validate({"space": [[shrink(1), shrink(type="turn", when=limits)]], "sampler": "grid"})
    (problem,) = wrong.unfit("model")
    assert problem.startswith("optimize.search.space.0: pass 'turn' has a condition ('when') and turns model into onnx")


def test_optimizing_a_model(tmp_path: Path, tiny_model: Path) -> None:
    """`ModelService.optimize` reports the passes that ran; one that was passed over is none of them (B14, C27, C29)."""
    models = ModelService(Workspace(tmp_path))
    small, large = {"below": {"bytes": "1kB"}}, {"above": {"probe_mean_kl": 0, "bytes": "1kB"}}
    chain = [{"type": "cast", "when": small}, "cast", {"type": "cast", "dtype": "float16", "when": large}]
    result = models.optimize(str(tiny_model), chain)
    assert [step.facts["dtype"] for step in result.steps] == ["bfloat16", "float16"]
    again = models.optimize(result.artifact, [{"type": "cast", "when": {"above": {"probe_mean_kl": 1}}}])
    assert (again.steps, again.artifact) == ((), result.artifact)
    with pytest.raises(ConfigError, match=r"asks in its 'when' for 'mean_kl'.* \(known there: .*probe_mean_kl"):
        models.optimize(result.artifact, [{"type": "cast", "when": {"above": {"mean_kl": 1}}}])
