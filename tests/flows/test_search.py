"""A search in a real run: trials as tasks, artifacts and tracked runs, and winners that are judged like any variant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.core.events import StageStarted, TrialFinished
from tests import tiny
from tests.flows.conftest import Run, run_pipeline

pytestmark = [pytest.mark.flow, pytest.mark.timeout(300)]

CACHE = {"type": "kv_cache", "cache": "quantized", "length": 8, "rounds": 1, "tokens": 2}


@pytest.fixture(scope="module")
def plain(_mlflow: None, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Any]:
    """Nothing is exported: what is tried here takes a moment."""
    root = tmp_path_factory.mktemp("searching")
    space = [
        [{"type": "merge_adapter"}, {"any": [None, {"type": "cast"}]}],
        [{"type": "merge_adapter"}, {**CACHE, "recent": 4, "bits": {"any": [8, 4]}}],
    ]
    search = {
        "space": space,
        "sampler": "grid",
        "parallel": 2,
        "budget": {"bytes": "500kB", "mean_kl": 0.5},
        "objectives": ["mean_kl", "bytes"],
        "quick": {"type": "agreement", "rows": 1},
        "measure": [{"type": "agreement", "rows": 2}],
        "keep": 2,
    }
    benchmark = [{"type": "exact_match", "rows": 1, "max_new_tokens": 2}, {"type": "agreement", "rows": 2}]
    gate = [{"type": "budget", "max": {"mean_kl": 1}}]
    made = tiny.recipe(root, tiny_model, name="search", optimize={"search": search}, benchmark=benchmark, gate=gate)
    del made["register"]
    return made | {"root": str(root)}


@pytest.fixture(scope="module")
def run(plain: dict[str, Any]) -> Run:
    root = Path(plain["root"])
    return run_pipeline(root, {key: value for key, value in plain.items() if key != "root"})


@pytest.fixture(scope="module")
def tracked(run: Run) -> Any:
    from components.trackers.mlflow import connect

    return connect(run.root)


def test_trials_are_told(run: Run) -> None:
    """Every chain of the grid is tried, in parallel batches, and what became of it is told in order (C39)."""
    trials = run.told(TrialFinished)
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert {trial.state for trial in trials} <= {"finished", "pruned"}
    assert not run.workspace.bus.failures


def test_equal_beginnings_are_made_once(run: Run) -> None:
    """Four chains that begin with the same pass do it once, also those that run at the same time (C39)."""
    merges = [event for event in run.told(StageStarted) if event.name.endswith("/merge_adapter")]
    stored = list((run.root / "artifacts" / "optimize").glob("*/manifest.json"))
    kinds = [json.loads(file.read_text(encoding="utf-8"))["identity"]["config"]["type"] for file in stored]
    assert kinds.count("merge_adapter") == 1
    assert len(merges) <= 2  # one that waited for the other had begun


def test_every_trial_is_a_run_below_the_run(run: Run, tracked: Any) -> None:
    """Each trial is a child run in MLflow with its chain and its figures (C39, F4)."""
    children = [
        found for found in tracked.search_runs(["1"]) if found.data.tags.get("mlflow.parentRunId") == run.outcome.run_id
    ]
    assert {found.info.run_name for found in children} == {f"search trial {number}" for number in range(4)}
    assert {found.info.status for found in children} == {"FINISHED"}
    first = next(found for found in children if found.info.run_name.endswith("0"))
    assert first.data.params["0.type"] == "merge_adapter"
    assert first.data.metrics["bytes"] > 0
    assert first.data.tags["postmill.trial"] == "finished"
    assert len(tracked.get_metric_history(run.outcome.run_id, "search/bytes")) == 4


def test_winners_are_judged_like_variants(run: Run) -> None:
    """The best within the budget are benchmarked and judged under the name of their trial (C39)."""
    figures = json.loads((run.root / "reports" / "search" / "figures.json").read_text(encoding="utf-8"))
    found = json.loads((run.root / "reports" / "search" / "search.json").read_text(encoding="utf-8"))
    assert len(found["winners"]) == 2
    assert set(figures) == {"base", "trained", *found["winners"]}
    assert set(run.outcome.accepted) == set(found["winners"])
    assert run.outcome.chosen in found["winners"]


def test_the_front_is_evidence(run: Run, tracked: Any) -> None:
    """Picture, page and table are attached to the run, and the report shows them (C39, F4)."""
    files = {Path(file.path).name for file in tracked.list_artifacts(run.outcome.run_id, "evidence")}
    assert files >= {"search.json", "pareto.png", "pareto.html"}
    report = (run.root / "reports" / "search" / "report.md").read_text(encoding="utf-8")
    assert "\n## search\n" in report
    assert "![Pareto front](pareto.png)" in report


def test_the_same_search_again_does_no_work(run: Run, plain: dict[str, Any]) -> None:
    """A second run finds every trial in the store, and comes to the same winners (A28)."""
    again = run_pipeline(run.root, run.plain)
    assert again.told(StageStarted) == []
    assert again.outcome.chosen == run.outcome.chosen
