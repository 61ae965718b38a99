"""MLflow on an embedded database: `sqlite:///mlruns/mlflow.db`, artifacts under `mlruns/artifacts/`. No server needed.

    postmill ui        # look at runs, evidence and registered models

`MLFLOW_TRACKING_URI` points it at a server instead.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any, Literal

from components.core.component import StrictConfig
from components.core.errors import RegistryServiceError
from components.core.health import Health
from components.core.kinds import register
from components.interfaces import Tracker

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    # a server that starts again within half a minute is waited for; with MLflow's own seven it would be five minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "GIT_PYTHON_REFRESH": "quiet",
}


def tracking_uri(root: Path) -> str:
    """Where runs are recorded: the environment's choice, or the embedded database below `root`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlruns' / 'mlflow.db'}"


def preload() -> None:
    """Import MLflow (two seconds) on a thread, while the caller waits for something else."""
    _prepare_environment()
    Thread(target=import_module, args=("mlflow",), daemon=True).start()


def _prepare_environment() -> None:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def connect(root: Path, experiment: str = "postmill") -> Any:
    """An MLflow client, the database created if it is missing. Safe when several processes come first at once."""
    _prepare_environment()
    import mlflow

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    uri = tracking_uri(root)
    folder = root / "mlruns"
    folder.mkdir(parents=True, exist_ok=True)
    from filelock import FileLock

    # without the lock, processes that create the database at the same time leave it broken for good
    with FileLock(folder / ".setup.lock"), refusals(uri):
        with _environment_kept():
            mlflow.set_tracking_uri(uri)
            mlflow.set_registry_uri(uri)
        client = mlflow.MlflowClient(uri, uri)
        if client.get_experiment_by_name(experiment) is None:
            embedded = uri.startswith("sqlite:")
            location = (folder / "artifacts" / experiment).as_uri() if embedded else None
            client.create_experiment(experiment, artifact_location=location)
            if embedded:
                _use_write_ahead_log(Path(uri.removeprefix("sqlite:///")))
        mlflow.set_experiment(experiment)
    return client


def connect_registry(root: Path) -> Any:
    """An MLflow client for registered models alone: of a database that is there, a second faster than `connect`."""
    uri = tracking_uri(root)
    if uri.startswith("sqlite:///") and not database_file(uri).exists():
        return connect(root)
    _prepare_environment()
    import mlflow

    logging.getLogger("alembic").setLevel(logging.WARNING)
    return mlflow.MlflowClient(uri, uri)


def database_file(uri: str) -> Path:
    """The file of an embedded database."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


@contextmanager
def _environment_kept() -> Iterator[None]:
    """MLflow writes the address it is told into the environment; another root in this process would find it there."""
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _use_write_ahead_log(database: Path) -> None:
    """Readers (the UI) and one writer at the same time; the setting stays in the file."""
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


class refusals:
    """Turns MLflow's and the database's errors into one that says what to do."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or type(error).__module__.partition(".")[0] not in ("mlflow", "sqlalchemy", "sqlite3"):
            return
        text = str(error)
        if "locked" in text:
            remedy = "another process holds it: wait for that run to end, or close the program that has it open"
        elif "unable to open" in text or "readonly" in text:
            remedy = "the file cannot be opened: check that its folder exists and is writable"
        else:
            remedy = text.splitlines()[0][:300]
        raise RegistryServiceError(f"tracking database '{self.uri}': {remedy}") from error


@register("tracker", "mlflow")
class MlflowTracker(Tracker):
    """Runs, metrics and files in MLflow."""

    class Config(StrictConfig):
        root: Path = Path(".")
        experiment: str = "postmill"

    config: Config

    def start(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        self._client = connect(self.config.root, self.config.experiment)
        with refusals(tracking_uri(self.config.root)):
            experiment = self._client.get_experiment_by_name(self.config.experiment)
            self._run = self._client.create_run(experiment.experiment_id, run_name=name, tags=dict(tags)).info.run_id
        # a parameter is at most 6000 characters; the whole recipe is attached as a file
        self._batch(params=[(key, str(value)[:6000]) for key, value in params.items()])
        return str(self._run)

    def child(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> MlflowTracker:
        inner = MlflowTracker(self.config)
        inner.start(name, params, {**tags, "mlflow.parentRunId": self._run})
        return inner

    def tag(self, tags: Mapping[str, str]) -> None:
        self._batch(tags=list(tags.items()))

    def metrics(self, values: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        now = int(time.time() * 1000)
        self._batch(
            metrics=[(name, float(value), now, step) for step, entry in values for name, value in entry.items()]
        )

    def file(self, path: Path, folder: str = "") -> None:
        self._client.log_artifact(self._run, str(path), folder or None)

    def finish(self, status: Literal["FINISHED", "FAILED"]) -> None:
        self._client.set_terminated(self._run, status)

    def health(self) -> Health:
        """Whether the database answers. One that does not exist yet is made by the first run, not by asking."""
        uri = tracking_uri(self.config.root)
        if uri.startswith("sqlite:///") and not database_file(uri).exists():
            return Health("ok", f"no database yet; the first run makes '{database_file(uri)}'")
        try:
            connect(self.config.root, self.config.experiment)
        except RegistryServiceError as error:
            return Health("failed", str(error))
        return Health("ok", f"'{uri}' answers")

    def _batch(self, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        from mlflow.entities import Metric, Param, RunTag

        with refusals(tracking_uri(self.config.root)):
            self._client.log_batch(
                self._run,
                metrics=[Metric(*entry) for entry in metrics],
                params=[Param(*entry) for entry in params],
                tags=[RunTag(*entry) for entry in tags],
            )
