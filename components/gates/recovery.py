"""How much of what training brought survives compression: (variant - base) / (trained - base).

gate: [{type: recovery, metric: exact_match, min: 0.97}]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import Field

from components.core.component import StrictConfig
from components.core.kinds import register
from components.interfaces import Check, Gate, Scoreboard


@register("gate", "recovery")
class RecoveryGate(Gate):
    """The variant keeps at least this share of the gain that training brought."""

    class Config(StrictConfig):
        metric: str = "exact_match"
        min: float = Field(0.97, gt=0)

    config: Config

    @classmethod
    def needs(cls, config: Any) -> Iterable[str]:
        return (config.metric,)

    def judge(self, variant: str, board: Scoreboard) -> list[Check]:
        metric = self.config.metric
        found = {name: board.metrics(name).get(metric) for name in ("base", "trained", variant)}
        missing = [name for name, value in found.items() if value is None]
        if missing:
            summary = f"{metric} was not measured on {', '.join(missing)}"
            return [Check(gate="recovery", passed=False, summary=summary)]
        base, trained, mine = (float(value) for value in found.values() if value is not None)
        if trained <= base:
            summary = f"training brought no gain in {metric} ({base:.1%} -> {trained:.1%}), so there is none to keep"
            return [Check(gate="recovery", passed=False, summary=summary)]
        kept = (mine - base) / (trained - base)
        return [
            Check(
                gate="recovery",
                passed=kept >= self.config.min,
                summary=f"keeps {kept:.1%} of the gain in {metric} (required {self.config.min:.0%})",
                figures={"kept": kept, "base": base, "trained": trained, "variant": mine},
            )
        ]
