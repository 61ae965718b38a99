"""The table of component kinds, and the one registry of the process. A new kind is one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from components.core.registry import Kind, Registry
from components.core.service import Lifetime, serves

C = TypeVar("C", bound=type)

registry = Registry(
    (
        Kind("model", "components.interfaces:ModelSource", "components.models"),
        Kind("reader", "components.interfaces:Reader", "components.data.readers"),
        Kind("format", "components.interfaces:Format", "components.data.formats"),
        Kind("rule", "components.interfaces:Rule", "components.data.rules"),
        Kind("trainer", "components.interfaces:Trainer", "components.trainers"),
        Kind("callback", "components.interfaces:TrainingCallback", "components.callbacks"),
        Kind("optimizer", "components.interfaces:Optimizer", "components.optimizers"),
        Kind("reward", "components.interfaces:Reward", "components.rewards"),
        Kind("pass", "components.interfaces:Pass", "components.optimization"),
        Kind("sampler", "components.interfaces:Sampler", "components.samplers"),
        Kind("exporter", "components.interfaces:Exporter", "components.exporters"),
        Kind("preset", "components.interfaces:Preset", "components.presets"),
        Kind("backend", "components.interfaces:Backend", "components.backends"),
        Kind("benchmark", "components.interfaces:Benchmark", "components.benchmarks"),
        Kind("scorer", "components.interfaces:Scorer", "components.scorers"),
        Kind("gate", "components.interfaces:Gate", "components.gates"),
        Kind("tracker", "components.interfaces:Tracker", "components.trackers"),
        Kind("runner", "components.runners._base:Runner", "components.runners"),
        Kind("sink", "components.interfaces:Sink", "components.sinks"),
        Kind("probe", "components.interfaces:Probe", "components.probes"),
        Kind("service", object, "components.services"),
        Kind("section", "components.core.component:StrictConfig"),
    )
)
register = registry.register


def service(
    name: str, role: str | None = None, provides: type | None = None, lifetime: Lifetime = "singleton"
) -> Callable[[C], C]:
    """Class decorator: register a service and say in which role it serves (its own name by default)."""

    def decorate(cls: C) -> C:
        return register("service", name)(serves(role or name, provides, lifetime)(cls))

    return decorate
