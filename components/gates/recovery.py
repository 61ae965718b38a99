"""How much of what training brought survives compression: (variant - base) / (trained - base).

gate: [{type: recovery, metric: exact_match, min: 0.97}]

It is a ratio of means, not a test: how surely the variant is no worse than the trained model, `non_inferior` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from pydantic import Field

from components.core.component import StrictConfig
from components.core.kinds import register
from components.gates._metrics import better, measured, shown
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

    @classmethod
    def compares_with(cls, config: Any) -> Iterable[str]:
        return ("base", "trained")

    def judge(self, variant: str, board: Scoreboard) -> list[Check]:
        metric, about = self.config.metric, measured(self.config.metric, board)
        found = {name: board.metrics(name).get(metric) for name in ("base", "trained", variant)}
        missing = [name for name, value in found.items() if value is None or not math.isfinite(value)]
        if missing:
            return [_failed(f"{metric} was not measured on {', '.join(missing)}")]
        base, trained, mine = (float(value) for value in found.values() if value is not None)
        brought = better(about) * (trained - base)
        if brought <= 0:
            change = f"{shown(about, base)} -> {shown(about, trained)}"
            return [_failed(f"training brought no gain in {metric} ({change}), so there is none to keep")]
        kept = better(about) * (mine - base) / brought
        return [
            Check(
                gate="recovery",
                passed=kept >= self.config.min,
                summary=f"keeps {kept:.1%} of the gain in {metric} (required {self.config.min:.0%})",
                figures={"kept": kept, "base": base, "trained": trained, "variant": mine},
            )
        ]


def _failed(summary: str) -> Check:
    return Check(gate="recovery", passed=False, summary=summary)
