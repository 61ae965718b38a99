"""Figures of one split, gathered while its rows go by: lengths, tokens, what is trained on."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import compress
from typing import Any

from components.interfaces import Batch

QUANTILES = (0, 5, 25, 50, 75, 95, 99, 100)
BARS = 40
FIGURES = ("messages", "characters", "longest", "tokens", "trained", "unknown")


class Statistics:
    """Of the good rows of one split, four bytes a row and figure."""

    def __init__(self) -> None:
        self.values = {name: array("i") for name in FIGURES}

    def add(self, batch: Batch) -> None:
        """Count the rows of a batch; its `tokens` are there once tokenised."""
        import polars as pl

        lengths = batch.messages.group_by("row").agg(pl.len(), pl.col("content").str.len_chars().sum())
        rows = pl.DataFrame({"row": range(len(batch.rows))}, schema={"row": pl.Int32})
        rows = rows.join(lengths, on="row", how="left", maintain_order="left")
        self.values["messages"].extend(rows["len"].fill_null(0).to_list())
        self.values["characters"].extend(rows["content"].fill_null(0).to_list())
        for name in FIGURES[2:] if batch.tokens else ():
            self.values[name].extend(batch.tokens[name].tolist())  # type: ignore[index]

    def keep(self, kept: Sequence[bool]) -> None:
        """Forget the rows that were taken out again."""
        self.values = {name: array("i", compress(values, kept)) for name, values in self.values.items()}

    def report(self) -> dict[str, Any]:
        """Plain figures for the data report."""
        found = {name: spread(self.values[name]) for name in ("messages", "characters")}
        if self.values["tokens"]:
            total, trained = sum(self.values["tokens"]), sum(self.values["trained"])
            found["tokens"] = {
                **spread(self.values["longest"]),
                "total": total,
                "trained": trained,
                "trained_fraction": round(trained / total, 4),
                "unknown": sum(self.values["unknown"]),
            }
        return found


def spread(values: array[int]) -> dict[str, Any]:
    """Quantiles and a histogram; its last bar takes the longest percent, so one long row does not hide the rest."""
    import numpy as np

    if not values:
        return {}
    numbers = np.frombuffer(values, dtype=np.int32)
    quantiles = [int(q) for q in np.percentile(numbers, QUANTILES, method="lower")]
    low, top = quantiles[0], max(quantiles[-2], quantiles[0] + 1)
    counts, edges = np.histogram(np.minimum(numbers, top), bins=min(BARS, top - low + 1))
    return {
        "mean": round(float(numbers.mean()), 1),
        "quantiles": dict(zip((f"p{q}" for q in QUANTILES), quantiles, strict=True)),
        "histogram": {"counts": counts.tolist(), "edges": [round(edge, 1) for edge in edges.tolist()]},
    }
