"""One pass over the rows of a data set: parse, convert, check, tokenise, write. Memory does not grow with the rows.

Held-out splits come first, so that a row which stands in two is taken out of training, never out of the measurement.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import orjson

from components.core.encoding import EncodedRow, Encoder
from components.core.errors import DataError
from components.core.recipe import DataSection
from components.data.contract import Bad, Broken, Contract
from components.data.membership import membership
from components.data.source import Source, check_group
from components.data.statistics import Statistics
from components.data.writer import SplitWriter
from components.interfaces import BadRow, Batch, ModelFacts, RawRow, Row

SPLITS = ("test", "eval", "train")
QUARANTINE = "quarantine.jsonl"
BATCH = 2048
BATCH_BYTES = 8_000_000
EXAMPLES = 3
FEWER = (1_000_000, 50, 50)
"""Thresholds of the garbage collector: rows hold no cycles, so looking for them a tenth of the time finds nothing."""


@dataclass
class Outcome:
    """What became of one split."""

    split: str
    good: int = 0
    bad: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    statistics: Statistics = field(default_factory=Statistics)
    files: list[str] = field(default_factory=list)
    """What `file` in the split's index counts in."""

    @property
    def total(self) -> int:
        return self.good + self.bad


class Validation:
    """Checks the splits of a data section into `out`."""

    def __init__(self, section: DataSection, out: Path, encoder: Encoder | None, model: ModelFacts | None) -> None:
        self.section, self.out, self.encoder, self.model = section, out, encoder, model
        self.shape = ""
        scratch = out / ".scratch"
        scratch.mkdir()
        self.contract = Contract(section.contract.all_rules(), model, scratch)
        self.examples: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self._systems: set[str | None] = set()

    def first_examples(self, split: str) -> list[dict[str, Any]]:
        """A few of the split's bad rows, one of each rule first."""
        mine = [records for (name, _), records in self.examples.items() if name == split]
        return [record for turn in zip_longest(*mine) for record in turn if record][:5]

    def common_system(self) -> str | None:
        """The system message if all training rows share one: what a served model has to be asked with."""
        return next(iter(self._systems)) if len(self._systems) == 1 else None

    def run(self, sources: Mapping[str, Source]) -> dict[str, Outcome]:
        """The outcome by split. `sources` by split; a split that is held out has none of its own."""
        self.shape = sources["train"].shape
        check_group(self.section, sources["train"])
        other = [f"{split} {source.shape}" for split, source in sources.items() if source.shape != self.shape]
        if other:
            raise DataError(
                f"all splits need rows of one shape, found train {self.shape}, {', '.join(other)}; "
                "name the format under data, or inside a split's reader"
            )
        member = membership(self.section.split) if self.section.split else None
        names = [name for name in SPLITS if name in sources or (member and _wanted(self.section, name))]
        with (self.out / QUARANTINE).open("wb") as self._quarantine, _few_collections():
            try:
                return {name: self._split(name, sources.get(name), sources["train"], member) for name in names}
            finally:
                self.contract.close()

    def _split(self, name: str, own: Source | None, train: Source, member: Any) -> Outcome:
        source = own or train
        chosen = member if own is None or name == "train" else None
        outcome = Outcome(name)
        start = 0
        with SplitWriter(self.out, name, source.shape, source.reader, self.encoder is not None) as writer:
            for raws in _batches(source.reader.rows()):
                batch = self._parse(name, start, raws, source, chosen, outcome)
                start += len(batch.rows)
                self._check(batch, writer, outcome)
        outcome.files = list(writer.files)
        self._finish(source.shape, writer, outcome)
        return outcome

    def _parse(
        self, name: str, start: int, raws: Sequence[RawRow], source: Source, member: Any, outcome: Outcome
    ) -> Batch:
        """The rows that parse and belong to this split; the others go to quarantine (once, with the training rows)."""
        kept: list[RawRow] = []
        rows: list[Row] = []
        counts_bad = member is None or name == "train"
        for raw in raws:
            try:
                if raw.error is not None:
                    raise BadRow(raw.error)
                row = source.formats[raw.part].convert(raw.value)
                if member is None or member(raw.value, row) == name:
                    kept.append(raw)
                    rows.append(row)
            except BadRow as error:
                if counts_bad:
                    self._reject(outcome, Bad.of(raw, [(raw.rule if raw.error else "schema", str(error))]))
        return Batch(name, range(start, start + len(rows)), kept, rows, source.shape)

    def _check(self, batch: Batch, writer: SplitWriter, outcome: Outcome) -> None:
        """Rules, tokens, rules on tokens, rules between rows; what is left is written."""
        if not batch.rows:
            return
        broken = self.contract.check(batch)
        chosen = [place for place in range(len(batch.rows)) if place not in broken]
        encoded, facts = self._encode(batch, chosen, broken)
        good = [i for i, place in enumerate(chosen) if place not in broken]
        left = [chosen[i] for i in good]
        for position, reasons in self.contract.compare(batch.some(left)).items():
            broken[left[position]] = reasons
        good = [i for i in good if chosen[i] not in broken]
        chosen, encoded = [chosen[i] for i in good], [encoded[i] for i in good if encoded]
        for place in sorted(broken):
            self._reject(outcome, Bad.of(batch.raws[place], broken[place]))
        kept = batch.some(chosen, {name: values[good] for name, values in facts.items()})
        writer.write(kept, encoded)
        outcome.statistics.add(kept)
        outcome.good += len(chosen)
        if batch.split == "train" and len(self._systems) < 2:
            self._systems |= {_system(row) for row in kept.rows}

    def _encode(
        self, batch: Batch, chosen: Sequence[int], broken: Broken
    ) -> tuple[list[EncodedRow], Mapping[str, Any]]:
        """Tokens of the chosen rows and the facts about them; what they break is added to `broken`."""
        if self.encoder is None or not chosen:
            return [], {}
        encoded = self.encoder.encode([batch.rows[i] for i in chosen])
        facts = self.encoder.facts(encoded)
        for position, reasons in self.contract.check(batch.some(chosen, facts)).items():
            broken[chosen[position]] = reasons
        for place, row in zip(chosen, encoded, strict=True):
            if row.error is not None:
                broken[place] = [("template", row.error)]
        return encoded, facts

    def _finish(self, shape: str, writer: SplitWriter, outcome: Outcome) -> None:
        """Take out what is known to be bad only now that every row was seen."""
        import numpy as np

        found = self.contract.finish(outcome.split, shape)
        if not found:
            return
        places = [np.fromiter(positions, np.int64, len(positions)) for positions in found.values()]
        broken = np.unique(np.concatenate(places))
        outcome.statistics.keep(writer.kept(broken))
        for position, file, line, raw in writer.remove(broken):
            reasons = [(name, reason) for name, by_row in found.items() if (reason := by_row.get(position))]
            self._reject(outcome, Bad.of(RawRow(line, raw, file=file), reasons))
            outcome.good -= 1

    def _reject(self, outcome: Outcome, bad: Bad) -> None:
        outcome.bad += 1
        outcome.rules[bad.rule] += 1
        record = bad.record(outcome.split, self.contract.shown)
        self._quarantine.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        shown = self.examples.setdefault((outcome.split, bad.rule), [])
        if len(shown) < EXAMPLES:
            shown.append(record)


def _system(row: Row) -> str | None:
    first = (row.get("messages") or row.get("prompt") or [{}])[0]
    return first.get("content") if first.get("role") == "system" else None


def _wanted(section: DataSection, split: str) -> bool:
    """Whether rows of the training source go into this split."""
    return split == "train" or bool(section.split and getattr(section.split, split))


def _batches(rows: Iterable[RawRow]) -> Iterator[list[RawRow]]:
    """Rows in portions that fit into memory however long they are."""
    batch: list[RawRow] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row.raw)
        if len(batch) == BATCH or size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@contextmanager
def _few_collections() -> Iterator[None]:
    """Loaded libraries hold a million objects, which the collector would go through again and again."""
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*FEWER)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
