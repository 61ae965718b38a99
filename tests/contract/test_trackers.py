"""What every tracker promises, on a database in a temporary folder."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from components.core.artifacts import hash_json
from components.core.component import StrictConfig
from components.core.errors import ConfigError
from components.core.events import (
    BenchmarkMeasured,
    DataValidated,
    Event,
    MetricLogged,
    RunFinished,
    RunStarted,
    StageCached,
    StageFinished,
    StageStarted,
    TrainingFinished,
    TrainStep,
)
from components.core.kinds import registry
from components.core.plugins import Report
from components.core.recipe import parse_recipe
from components.core.secret import Secret
from components.core.settings import Settings
from components.interfaces import Tracker
from components.services.application import Application
from components.services.tracking import RunTracking, _flatten
from components.services.workspace import Workspace
from components.trackers.mlflow import MlflowTracker, connect
from tests import tiny
from tests.contract.common import check_component, named


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose database is made once."""
    return tmp_path_factory.mktemp("tracking")


@named("tracker")
def test_component(name: str) -> None:
    """Every tracker is described and strictly configured (A27)."""
    check_component("tracker", name)


def test_long_parameters_are_cut(root: Path) -> None:
    """MLflow takes 6000 characters of a parameter; the whole recipe is among the files (E10, B17)."""
    tracker = registry.create("tracker", "mlflow", root=root)
    run_id = tracker.start("a run", {"long": "x" * 7000}, {})
    tracker.finish("FINISHED")
    assert connect(root).get_run(run_id).data.params["long"] == "x" * 6000


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
    speeds = {"train/grad_norm": 1.0, "train/learning_rate": 0.1, "train/tokens_per_s": 10.0}
    totals = {"train/total_steps": 12, "train/total_final_loss": 0.5}
    assert found.data.metrics.items() >= ({"train/loss": 0.5} | speeds | totals).items()
    assert found.data.metrics["int4/mean_kl"] == 0.25
    assert found.data.metrics["data/rows_train"] == 24
    assert found.data.tags["artifact.train.sft"] == "k1"
    assert found.data.tags["artifact.model.pretrained"] == "k2 (cached)"
    assert len(found.data.tags["postmill.recipe"]) == 64
    assert not workspace.bus.failures
    assert len(connect(root).get_metric_history(run.run_id, "train/loss")) == 12


def emit_a_run(workspace: Workspace) -> None:
    """The events of a small run."""
    bus = workspace.bus
    bus.emit(DataValidated(rows={"train": 24, "eval": 6}, quarantined={"train": 0, "eval": 0}))
    bus.emit(StageCached(stage="model", name="pretrained", key="k2"))
    bus.emit(StageStarted(stage="train", name="sft"))
    for step in range(1, 13):
        bus.emit(a_step(step, 0.5))
    bus.emit(TrainingFinished(trainer="sft", figures={"steps": 12, "final_loss": 0.5, "losses": [0.5]}))
    bus.emit(StageFinished(stage="train", name="sft", key="k1", size=10))
    bus.emit(BenchmarkMeasured(benchmark="agreement", subject="int4", metrics={"mean_kl": 0.25}))


def a_step(step: int, loss: float) -> TrainStep:
    """A step of training with everything that our trainer measures."""
    figures = {"grad_norm": 1.0, "learning_rate": 0.1}
    return TrainStep(step=step, total=12, loss=loss, tokens_per_s=10.0, figures=figures)


def test_metrics_of_others_are_written(root: Path, lab: Any) -> None:
    """Figures that a component or plugin announces land in the run under their own names and steps (B5, B8)."""
    workspace = Workspace(root)
    with RunTracking(workspace, lab.plan) as run:
        for step in (1, 2):
            workspace.bus.emit(MetricLogged(values={"acme/heat": 20.0 + step}, step=step))
    history = connect(root).get_metric_history(run.run_id, "acme/heat")
    assert [(metric.step, metric.value) for metric in history] == [(1, 21.0), (2, 22.0)]


@pytest.mark.parametrize("values", [{"no such: name!": 1.0}, {"heat": "hot"}])
def test_refused_metrics_harm_nobody(root: Path, lab: Any, values: dict[str, Any]) -> None:
    """Figures that the database refuses are a handler's failure; the run and its losses are kept (B7)."""
    workspace = Workspace(root)
    with RunTracking(workspace, lab.plan) as run:
        workspace.bus.emit(a_step(1, 0.5))
        workspace.bus.emit(MetricLogged(values=values))
    assert [type(event) for event, _ in workspace.bus.failures] == [MetricLogged]
    found = connect(root).get_run(run.run_id)
    assert (found.info.status, found.data.metrics["train/loss"]) == ("FINISHED", 0.5)


