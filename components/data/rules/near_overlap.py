"""Rows whose prompt stands in a held-out split but for a few words.

A reworded exam question is still the exam. What the user says is compared by MinHash over word triples with every
split that was seen before. Of a held-out row an index of about 200 bytes stays in memory, its signature (256 bytes) is
on disk; training rows are judged as they come. Where all prompts are made from one template they are alike on purpose:
raise the threshold, or ignore the rule.

Try it: `data: {contract: {rules: {near_overlap: {threshold: 0.9}}}}` in a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from components.core.kinds import register
from components.data.rules._minhash import PERMUTATIONS, band_keys, band_width, likeness, ranked, sketches
from components.interfaces import Batch, ModelFacts, Rule, RuleConfig

NEIGHBOURS = 4
"""Rows of a bucket that are compared."""
CHUNK = 1 << 14


@register("rule", "near_overlap")
class NearOverlap(Rule):
    """What the user says is not nearly the same as in a held-out split."""

    class Config(RuleConfig):
        threshold: float = Field(0.75, gt=0, le=1, description="share of all word groups of two prompts that both have")
        words: PositiveInt = Field(3, description="neighbouring words that are compared as one")

    config: Config
    libraries = ("rensa", "polars")
    guess = True
    compares: ClassVar[bool] = True
    _index: _Index | None = None

    def prepare(self, model: ModelFacts | None, scratch: Path) -> None:
        self._index = _Index(scratch, band_width(self.config.threshold))

    def check(self, batch: Batch) -> Mapping[int, str]:
        import numpy as np
        import polars as pl

        assert self._index
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
        if self._index:
            self._index.sort()
        return {}

    def close(self) -> None:
        if self._index:
            self._index.close()
        self._index = None


class _Index:
    """Signatures of held-out rows in a file, and for each band their keys in order."""

    def __init__(self, folder: Path, width: int) -> None:
        import numpy as np

        self.width = width
        self.splits: list[str] = []
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115
        self._signatures = np.empty((0, PERMUTATIONS), np.uint16)
        self._ends: list[int] = []
        """Rows that were kept up to the end of each split."""
        self._bands = np.empty((0, 0), np.uint64)

    def keep(self, split: str, signatures: Any) -> None:
        """Remember rows; they are compared with once `sort` was called."""
        if split not in self.splits:
            self.splits.append(split)
            self._ends.append(self._ends[-1] if self._ends else 0)
        self._file.write(signatures.tobytes())
        self._ends[-1] += len(signatures)

    def sort(self) -> None:
        import numpy as np

        count = self._ends[-1] if self._ends else 0
        if count == len(self._signatures):
            return
        self._bands = np.empty((0, 0), np.uint64)
        self._bands = np.empty((PERMUTATIONS // self.width, count), np.uint64)
        # read, not mapped: what is mapped and was touched counts as memory
        self._file.seek(0)
        for start in range(0, count, CHUNK):
            part = np.frombuffer(self._file.read(CHUNK * PERMUTATIONS * 2), np.uint16).reshape(-1, PERMUTATIONS)
            for band, keys in zip(self._bands, band_keys(part, self.width).T, strict=True):
                band[start : start + len(part)] = ranked(keys, start)
        for band in self._bands:
            band.sort()
        mapped = mmap(self._file.fileno(), count * PERMUTATIONS * 2, access=ACCESS_READ)
        self._signatures = np.frombuffer(mapped, np.uint16).reshape(count, PERMUTATIONS)

    def best(self, signatures: Any) -> tuple[Any, list[str]]:
        """For each signature the likeness of the most alike row that was kept, and the split of that row."""
        import numpy as np

        share, owner = np.zeros(len(signatures)), np.zeros(len(signatures), np.int64)
        for band, keys in zip(self._bands, band_keys(signatures, self.width).T, strict=False):
            wanted = keys.astype(np.uint64) << np.uint64(32)
            begin = np.searchsorted(band, wanted)
            end = np.searchsorted(band, wanted | np.uint64(0xFFFFFFFF), side="right")
            for step in range(NEIGHBOURS):
                rows = np.flatnonzero(begin + step < end)
                found = band[begin[rows] + step].astype(np.uint32)
                close = likeness(signatures[rows], self._signatures[found])
                better = close > share[rows]
                share[rows[better]] = close[better]
                owner[rows[better]] = np.searchsorted(self._ends, found[better], side="right")
        return share, [self.splits[number] for number in owner] if self.splits else []

    def close(self) -> None:
        self._file.close()
