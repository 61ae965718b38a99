"""What benchmarks and gates hand on: figures, per-row results, the scoreboard of a run, and the checks of a verdict.

Components import them from `components.interfaces`, with the base classes of their kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Metric:
    """A figure that a benchmark reports: how it is called, its unit, and which way is better."""

    name: str
    unit: str
    better: Literal["higher", "lower"]
    title: str
    always: bool = True
    """False: absent where this machine cannot tell it (it has no energy counter)."""


class Measurement(BaseModel):
    """What a benchmark found out about one subject. `rows` are its per-row results, the evidence for paired tests."""

    model_config = ConfigDict(frozen=True)
    subject: str
    benchmark: str
    metrics: dict[str, float]
    rows: list[dict[str, Any]] = []
    notes: dict[str, Any] = {}


@dataclass(frozen=True)
class Scoreboard:
    """All measurements of a run."""

    measurements: Sequence[Measurement]
    described: Sequence[Metric] = ()
    """What the recipe's benchmarks say of their metrics, where a recipe stands behind it."""

    def metrics(self, subject: str) -> dict[str, float]:
        """Every metric of a subject, by name."""
        merged: dict[str, float] = {}
        for measurement in self.measurements:
            if measurement.subject == subject:
                merged |= measurement.metrics
        return merged

    def rows(self, subject: str, metric: str) -> dict[str, float]:
        """A metric row by row, by row id; NaN where a row has none."""
        return {
            row["id"]: float("nan") if row[metric] is None else float(row[metric])
            for measurement in self.measurements
            if measurement.subject == subject
            for row in measurement.rows
            if metric in row
        }

    def subjects(self) -> list[str]:
        """Names in the order they were measured."""
        return list(dict.fromkeys(m.subject for m in self.measurements))


class Check(BaseModel):
    """One condition of a gate on one variant: what was required, what was found."""

    model_config = ConfigDict(frozen=True)
    gate: str
    passed: bool
    summary: str
    figures: dict[str, Any] = {}
    p: float | None = None
    """Of a statistical test that is to be corrected where several variants are judged and one is chosen."""
    alpha: float | None = None
    """What `p` has to be below."""
