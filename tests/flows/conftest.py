"""One real run of the pipeline on the tiny recipe, on Prefect's embedded server, for all tests of this folder."""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from components.core.errors import PostmillError
from components.core.events import Event
from components.core.kinds import registry
from components.interfaces import Reader
from flows.environment import prepare
from tests import tiny

# before Prefect is imported: it reads its settings once
HOME = Path(tempfile.mkdtemp(prefix="postmill-prefect-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
prepare(HOME)


E = TypeVar("E", bound=Event)


CANARY = "hf_CANARY1234567"
"""A secret that the first run knows of; nothing on disk may hold it."""


@dataclass
class Run:
    """What a run of the pipeline came to, and everything it told on the bus."""

    root: Path
    plain: dict[str, Any]
    outcome: Any = None
    workspace: Any = None
    events: list[Event] = field(default_factory=list)

    def told(self, kind: type[E]) -> list[E]:
        """The events of one class, in order."""
        return [event for event in self.events if isinstance(event, kind)]


PLUGIN = """
from components.core.plugins import Plugin

class Quiet(Plugin):
    name = "quiet"
    version = "1.2"

    def register(self, api):
        pass
"""


def run_pipeline(root: Path, plain: dict[str, Any]) -> Run:
    """Run the real flow in this process; the files in `root/plugins` are plugins."""
    from components.core.plugins import PluginSettings
    from components.core.settings import Settings
    from components.services.application import Application
    from flows.pipeline import pipeline

    plugins = PluginSettings(auto_discover=False, directories=tuple(root.glob("plugins")))
    with Application(Settings(root=root, plugins=plugins)) as app:
        run = Run(root, plain, workspace=app.workspace)
        off = app.bus.on_any(run.events.append)
        run.outcome = pipeline(plain)
    off()  # other tests use this bus too, and what they do is not told of this run
    return run


@pytest.fixture(scope="session", autouse=True)
def _mlflow() -> None:
    """MLflow warns about its own type hints while it is imported; here warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("mlflow.pyfunc")


@pytest.fixture(scope="session")
def first(_mlflow: None, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Run:
    """The first run: everything is built, fp32 is too large for the gate, int4 is registered."""
    root = tmp_path_factory.mktemp("pipeline")
    (root / "plugins").mkdir()
    (root / "plugins" / "quiet.py").write_text(PLUGIN, encoding="utf-8")
    gate = [{"type": "budget", "max": {"bytes": "400kB"}}]
    model = {"type": "pretrained", "name": str(tiny_model), "token": "env:HF_TOKEN"}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_TOKEN", CANARY)
        return run_pipeline(root, tiny.recipe(root, tiny_model, gate=gate) | {"model": model})


@pytest.fixture(scope="session")
def second(first: Run) -> Run:
    """The same recipe again."""
    return run_pipeline(first.root, first.plain)


@pytest.fixture(scope="session")
def rejected(first: Run, second: Run) -> Run:
    """The same work under a gate that nobody passes."""
    return run_pipeline(first.root, first.plain | {"name": "strict", "gate": tiny.failing_gate()})


class Leaky(Reader):
    """A throw-away reader whose error, and the one behind it, tell a secret."""

    def fingerprint(self) -> dict[str, str]:
        try:
            raise OSError(f"401 for {os.environ['HF_TOKEN']}")
        except OSError as error:
            raise ValueError(f"refused: {os.environ['HF_TOKEN']}") from error

    def rows(self) -> Any:
        raise NotImplementedError


@pytest.fixture(scope="session")
def leaky(first: Run) -> BaseException:
    """What a run ends with whose first step tells a secret in its error."""
    registry.names("reader")
    with registry.owned_by("tests"):
        registry.add("reader", "leaky", Leaky)
    plain = first.plain | {"name": "leaky", "data": first.plain["data"] | {"train": {"type": "leaky"}}}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_TOKEN", CANARY)
        with pytest.raises(PostmillError) as caught:
            run_pipeline(first.root, plain)
    with registry.owned_by("tests"):
        registry.forget("tests")
    return caught.value


@pytest.fixture(scope="session")
def client(first: Run) -> Any:
    """The tracking database of the runs."""
    from components.trackers.mlflow import connect

    return connect(first.root)