def test_begin_and_end_are_told(root: Path, lab: Any) -> None:
    """A tracked run announces its begin with the recipe's digest and its end with the outcome (B5)."""
    workspace, told = Workspace(root), list[Event]()
    workspace.bus.on_any(told.append)
    with RunTracking(workspace, lab.plan) as run:
        pass
    begun, ended = told
    assert isinstance(begun, RunStarted)
    assert begun.data == {"recipe": "tiny", "run_id": run.run_id, "digest": hash_json(lab.plan.dump()), "plugins": ()}
    assert isinstance(ended, RunFinished)
    assert ended.data == {"recipe": "tiny", "run_id": run.run_id, "status": "FINISHED", "error": ""}


def test_end_is_told_when_the_tracker_fails(root: Path, lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracker that cannot close its run fails it, and those who wait for the end still hear of it (B7)."""

    def refuse(status: str) -> None:
        raise OSError("disk is full")

    workspace, ended = Workspace(root), list[RunFinished]()
    workspace.bus.on(RunFinished, ended.append)
    run = RunTracking(workspace, lab.plan)
    monkeypatch.setattr(run.tracker, "finish", refuse)
    with pytest.raises(OSError, match="disk is full"), run:
        pass
    assert [(event.status, event.error) for event in ended] == [("FAILED", "OSError: disk is full")]


def test_health_asks_the_database(root: Path, tmp_path: Path) -> None:
    """MLflow is well where its database answers or is still to be made, and failed where it is damaged."""
    connect(root)
    assert registry.create("tracker", "mlflow", root=root).health().status == "ok"
    unused = registry.create("tracker", "mlflow", root=tmp_path)
    assert unused.health().status == "ok"
    assert not list(tmp_path.iterdir())
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns" / "mlflow.db").write_bytes(b"this is no database" * 100)
    sick = unused.health()
    assert sick.status == "failed"
    assert "tracking database" in sick.detail


def fail_after(run: RunTracking, event: Event) -> None:
    """One step of training, then no disk."""
    with run:
        run.workspace.bus.emit(event)
        raise RuntimeError("disk is full")


def test_failed_run_says_why(root: Path, lab: Any) -> None:
    """A run that raises is closed as failed, with the error, and the last losses are not lost."""
    workspace, ended = Workspace(root), list[RunFinished]()
    workspace.bus.on(RunFinished, ended.append)
    step = a_step(1, 9.0)
    run = RunTracking(workspace, lab.plan)
    with pytest.raises(RuntimeError, match="disk"):
        fail_after(run, step)
    found = connect(root).get_run(run.run_id)
    assert found.info.status == "FAILED"
    assert found.data.tags["postmill.error"] == "RuntimeError: disk is full"
    assert found.data.metrics["train/loss"] == 9.0
    assert [(event.status, event.error) for event in ended] == [("FAILED", "RuntimeError: disk is full")]
    workspace.bus.emit(step)
    assert not workspace.bus.failures


def test_a_secret_in_the_error_of_a_run(root: Path, lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failed run says of its error, in the tracker and on the bus, holds no secret (C54)."""
    monkeypatch.setenv("HF_TOKEN", "disk is full")
    workspace, ended = Workspace(root), list[RunFinished]()
    workspace.bus.on(RunFinished, ended.append)
    run = RunTracking(workspace, lab.plan)
    with pytest.raises(RuntimeError, match="disk"):
        fail_after(run, a_step(1, 9.0))
    assert connect(root).get_run(run.run_id).data.tags["postmill.error"] == "RuntimeError: ***"
    assert [event.error for event in ended] == ["RuntimeError: ***"]


class Noted(Tracker):
    """A throw-away tracker that remembers what it is told, without a folder."""

    class Config(StrictConfig):
        url: str = "http://localhost"
        token: Secret | None = None

    def start(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        self.tags = dict(tags)
        return "r1"

    def tag(self, tags: Mapping[str, str]) -> None:
        self.tags |= tags

    def metrics(self, values: Any) -> None:
        pass

    def file(self, path: Path, folder: str = "") -> None:
        pass

    def finish(self, status: str) -> None:
        self.status = status


class Rooted(Noted):
    """A throw-away tracker with a folder."""

    class Config(StrictConfig):
        root: Path = Path("here")
        depth: int = 1


@pytest.fixture
def trackers() -> Iterator[None]:
    """The throw-away trackers, registered for one test."""
    registry.names("tracker")
    with registry.owned_by("tests"):
        registry.add("tracker", "noted", Noted)
        registry.add("tracker", "rooted", Rooted)
    yield
    with registry.owned_by("tests"):
        registry.forget("tests")


def tracking(root: Path, lab: Any, tracker: Any, application: Any = None) -> RunTracking:
    """The service, as the recipe's key `services.tracking.tracker` configures it."""
    config = RunTracking.Config.model_validate({} if tracker is None else {"tracker": tracker})
    return RunTracking(Workspace(root), unregistered(lab.plan), config, application)


def unregistered(plan: Any) -> Any:
    """The recipe without `register`, which wants MLflow."""
    return plan.model_copy(update={"register_as": None})


ROOT = Path("/workspace")
CHOICES: list[tuple[Any, type, dict[str, Any]]] = [
    (None, MlflowTracker, {"root": ROOT, "experiment": "postmill"}),
    ("mlflow", MlflowTracker, {"root": ROOT, "experiment": "postmill"}),
    ({"type": "mlflow", "experiment": "mine"}, MlflowTracker, {"root": ROOT, "experiment": "mine"}),
    ("rooted", Rooted, {"root": ROOT, "depth": 1}),
    ({"type": "rooted", "root": "/there", "depth": 2}, Rooted, {"root": Path("/there"), "depth": 2}),
    ("noted", Noted, {"url": "http://localhost", "token": None}),
    ({"type": "noted", "token": "env:A"}, Noted, {"url": "http://localhost", "token": Secret("env:A")}),
]


@pytest.mark.parametrize(("tracker", "cls", "config"), CHOICES)
def test_a_tracker_with_keys(trackers: None, lab: Any, tracker: Any, cls: type, config: dict[str, Any]) -> None:
    """A tracker is chosen by name or with keys of its own; it gets the root where the recipe names none (A27)."""
    made = tracking(ROOT, lab, tracker).tracker
    assert type(made) is cls
    assert dict(made.config) == config


WRONG_TRACKERS = [
    ("mlfow", "services.tracking.tracker.type: unknown tracker 'mlfow'; did you mean 'mlflow'?"),
    ({"type": "mlflow", "experimnt": "x"}, "services.tracking.tracker.experimnt: "),
    (7, "services.tracking.tracker: "),
    (["mlflow", "wanbd"], "services.tracking.tracker.1.type: unknown tracker 'wanbd'; did you mean 'wandb'?"),
    (["mlflow", {"type": "wandb", "projct": "x"}], "services.tracking.tracker.1.projct: unknown key 'projct'"),
    (["mlflow", {"type": "mlflow"}], "services.tracking.tracker: name at least one tracker, and each of them once"),
    ([], "services.tracking.tracker: name at least one tracker, and each of them once: the list is empty"),
    (["mlflow", {"type": "comet", "mode": "online"}], "services.tracking.tracker.1.mode: online runs need a key"),
]


@pytest.mark.parametrize(("tracker", "said"), WRONG_TRACKERS)
def test_a_wrong_tracker_is_found_early(tmp_path: Path, tracker: Any, said: str) -> None:
    """A tracker that nobody has, or a key that it does not know, is refused when the services are wired (E3)."""
    plan = parse_recipe(tiny.recipe(tmp_path, tmp_path, services={"tracking": {"tracker": tracker}}))
    with Application(Settings(root=tmp_path)) as app, pytest.raises(ConfigError) as caught:
        app.container(plan)
    assert said in str(caught.value)


def test_plugins_are_recorded(trackers: None, tmp_path: Path) -> None:
    """The tracked run says which plugins were loaded, by name and version, and nothing where there are none (C52)."""
    services = {"tracking": {"tracker": "noted"}}
    plan = unregistered(parse_recipe(tiny.recipe(tmp_path, tmp_path, services=services)))
    begun: list[RunStarted] = []
    with Application(Settings(root=tmp_path)) as app:
        app.bus.on(RunStarted, begun.append)
        with app.run(plan) as run:
            assert "postmill.plugins" not in run.get(RunTracking).tracker.tags
        app.plugins.reports = {
            name: Report(name, version, "here", outcome)
            for name, version, outcome in (("b", "2.1", "loaded"), ("a", "1.0", "loaded"), ("c", "1", "failed"))
        }
        with app.run(plan) as run:
            assert run.get(RunTracking).tracker.tags["postmill.plugins"] == "a 1.0, b 2.1"
    assert [event.plugins for event in begun] == [(), ("a 1.0", "b 2.1")]


def test_parameters_are_the_keys_of_set() -> None:
    """A recipe becomes flat parameters under the names that `--set` takes."""
    flat = _flatten({"train": [{"lr": 1, "lora": {"targets": ["a", "b"]}}], "gate": [], "seed": 1})
    assert flat == {"train.0.lr": 1, "train.0.lora.targets": ["a", "b"], "gate": [], "seed": 1}
