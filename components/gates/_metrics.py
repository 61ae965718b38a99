"""What a figure is: the description of a metric by the benchmark that reports it, and how a gate writes it down."""

from __future__ import annotations

from collections.abc import Iterable

from components.core.kinds import registry
from components.core.machine import human_bytes
from components.interfaces import Metric, Scoreboard


def described(name: str, benchmarks: Iterable[str] | None = None) -> Metric | None:
    """The metric of that name, of these benchmarks or of any; None if none of them says what it is. One that a
    benchmark reports under a name of the recipe's (`maths_score`) is known by what it ends with."""
    known = set(registry.names("benchmark"))
    among = known if benchmarks is None else known & set(benchmarks)
    sound = [each for each in sorted(among) if not registry.broken("benchmark", each)]
    metrics = [metric for each in sound for metric in registry.get("benchmark", each).metrics]
    fits = [metric for metric in metrics if f"_{name}".endswith(f"_{metric.name}")]
    return max(fits, key=lambda metric: len(metric.name), default=None)


def measured(name: str, board: Scoreboard) -> Metric | None:
    """The metric of that name, as the recipe's benchmarks describe it, else the benchmark that measured it."""
    said = next((metric for metric in board.described if metric.name == name), None)
    return said or described(name, {found.benchmark for found in board.measurements if name in found.metrics})


def better(metric: Metric | None) -> int:
    """1 if more is better, which holds of what nobody describes, else -1."""
    return -1 if metric and metric.better == "lower" else 1


def shown(metric: Metric | None, value: float, sign: str = "") -> str:
    """A figure with its unit; `sign="+"` writes gains with their sign. What nobody describes has no unit."""
    if metric is None:
        return f"{value:{sign},.4g}"
    if metric.unit == "bytes":
        return human_bytes(value)
    return f"{value:{sign}.1%}" if metric.unit == "share" else f"{value:{sign},.4g} {metric.unit}"
