"""Hard limits on what was measured: bytes, distance to the trained model, speed, memory, time, cost.

    gate: [{type: budget, max: {bytes: 300MB, mean_kl: 0.1}, min: {tokens_per_s: 20}}]
    gate: [{type: budget, max: {ttft_ms: 0.2s, load_s: 900ms, peak_rss: 1.5GB, cost_per_1k_tokens: 0.002}}]

Any metric of the recipe's benchmarks can be limited. A limit is a number in the metric's own unit, a size with its
unit, or a time with its unit, which is turned into the one that the metric is in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from pydantic import field_validator

from components.core.component import StrictConfig
from components.core.errors import ConfigError
from components.core.kinds import register
from components.core.machine import Quantity
from components.gates._metrics import described, measured, shown
from components.interfaces import Check, Gate, Metric, Scoreboard

SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
"""Units of time in which a limit may be written; a metric is in one of them too, if it is a time."""


@register("gate", "budget")
class BudgetGate(Gate):
    """Measured figures stay within limits."""

    class Config(StrictConfig):
        max: dict[str, Quantity] = {}
        min: dict[str, Quantity] = {}

        @field_validator("max", "min", mode="before")
        @classmethod
        def _times(cls, limits: Any) -> Any:
            return {k: _in_its_unit(k, v) for k, v in limits.items()} if isinstance(limits, dict) else limits

    config: Config

    @classmethod
    def needs(cls, config: Any) -> Iterable[str]:
        return (*config.max, *config.min)

    def judge(self, variant: str, board: Scoreboard) -> list[Check]:
        found = board.metrics(variant)
        sides = (("at most", self.config.max), ("at least", self.config.min))
        return [
            _check(name, found.get(name), limit, side, measured(name, board) or described(name))
            for side, limits in sides
            for name, limit in limits.items()
        ]


def _check(name: str, value: float | None, limit: float, side: str, about: Metric | None) -> Check:
    if value is None:
        return Check(gate="budget", passed=False, summary=f"{name} was not measured on this variant")
    within = value <= limit if side == "at most" else value >= limit
    return Check(
        gate="budget",
        passed=within and math.isfinite(value),
        summary=f"{name} {shown(about, value)} ({side} {shown(about, limit)})",
        figures={"metric": name, "value": value, "limit": limit},
    )


def _in_its_unit(name: Any, limit: Any) -> Any:
    """`ttft_ms: 0.2s` -> 200.0; anything that is no time is left for others to judge."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]+)\s*", limit) if isinstance(limit, str) else None
    if not match or match[2].lower() not in SECONDS:
        return limit
    about = described(str(name))
    if about is None or about.unit not in SECONDS:
        unit = f"is in {about.unit}" if about else "is described by no benchmark here"
        raise ConfigError(f"'{limit}' is a time, and {name} {unit}; write the limit as a number in the metric's unit")
    return float(match[1]) * SECONDS[match[2].lower()] / SECONDS[about.unit]
