"""What every tracker promises, on a database in a temporary folder."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from components.core.kinds import registry
from components.services.tracking import RunTracking, _flatten
from components.services.workspace import Workspace
from components.trackers.mlflow import connect
from tests.contract.common import check_component, named


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose database is made once."""
    return tmp_path_factory.mktemp("tracking")


@named("tracker")
def test_component(name: str) -> None:
    """Every tracker is described and strictly configured (A27)."""
    check_component("tracker", name)


@named("tracker")
def test_everything_lands_in_the_database(name: str, root: Path, tmp_path: Path) -> None:
    """Parameters, tags, metrics with their steps, files and the outcome are all there afterwards (E10, B17)."""
    tracker = registry.create("tracker", name, root=root)
    run_id = tracker.start("a run", {"seed": 17, "long": "x" * 7000}, {"git.commit": "abc"})
    tracker.tag({"more": "tags"})
    for step in (1, 2, 3):
        tracker.metrics([(step, {"loss": 1 / step, "speed": 5.0})])
    note = tmp_path / "note.md"
    note.write_text("evidence")
    tracker.file(note, "evidence")
    tracker.finish("FINISHED")
    client = connect(root)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "17"
    assert run.data.params["long"] == "x" * 6000
    assert (run.data.tags["git.commit"], run.data.tags["more"]) == ("abc", "tags")
    assert [(m.step, round(m.value, 3)) for m in client.get_metric_history(run_id, "loss")] == [
        (1, 1.0),
        (2, 0.5),
        (3, 0.333),
    ]
    assert [file.path for file in client.list_artifacts(run_id, "evidence")] == ["evidence/note.md"]
    assert list((root / "mlruns" / "artifacts").rglob("note.md"))


def test_database_takes_readers_and_a_writer(root: Path) -> None:
    """The embedded database writes ahead, so that the UI can read while a run writes."""
    connect(root)
    with sqlite3.connect(root / "mlruns" / "mlflow.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_connecting_again_changes_nothing(root: Path) -> None:
    """There is one experiment however often a run starts."""
    ids = {connect(root).get_experiment_by_name("postmill").experiment_id for _ in range(2)}
    assert len(ids) == 1


def test_run_tracking_writes_what_happens(root: Path, lab: Any) -> None:
    """Losses, benchmark figures and stages reach the tracked run through the bus (B8)."""
    workspace = Workspace(root)
    with RunTracking(workspace, lab.plan) as run:
        emit_a_run(workspace)
    found = connect(root).get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params["train.0.max_steps"] == "3"
    assert found.data.metrics["train/loss"] == 0.5
    assert found.data.metrics["int4/mean_kl"] == 0.25
    assert found.data.metrics["data/rows_train"] == 24
    assert found.data.tags["artifact.train.sft"] == "k1"
    assert found.data.tags["artifact.model.pretrained"] == "k2 (cached)"
    assert len(found.data.tags["postmill.recipe"]) == 64
    assert workspace.bus.failures == []
    assert len(connect(root).get_metric_history(run.run_id, "train/loss")) == 12


def emit_a_run(workspace: Workspace) -> None:
    """The events of a small run."""
    bus = workspace.bus
    bus.emit("data.validated", rows={"train": 24, "eval": 6}, quarantined={"train": 0, "eval": 0})
    bus.emit("stage.cached", stage="model", name="pretrained", key="k2")
    bus.emit("stage.started", stage="train", name="sft")
    for step in range(1, 13):
        bus.emit("train.step", step=step, total=12, loss=0.5, grad_norm=1.0, learning_rate=0.1, tokens_per_s=10.0)
    bus.emit("train.summary", steps=12, final_loss=0.5, losses=[0.5])
    bus.emit("stage.finished", stage="train", name="sft", key="k1", size=10)
    bus.emit("benchmark.measured", benchmark="agreement", subject="int4", metrics={"mean_kl": 0.25})


def fail_after(run: RunTracking, step: dict[str, Any]) -> None:
    """One step of training, then no disk."""
    with run:
        run.workspace.bus.emit("train.step", **step)
        raise RuntimeError("disk is full")


def test_failed_run_says_why(root: Path, lab: Any) -> None:
    """A run that raises is closed as failed, with the error, and the last losses are not lost."""
    workspace = Workspace(root)
    step = {"step": 1, "total": 3, "loss": 9.0, "grad_norm": 1.0, "learning_rate": 0.1, "tokens_per_s": 10.0}
    run = RunTracking(workspace, lab.plan)
    with pytest.raises(RuntimeError, match="disk"):
        fail_after(run, step)
    found = connect(root).get_run(run.run_id)
    assert found.info.status == "FAILED"
    assert found.data.tags["postmill.error"] == "RuntimeError: disk is full"
    assert found.data.metrics["train/loss"] == 9.0
    workspace.bus.emit("train.step", **step)
    assert workspace.bus.failures == []


def test_parameters_are_the_keys_of_set() -> None:
    """A recipe becomes flat parameters under the names that `--set` takes."""
    flat = _flatten({"train": [{"lr": 1, "lora": {"targets": ["a", "b"]}}], "gate": [], "seed": 1})
    assert flat == {"train.0.lr": 1, "train.0.lora.targets": ["a", "b"], "gate": [], "seed": 1}
