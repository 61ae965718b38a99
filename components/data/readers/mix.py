"""Several sources as one: interleaved at random by weight, each thinned to a fraction or a number of rows.

data:
  train:
    type: mix
    sources:
      - {reader: {type: jsonl, path: data/own.jsonl}, weight: 3}
      - {reader: {type: json, path: data/alpaca.json}, weight: 1, fraction: 0.5}
    until: first        # stop when one source is used up, so that the proportions hold; all: use up every source

The same seed gives the same rows in the same order. Which rows are kept is told by their bytes, so that rows that are
added later change nothing about the others.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from bisect import bisect
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from components.core.component import StrictConfig
from components.core.kinds import register
from components.core.recipe import OfKind, Spec
from components.interfaces import RawRow, Reader, ReaderConfig

_FULL = 1 << 64
_Stream = tuple[float, Iterator[RawRow], int]
"""Weight of a source, its rows, and where its readers begin among the parts."""


class Source(StrictConfig):
    """One source of a mixture."""

    reader: Annotated[Spec, OfKind("reader")]
    weight: PositiveFloat = Field(1.0, description="how often it is drawn from, relative to the others")
    fraction: float = Field(1.0, gt=0, le=1, description="share of its rows that is kept")
    rows: PositiveInt | None = Field(None, description="number of its rows that is kept; read twice for it")


@register("reader", "mix")
class MixReader(Reader):
    """A weighted mixture of other readers."""

    class Config(ReaderConfig):
        sources: Annotated[list[Source], Field(min_length=1)]
        until: Literal["all", "first"] = Field("all", description="sources that are used up at the end")
        seed: int = Field(17, ge=0)

    config: Config

    @cached_property
    def _readers(self) -> list[Reader]:
        return [source.reader.build() for source in self.config.sources]

    def parts(self) -> Sequence[Reader]:
        """The readers of the sources in order; those of a mixture inside this one in its place."""
        return [part for reader in self._readers for part in reader.parts()]

    def fingerprint(self) -> Mapping[str, str]:
        return {name: digest for reader in self._readers for name, digest in reader.fingerprint().items()}

    def identity(self) -> Mapping[str, Any]:
        sources = [
            {"type": source.reader.type, "reader": reader.identity()}
            | source.model_dump(mode="json", exclude={"reader"})
            for source, reader in zip(self.config.sources, self._readers, strict=True)
        ]
        return {"config": self.config.model_dump(mode="json", exclude={"sources"}), "sources": sources}

    def classes(self) -> Sequence[type]:
        return list(dict.fromkeys((type(self), *(cls for reader in self._readers for cls in reader.classes()))))

    def rows(self) -> Iterator[RawRow]:
        generator = random.Random(self.config.seed)
        firsts = accumulate((len(reader.parts()) for reader in self._readers), initial=0)
        named = zip(self.config.sources, self._readers, firsts, strict=False)
        streams = [(source.weight, self._kept(source, reader), first) for source, reader, first in named]
        while streams:
            bounds = list(accumulate(weight for weight, _, _ in streams))
            ended = yield from _drawn(generator, bounds, streams)
            if self.config.until == "first":
                return
            del streams[ended]

    def _kept(self, source: Source, reader: Reader) -> Iterator[RawRow]:
        """The rows of a source that its fraction and number leave."""
        if source.rows is None and source.fraction == 1:
            return reader.rows()
        limit = int(source.fraction * _FULL)
        if source.rows is None:
            return (row for row in reader.rows() if self._hash(row) < limit)
        hashes = ((self._hash(row), number) for number, row in enumerate(reader.rows()))
        lowest = heapq.nsmallest(source.rows, (found for found in hashes if found[0] < limit))
        chosen = {number for _, number in lowest}
        return (row for number, row in enumerate(reader.rows()) if number in chosen)

    def _hash(self, row: RawRow) -> int:
        # the last line of a file gets its end when lines are added
        raw, key = row.raw.rstrip(b"\r\n"), str(self.config.seed).encode()[:64]
        return int.from_bytes(hashlib.blake2b(raw, digest_size=8, key=key).digest(), "big")


def _drawn(generator: random.Random, bounds: list[float], streams: list[_Stream]) -> Generator[RawRow, None, int]:
    """Rows of sources drawn by weight, until one that is drawn is used up: returns its position."""
    while True:
        drawn = min(bisect(bounds, generator.random() * bounds[-1]), len(bounds) - 1)
        _, rows, first = streams[drawn]
        row = next(rows, None)
        if row is None:
            return drawn
        yield RawRow(*row[:6], first + row.part) if first else row
