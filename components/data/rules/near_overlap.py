"""Rows whose prompt stands in a held-out split but for a few words.

A reworded exam question is still the exam. What the user says is compared by MinHash over word triples with every
split that was seen before; held-out splits are small, so their signatures stay in memory (about 500 bytes a row) and
training rows are judged as they come. Where all prompts are made from one template they are alike on purpose: raise the
threshold, or ignore the rule.

Try it: `data: {contract: {rules: {near_overlap: {threshold: 0.9}}}}` in a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from components.core.kinds import register
from components.data.rules._minhash import PERMUTATIONS, band_keys, band_width, likeness, sketches
from components.interfaces import Batch, ModelFacts, Rule, RuleConfig

NEIGHBOURS = 4
"""Rows of a bucket that are compared."""


@register("rule", "near_overlap")
class NearOverlap(Rule):
    """What the user says is not nearly the same as in a held-out split."""

    class Config(RuleConfig):
        threshold: float = Field(0.75, gt=0, le=1, description="share of all word groups of two prompts that both have")
        words: PositiveInt = Field(3, description="neighbouring words that are compared as one")

    config: Config
    libraries = ("rensa", "polars")
    guess = True

    def prepare(self, model: ModelFacts | None, scratch: Path) -> None:
        self._index = _Index(band_width(self.config.threshold))

    def check(self, batch: Batch) -> Mapping[int, str]:
        import numpy as np
        import polars as pl

        last = batch.split == "train"
        if last and not self._index.splits:
            return {}
        rows, signatures = sketches(pl.Series(batch.prompts, dtype=pl.String), self.config.words)
        share, split = self._index.best(signatures)
        if not last:
            self._index.keep(batch.split, signatures)
        return {
            int(rows[at]): f"about {share[at]:.0%} of what the user says also stands in {split[at]}"
            for at in np.flatnonzero(share >= self.config.threshold)
        }

    def finish(self, split: str) -> Mapping[int, str]:
        self._index.sort()
        return {}


class _Index:
    """Signatures of held-out rows, and for each band their keys in order."""

    def __init__(self, width: int) -> None:
        import numpy as np

        self.width = width
        self.splits: list[str] = []
        self._signatures = [np.empty((0, PERMUTATIONS), np.uint16)]
        self._owners = [np.empty(0, np.uint8)]
        self._bands: list[tuple[Any, Any]] = []

    def keep(self, split: str, signatures: Any) -> None:
        """Remember rows; they are compared with once `sort` was called."""
        import numpy as np

        if split not in self.splits:
            self.splits.append(split)
        self._signatures.append(signatures)
        self._owners.append(np.full(len(signatures), self.splits.index(split), np.uint8))

    def sort(self) -> None:
        import numpy as np

        self._signatures = [np.concatenate(self._signatures)]
        self._owners = [np.concatenate(self._owners)]
        keys = band_keys(self._signatures[0], self.width)
        orders = np.argsort(keys, axis=0, kind="stable").T
        self._bands = [(column[order], order) for column, order in zip(keys.T, orders, strict=True)]

    def best(self, signatures: Any) -> tuple[Any, list[str]]:
        """For each signature the likeness of the most alike row that was kept, and the split of that row."""
        import numpy as np

        share, owner = np.zeros(len(signatures)), np.zeros(len(signatures), np.uint8)
        for (keys, order), wanted in zip(self._bands, band_keys(signatures, self.width).T, strict=False):
            begin, end = np.searchsorted(keys, wanted), np.searchsorted(keys, wanted, side="right")
            for step in range(NEIGHBOURS):
                rows = np.flatnonzero(begin + step < end)
                found = order[begin[rows] + step]
                close = likeness(signatures[rows], self._signatures[0][found])
                better = close > share[rows]
                share[rows[better]] = close[better]
                owner[rows[better]] = self._owners[0][found[better]]
        return share, [self.splits[number] for number in owner] if self.splits else []
