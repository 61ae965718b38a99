"""The data contract: which rows may train a model. Bad rows go to quarantine with file, line, rule and reason.

Rules that are one expression on a column are checked together, through one pandera schema on the batch's table; the
others are asked one by one. Nothing is dropped without a line in the quarantine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core.errors import DataError
from components.core.recipe import Spec
from components.interfaces import Batch, ColumnRule, ModelFacts, RawRow, Rule

SHOWN = 2_000
"""Characters of a bad row that the quarantine keeps."""
Broken = dict[int, list[tuple[str, str]]]
"""Position -> (rule, reason) of every rule that the row breaks."""


@dataclass(frozen=True)
class Bad:
    """A row that failed: where it stands, the rule and why; `also`: the other rules it breaks."""

    file: str
    line: int
    rule: str
    reason: str
    raw: bytes
    also: tuple[str, ...] = ()

    @classmethod
    def of(cls, row: RawRow, broken: Sequence[tuple[str, str]]) -> Bad:
        (rule, reason), *others = broken
        return cls(row.file, row.line, rule, reason, row.raw, tuple(name for name, _ in others))

    def record(self, split: str, shown: Callable[[str], str] = str) -> dict[str, Any]:
        """A line of the quarantine; `shown` takes out what nobody is to see."""
        text = shown(self.raw.decode("utf-8", "replace").rstrip("\r\n")[:SHOWN])
        also = {"also": list(self.also)} if self.also else {}
        return {"split": split, "file": self.file, "line": self.line, "rule": self.rule, "reason": self.reason,
                **also, "row": text}  # fmt: skip


class Contract:
    """The rules of one validation, each one instance that sees every split."""

    def __init__(self, rules: Mapping[str, Spec], model: ModelFacts | None, scratch: Path) -> None:
        built: dict[str, Rule] = {name: spec.build() for name, spec in rules.items()}
        # a rule that stops the run names the row that breaks it, whatever else the row breaks
        self.rules = dict(sorted(built.items(), key=lambda item: (item[1].config.action != "fail", item[1].guess)))
        for rule in self.rules.values():
            rule.prepare(model, scratch)
        self._schemas: dict[tuple[str, ...], Any] = {}

    def check(self, batch: Batch) -> Broken:
        """What each row of a batch breaks by itself: before it is tokenised, or once `batch.tokens` is there."""
        rules = self._for(batch.shape, on_tokens=batch.tokens is not None, compares=False)
        broken: Broken = defaultdict(list)
        for position, name, reason in self._columns(rules, batch):
            broken[position].append((name, reason))
        for name, rule in rules.items():
            if not isinstance(rule, ColumnRule):
                for position, reason in rule.check(batch).items():
                    broken[position].append((name, reason))
        order = list(rules)
        for reasons in broken.values():
            reasons.sort(key=lambda found: order.index(found[0]))
        return broken

    def compare(self, batch: Batch) -> Broken:
        """What rows break beside other rows. A rule sees only what the ones before it let pass: nothing is refused for
        being like a row that was itself thrown out."""
        broken: Broken = {}
        left = list(range(len(batch.rows)))
        for name, rule in self._for(batch.shape, on_tokens=False, compares=True).items():
            found = rule.check(batch.some(left))
            broken |= {left[position]: [(name, reason)] for position, reason in found.items()}
            left = [place for position, place in enumerate(left) if position not in found]
        return broken

    def finish(self, split: str, shape: str) -> dict[str, Mapping[int, str]]:
        """What was found only once the whole split was seen: rule -> position in the split -> reason."""
        found = {name: rule.finish(split) for name, rule in self.rules.items() if shape in rule.shapes}
        return {name: positions for name, positions in found.items() if len(positions)}

    def shown(self, text: str) -> str:
        """A bad row as it may be kept: without the secrets and addresses that rules found."""
        for rule in self.rules.values():
            text = rule.shown(text)
        return text

    def close(self) -> None:
        """Let the rules give back what they hold."""
        for rule in self.rules.values():
            rule.close()

    def fatal(self, rule: str) -> bool:
        """Whether one broken row of this rule stops the run."""
        return rule in self.rules and self.rules[rule].config.action == "fail"

    def _for(self, shape: str, on_tokens: bool, compares: bool) -> dict[str, Rule]:
        return {
            name: rule
            for name, rule in self.rules.items()
            if shape in rule.shapes and rule.on_tokens == on_tokens and rule.compares == compares
        }

    def _columns(self, rules: Mapping[str, Rule], batch: Batch) -> list[tuple[int, str, str]]:
        """(position in the batch, rule, reason) of what the column rules find."""
        found: list[tuple[int, str, str]] = []
        for content in (True, False):
            chosen = {
                n: r for n, r in rules.items() if isinstance(r, ColumnRule) and (r.column == "content") == content
            }
            if chosen:
                table = batch.messages if content else batch.table
                for name, index in self._failures(chosen, table):
                    found.append((int(table["row"][index]), name, chosen[name].reason))
        # a row with two bad messages breaks a rule once
        return list(dict.fromkeys(found))

    def _failures(self, rules: Mapping[str, ColumnRule], table: Any) -> list[tuple[str, int]]:
        """(rule, line of the table), through one pandera schema; it reports a failed check by its `error` text."""
        from pandera.errors import SchemaErrors

        key = tuple(rules)
        if key not in self._schemas:
            self._schemas[key] = _schema(rules)
        try:
            self._schemas[key].validate(table, lazy=True)
        except SchemaErrors as errors:
            cases = errors.failure_cases
            _refuse_unchecked(cases, key)
            found = cases.select("check", "index").iter_rows()
            return sorted(found, key=lambda case: (case[1], key.index(case[0])))
        return []


def _refuse_unchecked(cases: Any, rules: Sequence[str]) -> None:
    """pandera reports a check that raised as one more failed case, without a row: no row was checked then."""
    import polars as pl

    for case in cases.filter(pl.col("index").is_null() | ~pl.col("check").is_in(list(rules))).iter_rows(named=True):
        why = str(case["failure_case"]).replace("\\n", "\n").partition("\n\n")[0]
        raise DataError(
            f"rule '{case['check']}' could not be checked: {why}; correct the rule, or ignore it: "
            f"contract: {{rules: {{{case['check']}: ignore}}}}"
        )


def _schema(rules: Mapping[str, ColumnRule]) -> Any:
    import pandera.polars as pa

    def holds(rule: ColumnRule) -> Callable[[Any], Any]:
        return lambda data: data.lazyframe.select(~rule.broken())

    columns: dict[str, list[Any]] = defaultdict(list)
    for name, rule in rules.items():
        columns[rule.column].append(pa.Check(holds(rule), error=name))
    return pa.DataFrameSchema({column: pa.Column(checks=checks, name=column) for column, checks in columns.items()})
