"""Rows that stand in a split twice but for a few words: reposts, templates, the same page crawled again.

They weigh like exact duplicates and hide from them. Not asked by default, since data made from templates is meant to be
alike. Compared is what users and assistants say (system messages are alike anyway), by MinHash over word triples; the
first row of a group stays. Signatures go to disk, so memory stays below 30 bytes a row; about 330 bytes a row of disk.

Try it: `data: {contract: {rules: {near_duplicate: {action: quarantine, threshold: 0.8}}}}` in a recipe.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, ClassVar

from pydantic import Field, PositiveInt

from components.core.kinds import register
from components.data.rules._found import Found
from components.data.rules._minhash import PERMUTATIONS, Sketches, band_keys, band_width, likeness, ranked, sketches
from components.interfaces import Action, Batch, ModelFacts, Rule, RuleConfig

NEIGHBOURS = 4
"""Rows before it in the same bucket that a row is compared with, besides the bucket's first."""
CHUNK = 1 << 14


@register("rule", "near_duplicate")
class NearDuplicate(Rule):
    """No row shares most of its word triples with one further up in its split; not asked by default."""

    class Config(RuleConfig):
        action: Action = "ignore"
        threshold: float = Field(0.85, gt=0, le=1, description="share of all word groups of two rows that both have")
        words: PositiveInt = Field(3, description="neighbouring words that are compared as one")

    config: Config
    libraries = ("rensa", "polars")
    guess = True
    compares: ClassVar[bool] = True
    _spill: _Spill | None = None

    def prepare(self, model: ModelFacts | None, scratch: Path) -> None:
        self._scratch = scratch
        self._spill = _Spill(scratch, band_width(self.config.threshold))

    def check(self, batch: Batch) -> Mapping[int, str]:
        import numpy as np

        assert self._spill
        positions, texts = _texts(batch)
        found = sketches(texts, self.config.words, _labels(batch, positions))
        self._spill.add(Sketches(np.asarray(batch.positions, np.int64)[positions[found.rows]], found.signatures))
        return {}

    def finish(self, split: str) -> Mapping[int, str]:
        assert self._spill
        positions, percents = self._spill.copies(self.config.threshold)
        self.close()
        self._spill = _Spill(self._scratch, band_width(self.config.threshold))
        reasons = [f"about {percent} % of it stands in a row further up in {split}" for percent in range(101)]
        return Found(positions, percents, reasons)

    def close(self) -> None:
        if self._spill:
            self._spill.close()
        self._spill = None


def _texts(batch: Batch) -> tuple[Any, Any]:
    """Positions of rows in which something is said, and all of it as one text."""
    import polars as pl

    said = batch.messages.filter(~pl.col("role").is_in(["system", "developer"]))
    joined = said.group_by("row", maintain_order=True).agg(pl.col("content").str.join("\n"))
    return joined["row"].to_numpy(), joined["content"]


def _labels(batch: Batch, positions: Any) -> Any:
    """A good and a bad answer may be nearly the same, on purpose."""
    import numpy as np

    if batch.shape != "unpaired":
        return None
    return np.array([bool(batch.rows[position]["label"]) for position in positions], dtype=bool)


class _Spill:
    """Signatures of a split on disk: positions, signatures, and one file of keys a band."""

    def __init__(self, folder: Path, width: int) -> None:
        self.width, self.count = width, 0
        self._files = ExitStack()
        self.positions, self.signatures, *self.bands = (
            self._files.enter_context(TemporaryFile(dir=folder))  # noqa: SIM115
            for _ in range(2 + PERMUTATIONS // width)
        )

    def add(self, found: Sketches) -> None:
        import numpy as np

        self.count += len(found.rows)
        self.positions.write(found.rows.astype(np.int64).tobytes())
        self.signatures.write(found.signatures.tobytes())
        for band, keys in zip(self.bands, band_keys(found.signatures, self.width).T, strict=True):
            band.write(keys.tobytes())

    def copies(self, threshold: float) -> tuple[Any, Any]:
        """Rows that are like an earlier one: positions, and their likeness in per cent."""
        import numpy as np

        alike = np.zeros(self.count, dtype=np.uint8)
        self.signatures.flush()
        for band in self.bands:
            for first, second in _pairs(_read(band, np.uint32)):
                open_ = alike[second] == 0
                self._compare(alike, first[open_], second[open_], threshold)
        found = np.flatnonzero(alike)
        return _read(self.positions, np.int64)[found], alike[found]

    def _compare(self, alike: Any, first: Any, second: Any, threshold: float) -> None:
        import numpy as np

        if not len(second):
            return
        # each row once and in order; read, not mapped: what is mapped and was touched counts as memory
        rows, places = np.unique(np.concatenate([first, second]), return_inverse=True)
        handle, size = self.signatures.fileno(), PERMUTATIONS * 2
        raw = b"".join([os.pread(handle, size, row * size) for row in rows.tolist()])
        signatures = np.frombuffer(raw, np.uint16).reshape(-1, PERMUTATIONS)
        share = likeness(signatures[places[: len(first)]], signatures[places[len(first) :]])
        close = share >= threshold
        alike[second[close]] = np.rint(share[close] * 100)

    def close(self) -> None:
        self._files.close()


def _read(file: IO[bytes], kind: Any) -> Any:
    import numpy as np

    file.flush()
    file.seek(0)
    return np.fromfile(file, kind)


def _pairs(keys: Any) -> Iterator[tuple[Any, Any]]:
    """Rows with equal keys, the earlier one first: each with its neighbours before it and with the bucket's first."""
    import numpy as np

    index = ranked(keys)
    index.sort()
    order, keys = index.astype(np.uint32), (index >> np.uint64(32)).astype(np.uint32)
    del index
    for start in range(0, len(keys), CHUNK):
        end = min(start + CHUNK, len(keys))
        for step in range(1, NEIGHBOURS + 1):
            later = np.arange(max(start, step), end)
            later = later[keys[later] == keys[later - step]]
            yield order[later - step], order[later]
        later = np.arange(max(start, 1), end)
        later = later[keys[later] == keys[later - 1]]
        yield order[np.searchsorted(keys, keys[later])], order[later]
