"""Hard limits on what was measured: bytes, distance to the trained model, speed, memory.

gate: [{type: budget, max: {bytes: 300MB, mean_kl: 0.1}, min: {tokens_per_s: 20}}]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BeforeValidator

from components.core.component import StrictConfig
from components.core.kinds import register
from components.core.machine import bytes_of, human_bytes
from components.interfaces import Check, Gate, Scoreboard


def _show(name: str, value: float) -> str:
    return human_bytes(value) if name in ("bytes", "peak_rss") else f"{value:,.4g}"


Quantity = Annotated[float, BeforeValidator(bytes_of, json_schema_input_type=float | str)]


@register("gate", "budget")
class BudgetGate(Gate):
    """Measured figures stay within limits."""

    class Config(StrictConfig):
        max: dict[str, Quantity] = {}
        min: dict[str, Quantity] = {}

    config: Config

    @classmethod
    def needs(cls, config: Any) -> Iterable[str]:
        return (*config.max, *config.min)

    def judge(self, variant: str, board: Scoreboard) -> list[Check]:
        found = board.metrics(variant)
        upper = [self._check(name, found.get(name), limit, "at most") for name, limit in self.config.max.items()]
        lower = [self._check(name, found.get(name), limit, "at least") for name, limit in self.config.min.items()]
        return upper + lower

    @staticmethod
    def _check(name: str, value: float | None, limit: float, side: str) -> Check:
        if value is None:
            return Check(gate="budget", passed=False, summary=f"{name} was not measured on this variant")
        passed = value <= limit if side == "at most" else value >= limit
        return Check(
            gate="budget",
            passed=passed,
            summary=f"{name} {_show(name, value)} ({side} {_show(name, limit)})",
            figures={"metric": name, "value": value, "limit": limit},
        )
