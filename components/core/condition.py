"""Under which condition a pass runs: `{type: prune_depth, when: {above: {bytes: 200MB}, below: {mean_kl: 0.05}}}`.

Asked about are figures of the artifact that the pass would start from: its `bytes`, its `parameters`, and every number
that the passes before it recorded, the newest of each name; a number inside a section is called `parity.kl`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import Field, model_validator

from components.core.component import StrictConfig
from components.core.errors import ConfigError, did_you_mean
from components.core.machine import Quantity, human_bytes

ALWAYS_KNOWN = ("bytes", "parameters")
"""Figures of every artifact, whatever has made it."""


class Condition(StrictConfig):
    """Limits on figures; all of them must be met, and a figure that equals its limit does not meet it."""

    above: dict[str, Quantity] = Field({}, description="figures that must be more than this")
    below: dict[str, Quantity] = Field({}, description="figures that must be less than this")

    @model_validator(mode="after")
    def _can_be_met(self) -> Condition:
        if not self.above and not self.below:
            raise ConfigError("name a figure and its limit, for example when: {above: {bytes: 200MB}}")
        never = [name for name in self.above.keys() & self.below.keys() if self.above[name] >= self.below[name]]
        if never:
            raise ConfigError(f"nothing is {' and '.join(self._limits(never[0]))}; the pass would never run")
        return self

    def __str__(self) -> str:
        """`bytes above 200 MB and mean_kl below 0.05`."""
        names = dict.fromkeys([*self.above, *self.below])
        return " and ".join(limit for name in names for limit in self._limits(name))

    def _limits(self, name: str) -> list[str]:
        sides = (("above", self.above), ("below", self.below))
        return [f"{name} {side} {show(name, limits[name])}" for side, limits in sides if name in limits]

    def unknown(self, known: Iterable[str]) -> str | None:
        """A sentence about the first figure that is asked for and not `known`; None if all are."""
        names = list(known)
        wrong = next((name for name in (*self.above, *self.below) if name not in names), None)
        if wrong is None:
            return None
        return f"asks in its 'when' for '{wrong}'{did_you_mean(wrong, names)} (known there: {', '.join(names)})"

    def unmet(self, figures: Mapping[str, float]) -> str:
        """Every limit that is not met, with both numbers; empty if the pass is to run."""
        found = [
            f"{name} is {show(name, figures[name])}, not {side} {show(name, limit)}"
            for side, limits in (("above", self.above), ("below", self.below))
            for name, limit in limits.items()
            if not (figures[name] > limit if side == "above" else figures[name] < limit)
        ]
        return f"its condition ('when') is not met: {'; '.join(found)}" if found else ""


def show(name: str, value: float) -> str:
    """A figure as a person reads it: sizes with a unit, whole numbers whole."""
    if name.rpartition(".")[2].startswith("bytes"):
        return human_bytes(value)
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def numbers(facts: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, float]]:
    """The numbers among an artifact's facts by name, those inside sections too."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{section}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{section}{name}", value
