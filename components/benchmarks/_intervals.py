"""How well a figure is known: 95 % intervals, for the notes of a measurement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CONFIDENCE = 0.95


def of_mean(values: Sequence[float]) -> list[float]:
    """Of a mean over rows: Wilson's where each is right or wrong, else a bootstrap (percentiles, seeded)."""
    import numpy as np
    from scipy import stats

    if all(value in (0, 1) for value in values):
        found = stats.binomtest(int(sum(values)), len(values)).proportion_ci(CONFIDENCE, method="wilson")
        return [float(found.low), float(found.high)]
    drawn = np.random.default_rng(0).choice(np.asarray(values), (2000, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return [float(low), float(high)]


def of_median(values: Sequence[float]) -> dict[str, Any]:
    """Of a median, between two of the values in order, whatever their distribution (a binomial says how often the
    median lies between them). Of a few values the widest interval says less than 95 %: `confidence` tells how much.

    It is about these requests, in this hour; another day on this machine may lie outside.
    """
    from scipy import stats

    ordered, count = sorted(values), len(values)
    skip = max(int(stats.binom.ppf((1 - CONFIDENCE) / 2, count, 0.5)) - 1, 0)
    confidence = 1 - 2 * float(stats.binom.cdf(skip, count, 0.5))
    return {"low": ordered[skip], "high": ordered[-1 - skip], "confidence": round(max(confidence, 0.0), 4), "n": count}
