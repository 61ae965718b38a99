"""The table of component kinds, and the one registry of the process. A new kind is one line here."""

from __future__ import annotations

from components.core.registry import Kind, Registry

registry = Registry(
    (
        Kind("model", "components.interfaces:ModelSource", "components.models"),
        Kind("reader", "components.interfaces:Reader", "components.data.readers"),
        Kind("format", "components.interfaces:Format", "components.data.formats"),
        Kind("trainer", "components.interfaces:Trainer", "components.trainers"),
        Kind("pass", "components.interfaces:Pass", "components.optimization"),
        Kind("backend", "components.interfaces:Backend", "components.backends"),
        Kind("benchmark", "components.interfaces:Benchmark", "components.benchmarks"),
        Kind("gate", "components.interfaces:Gate", "components.gates"),
        Kind("tracker", "components.interfaces:Tracker", "components.trackers"),
    )
)
register = registry.register
