"""What the plugin brings, under which names. Imports no ML library: trainer and benchmark are named, not imported."""

from __future__ import annotations

from components.core.events import TrainStep
from components.core.health import Health
from components.core.plugins import Plugin, PluginApi
from postmill_acme.section import AcmeSection
from postmill_acme.service import Greeter


class AcmePlugin(Plugin):
    """A trainer, a benchmark, a recipe section, a service that reads it, and a count of training steps."""

    steps = 0

    def register(self, api: PluginApi) -> None:
        api.component("trainer", "acme_freeze", "postmill_acme.trainer:FreezeTrainer")
        api.component("benchmark", "acme_words", "postmill_acme.benchmark:Words")
        api.section("acme", AcmeSection)
        api.service("acme_greeter", Greeter)
        api.on(TrainStep, self._count)

    def _count(self, event: TrainStep) -> None:
        self.steps += 1

    def health(self) -> Health:
        return Health("ok", f"saw {self.steps} training steps", {"steps": self.steps})
