"""What a process of a launched training step knows: the plugins of the process that asked for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.core.artifacts import write_json
from components.core.errors import ConfigError
from components.core.events import Event, EventBus
from components.core.kinds import registry
from components.core.plugins import PluginSettings
from components.core.recipe import OfKind
from components.core.settings import Settings
from components.interfaces import StepContext
from components.services.application import Application, opened_settings
from components.services.elsewhere import launch as _launch
from components.services.elsewhere import worker as _worker
from components.services.elsewhere.passed_on import events_passed_on

PLUGIN = """
from dataclasses import dataclass
from typing import Annotated

from components.core.component import StrictConfig
from components.core.events import Event, TrainStep
from components.core.plugins import Plugin
from components.core.recipe import OfKind, Spec
from components.interfaces import Optimizer, Reward, Trainer, TrainingCallback


@dataclass(frozen=True, kw_only=True)
class Worked(Event, topic="acme.worked"):
    hours: int


class Slow(Optimizer):
    def rule(self, learning_rate):
        return object, {}


class Kind(Reward):
    def score(self, prompts, answers, rows):
        return [7.0 for _ in answers]


class Looks(TrainingCallback):
    def hook(self):
        return "a look"


class Worker(Trainer):
    class Config(StrictConfig):
        optimizer: Annotated[Spec, OfKind("optimizer")]
        rewards: list[Annotated[Spec, OfKind("reward")]]
        callbacks: list[Annotated[Spec, OfKind("callback")]]

    @classmethod
    def produces_kind(cls, config):
        return "model"

    def train(self, model, dataset, out, context):
        context.bus.emit(TrainStep(step=1, total=1, loss=0.5))
        context.bus.emit(Worked(hours=8))
        config = self.config
        return {
            "optimizer": config.optimizer.build().rule(0.1)[0].__name__,
            "reward": config.rewards[0].build().score([], ["answer"], [])[0],
            "callback": config.callbacks[0].build().hook(),
            "heard": len(HEARD),
        }


HEARD = []


class Acme(Plugin):
    name = "acme"

    def register(self, api):
        api.component("trainer", "acme_trainer", Worker)
        api.component("optimizer", "acme_optimizer", Slow)
        api.component("reward", "acme_reward", Kind)
        api.component("callback", "acme_callback", Looks)
        api.on(TrainStep, HEARD.append)
"""
STEP = {
    "type": "acme_trainer",
    "optimizer": {"type": "acme_optimizer"},
    "rewards": [{"type": "acme_reward"}],
    "callbacks": [{"type": "acme_callback"}],
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings that no file and no variable says, as those of a program that uses Postmill as a library."""
    folder = tmp_path / "plugins"
    folder.mkdir(mode=0o755)
    (folder / "acme.py").write_text(PLUGIN, encoding="utf-8")
    return Settings(root=tmp_path, plugins=PluginSettings(directories=(folder,), auto_discover=False))


def job(settings: Settings, lab: Any, place: Path) -> Path:
    """What the launcher writes for its processes, in a folder of its own."""
    place.mkdir()
    with Application(settings):
        spec = OfKind("trainer").parse(STEP)
        assert spec is not None
        plain = _launch._job(spec, lab.base, lab.dataset, place, StepContext(17, EventBus()))
    write_json(place / _launch.JOB, plain)
    return place


def test_plugins_are_there(settings: Settings, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer, an optimizer, a reward and a callback of a plugin work in a launched process, and a plugin's handlers
    hear an event once, where the run is (C52, E19)."""
    monkeypatch.setenv("RANK", "0")
    place = job(settings, lab, tmp_path / "job")
    assert "acme_trainer" not in registry.names("trainer")
    _worker.main(place)
    figures = json.loads((place / _launch.FIGURES).read_text())
    assert figures == {"optimizer": "object", "reward": 7.0, "callback": "a look", "heard": 0}
    assert "acme_trainer" not in registry.names("trainer")


def test_events_of_plugins_come_back(
    settings: Settings, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event of a plugin's own that its trainer tells in a launched process is heard on the bus of the run (B5)."""
    monkeypatch.setenv("RANK", "0")
    place, bus, told = job(settings, lab, tmp_path / "job"), EventBus(), list[Event]()
    bus.on_any(told.append)
    _worker.main(place)  # before, since this process has one registry only
    with Application(settings), events_passed_on(place / _launch.EVENTS, bus):
        pass
    assert [event.topic for event in told] == ["training.step", "acme.worked"]
    assert told[1].data == {"hours": 8}


def test_without_an_application(settings: Settings, lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody opened an application, the settings are those of the folder and the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "0")
    place = job(settings, lab, tmp_path / "job")
    plain = json.loads((place / _launch.JOB).read_text())
    write_json(place / _launch.JOB, plain | {"settings": None})
    with pytest.raises(ConfigError, match="acme_trainer"):
        _worker.main(place)
    assert "acme_trainer" in json.loads((place / _launch.FAILURE.format(0)).read_text())["message"]
    monkeypatch.setenv("POSTMILL_PLUGINS__DIRECTORIES", json.dumps([str(tmp_path / "plugins")]))
    monkeypatch.setenv("POSTMILL_PLUGINS__AUTO_DISCOVER", "false")
    _worker.main(place)
    assert opened_settings() is None
