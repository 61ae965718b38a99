"""Trials of a search: what is pruned, what is on the front, who wins, and what the report shows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.core.artifacts import Artifact
from components.core.errors import MissingExtraError, PostmillError
from components.core.events import StageSkipped, TrialFinished
from components.core.recipe import parse_recipe
from components.core.search import Search, Variants, parsed_chain
from components.interfaces import Subject
from components.services.benchmarking import BenchmarkService
from components.services.data import DataService
from components.services.elsewhere.turns import Turns
from components.services.model import ModelService
from components.services.optimization import OptimizationService
from components.services.search import PAGES, SearchService, read_search, search_markdown, variants
from components.services.training import TrainingService
from components.services.trials import Trial, front, winners
from components.services.workspace import Workspace
from flows.display_search import search_table
from tests import tiny

MERGE = {"type": "merge_adapter"}
QUANTIZED = {"type": "kv_cache", "cache": "quantized", "recent": 4, "length": 8, "rounds": 1, "tokens": 2}


def asked(space: list[Any], **changes: Any) -> Search:
    quick = {"type": "agreement", "rows": 1}
    plain = {"space": space, "sampler": "grid", "objectives": ["mean_kl", "bytes"], "quick": quick}
    return Search.model_validate({**plain, "measure": [{"type": "agreement", "rows": 2}], **changes})


def trial(number: int, mean_kl: float, size: float, **changes: Any) -> Trial:
    """A finished trial with these figures."""
    artifact = Artifact(
        path=Path(),
        kind="onnx",
        stage="optimize",
        key=str(number),
        digest=str(number),
        parents={},
        meta={},
        size=int(size),
    )
    made = Trial(number=number, chain=[MERGE], artifact=artifact, quick={"mean_kl": mean_kl})
    return made.ended("finished", figures={"mean_kl": mean_kl, "bytes": size}).model_copy(update=changes)


PLAIN = asked([[MERGE]])


def test_the_front() -> None:
    """On the front is whatever no other trial beats in every objective; pruned trials never are (C39)."""
    trials = [
        trial(0, 0.1, 50),
        trial(1, 0.2, 60),
        trial(2, 0.01, 90),
        trial(3, 0.3, 40),
        trial(4, 0, 1, state="pruned"),
    ]
    assert [each.number for each in front(trials, PLAIN)] == [0, 2, 3]
    assert [each.number for each in winners(trials, PLAIN)] == [2, 3]


def test_winners_keep_to_the_budget() -> None:
    """A winner is within the budget, and equal artifacts win once."""
    trials = [trial(0, 0.1, 50), trial(1, 0.01, 90)]
    trials.append(trials[0].model_copy(update={"number": 2}))
    tight = asked([[MERGE]], budget={"bytes": 80, "mean_kl": 0.2})
    assert [each.number for each in winners(trials, tight)] == [0]
    assert winners(trials, asked([[MERGE]], budget={"bytes": 10})) == []


def test_more_may_be_better() -> None:
    """A budget on a figure of which more is better is a lower limit."""
    search = asked([[MERGE]], budget={"top1_agreement": 0.9}, objectives=["top1_agreement", "bytes"])
    good, bad = (
        trial(number, 0.1, 50, figures={"top1_agreement": share, "bytes": 50 + number})
        for number, share in enumerate((0.95, 0.8))
    )
    assert winners([good, bad], search) == [good]


@dataclass(frozen=True)
class Lab:
    """A trained adapter and its rows; nothing is exported here, which would take longer than all of these tests."""

    workspace: Workspace
    dataset: Artifact
    base: Artifact
    trained: Artifact


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Lab:
    root = tmp_path_factory.mktemp("search")
    plan = parse_recipe(tiny.recipe(root, tiny_model))
    workspace = Workspace(root)
    base = ModelService(workspace).fetch(plan.model)
    dataset = DataService(workspace).validate(plan.data, base)
    return Lab(workspace, dataset, base, TrainingService(workspace).train(plan.train, base, dataset, plan.seed))


@pytest.fixture
def made(lab: Lab) -> Any:
    """The service, and what it is given."""
    passes, benchmarks = OptimizationService(lab.workspace), BenchmarkService(lab.workspace)
    trained = Subject(name="trained", artifact=lab.trained, parents={"model": lab.base})
    return SearchService(lab.workspace, passes, benchmarks), [Subject(name="base", artifact=lab.base), trained]


def ran(made: Any, lab: Lab, search: Search, *chains: list[Any], finished: tuple[Trial, ...] = ()) -> list[Trial]:
    service, subjects = made
    trials = list(finished)
    for chain in chains:
        fresh = Trial(number=len(trials), chain=chain)
        trials.append(service.run(search, fresh, subjects, lab.dataset, 17, list(trials)))
    return trials


def test_a_trial_is_measured_through_its_artifact(made: Any, lab: Lab) -> None:
    """A trial is an artifact with figures; the same chain again, under another number, does no work (C39)."""
    (first,) = ran(made, lab, PLAIN, [MERGE, {"type": "cast"}])
    assert (first.state, first.reason) == ("finished", "")
    assert first.artifact is not None
    assert lab.workspace.store.find("optimize", first.artifact.key)
    assert first.figures["bytes"] == first.artifact.size
    assert 0 < first.figures["mean_kl"] < 0.1
    told: list[str] = []
    off = lab.workspace.bus.on_any(lambda event: told.append(event.topic))
    again = made[0].run(PLAIN, Trial(number=7, chain=first.chain), made[1], lab.dataset, 17)
    off()
    assert again.figures == first.figures
    assert not {"stage.started", "pass.started", "benchmark.started"} & set(told)


def test_too_large_is_pruned_before_it_is_measured(made: Any, lab: Lab) -> None:
    """Outside the budget by size alone: nothing is measured, and the reason names both sizes (C39)."""
    (large,) = ran(made, lab, asked([[MERGE]], budget={"bytes": "100kB"}), [MERGE])
    assert large.state == "pruned"
    assert large.reason == "outside the budget: bytes 438 kB, the budget is 100 kB"
    assert (large.quick, set(large.figures)) == ({}, {"bytes"})


def test_dominated_is_pruned(made: Any, lab: Lab) -> None:
    """Larger and worse on the same few rows than a finished trial: the costly measures are not taken (C39)."""
    best = trial(0, 1e-9, 1000)
    _, second = ran(made, lab, PLAIN, [MERGE, {"type": "cast"}], finished=(best,))
    assert second.state == "pruned"
    assert second.reason.startswith("dominated by trial 0: mean_kl")
    assert "top1_agreement" not in second.figures


def test_nearly_as_good_is_not_pruned(made: Any, lab: Lab) -> None:
    """What differs by rounding, or is better in something, is measured."""
    (first,) = ran(made, lab, PLAIN, [MERGE])
    _, larger = ran(made, lab, PLAIN, [MERGE, {"type": "cast"}], finished=(first,))
    assert larger.state == "finished"


def test_what_fails_is_a_failed_trial(made: Any, lab: Lab) -> None:
    """A chain that fails is on record with its reason, and the search goes on; if all fail, that is an error."""
    service, _ = made
    broken = [MERGE, {"type": "kv_cache", "cache": "offloaded"}]
    trials = ran(made, lab, PLAIN, broken, [MERGE])
    assert [each.state for each in trials] == ["failed", "finished"]
    assert "there is no GPU here" in trials[0].reason
    with pytest.raises(PostmillError, match="every trial of the search failed; the first one: ModelLoadError"):
        service.report(PLAIN, trials[:1], lab.trained)


def test_nothing_within_the_budget(made: Any, lab: Lab) -> None:
    """A search without a winner is told as a skipped step, with what stood in the way."""
    skipped: list[StageSkipped] = []
    off = lab.workspace.bus.on(StageSkipped, skipped.append)
    search = asked([[MERGE]], budget={"bytes": 1})
    trials = ran(made, lab, search, [MERGE])
    report = made[0].report(search, trials, lab.trained)
    off()
    assert variants(search, trials) == {}
    assert report.meta["winners"] == {}
    assert "none of 1 trials is within the budget (trial 0: outside the budget: bytes" in skipped[0].reason


def test_every_trial_is_told(made: Any, lab: Lab) -> None:
    """What became of a trial is on the bus, with its chain and its artifact."""
    told: list[TrialFinished] = []
    off = lab.workspace.bus.on(TrialFinished, told.append)
    (only,) = ran(made, lab, PLAIN, [MERGE])
    made[0].tell(only)
    off()
    assert (told[0].number, told[0].state, told[0].chain) == (0, "finished", [MERGE])
    assert told[0].artifact == f"optimize/{only.artifact.key}"  # type: ignore[union-attr]


def test_timings_are_taken_alone(made: Any) -> None:
    """While a pass or a benchmark that measures time is on, nothing else of the search runs."""
    from threading import Thread

    turns, seen = Turns(), list[str]()

    def work(name: str, alone: bool) -> None:
        with turns.taken(alone):
            seen.append(f"{name} in")
            seen.append(f"{name} out")

    with turns.taken(alone=True):
        threads = [Thread(target=work, args=(name, name == "timed")) for name in ("a", "b", "timed")]
        for thread in threads:
            thread.start()
        assert seen == []
    for thread in threads:
        thread.join(10)
    assert sorted(seen) == sorted(f"{name} {way}" for name in ("a", "b", "timed") for way in ("in", "out"))
    at = seen.index("timed in")
    assert seen[at + 1] == "timed out"


# ---------------------------------------------------------------- the report


@pytest.fixture
def report(made: Any, lab: Lab) -> Any:
    """The report of a search of every fate."""
    search = asked([[MERGE]], budget={"bytes": "300kB"})
    chains = ([MERGE, {"type": "cast"}], [MERGE], [MERGE, {"type": "kv_cache", "cache": "offloaded"}])
    return made[0].report(search, ran(made, lab, search, *chains), lab.trained)


def test_report(report: Any) -> None:
    """The report holds table, picture and page; the page needs no network (C39)."""
    assert {file.name for file in report.path.iterdir()} >= set(PAGES)
    found = read_search(report)
    assert [each["state"] for each in found["trials"]] == ["finished", "pruned", "failed"]
    assert found["winners"] == {"search-0": 0}
    assert (report.path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    page = (report.path / "pareto.html").read_text(encoding="utf-8")
    assert "merge_adapter &gt; cast" in page
    assert "Plotly.newPlot" in page
    assert '<script src="http' not in page


def test_tables(report: Any) -> None:
    """Terminal and Markdown show every trial with what became of it."""
    found = read_search(report)
    table = search_table(found)
    assert table.row_count == 3
    text = search_markdown(found)
    assert "| 0 | `merge_adapter > cast` |" in text
    assert "search-0" in text
    assert "outside the budget: bytes" in text


def test_missing_extra(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without optuna or plotly the search is refused before any work, with the extra that brings them; a recipe without
    a search needs neither."""
    passes, variants = OptimizationService(lab.workspace), Variants({"merged": parsed_chain([MERGE])})
    variants.search = PLAIN
    passes.require(variants, lab.base)
    monkeypatch.setattr("components.core.chains.find_spec", lambda module: None)
    with pytest.raises(MissingExtraError, match=r"'optuna', which .*'plotly', which .*'postmill\[search\]'"):
        passes.require(variants, lab.base)
    variants.search = None
    passes.require(variants, lab.base)


def test_names_in_the_json(report: Any) -> None:
    """The JSON file is plain data: objectives with their direction, the budget, the front."""
    found = json.loads((report.path / "search.json").read_text(encoding="utf-8"))
    assert [(each["name"], each["better"]) for each in found["objectives"]] == [
        ("mean_kl", "lower"),
        ("bytes", "lower"),
    ]
    assert found["budget"] == {"bytes": 300_000}
    assert found["front"] == [0]
