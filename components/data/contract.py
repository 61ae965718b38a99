"""The data contract: which rows may train a model. Bad rows go to quarantine with line, rule and reason.

The rows' facts become one table; pandera checks every rule on it at once. Good rows keep their bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.core.chat import Message
from components.interfaces import Format, RawRow, Reader

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|[\ud800-\udfff]|\ufffd")
SPECIAL = re.compile(r"<\|[a-z_]{2,30}\|>|<s>|</s>|\[/?INST\]|<(?:start|end)_of_turn>")


@dataclass(frozen=True)
class Bad:
    """A row that failed: where it stands, the rule and why."""

    source: str
    line: int
    rule: str
    reason: str
    raw: str

    def record(self) -> dict[str, Any]:
        return {"source": self.source, "line": self.line, "rule": self.rule, "reason": self.reason, "row": self.raw}


@dataclass
class Checked:
    """The outcome for one split."""

    good: list[RawRow] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)

    @property
    def total(self) -> int:
        return len(self.good) + len(self.bad)


def row_digest(messages: list[Message]) -> str:
    """Identity of a row's content, whatever its formatting: sha256 of the conversation."""
    return hashlib.sha256(json.dumps(messages, ensure_ascii=True, sort_keys=True).encode()).hexdigest()


def prompt_digest(messages: list[Message]) -> str:
    """Identity of what the user said, letter case and spacing aside: catches leaks with another answer."""
    said = " ".join(m["content"] for m in messages if m["role"] == "user")
    return hashlib.sha256(" ".join(said.lower().split()).encode("utf-8", "surrogatepass")).hexdigest()


def check_split(reader: Reader, shape: Format, max_chars: int, forbidden: set[str]) -> Checked:
    """Read a split and sort its rows into good and bad. `forbidden` holds prompt digests of other splits."""
    source = str(reader.files()[0])
    outcome = Checked()
    facts: list[dict[str, Any]] = []
    readable: list[RawRow] = []
    for row in reader.rows():
        problem = row.error or shape.problem(row.value)
        if problem:
            outcome.bad.append(_bad(source, row, "parse" if row.error else "schema", problem))
        else:
            readable.append(row)
            facts.append(_facts(shape.messages(row.value), forbidden))
    failures = dict(_failures(facts, max_chars))
    for position, row in enumerate(readable):
        if position in failures:
            outcome.bad.append(_bad(source, row, *failures[position]))
        else:
            outcome.good.append(row)
            outcome.digests.append(facts[position]["prompt"])
    outcome.bad.sort(key=lambda bad: bad.line)
    return outcome


def _bad(source: str, row: RawRow, rule: str, reason: str) -> Bad:
    return Bad(source, row.line, rule, reason, row.raw.decode("utf-8", "replace").rstrip("\n")[:2000])


def _facts(messages: list[Message], forbidden: set[str]) -> dict[str, Any]:
    texts = [message["content"] for message in messages]
    prompt = prompt_digest(messages)
    return {
        "shortest": min(len(text.strip()) for text in texts),
        "longest": max(len(text) for text in texts),
        "control": sum(bool(CONTROL.search(text)) for text in texts),
        "special": sum(bool(SPECIAL.search(text)) for text in texts),
        "content": row_digest(messages),
        "prompt": prompt,
        "leaks": prompt in forbidden,
    }


def _failures(facts: list[dict[str, Any]], max_chars: int) -> Iterator[tuple[int, tuple[str, str]]]:
    """(position, (rule, reason)) of every row that breaks a rule; the first broken rule names it."""
    if not facts:
        return
    import polars as pl
    from pandera.errors import SchemaErrors

    table = pl.DataFrame(facts).with_columns(pl.col("content").is_first_distinct().alias("first"))
    schema, reasons = _schema(max_chars)
    try:
        schema.validate(table, lazy=True)
    except SchemaErrors as errors:
        seen: set[int] = set()
        for case in errors.failure_cases.iter_rows(named=True):
            rule, position = str(case["check"]), case["index"]
            if position is not None and position not in seen:
                seen.add(position)
                yield position, (rule, reasons[rule])


def _schema(max_chars: int) -> tuple[Any, dict[str, str]]:
    """The pandera schema, and the sentence that explains each rule to a person.

    On polars, pandera reports a failed check by its `error` text, which therefore is the rule's name.
    """
    import pandera.polars as pa

    rules = {
        "empty_text": ("shortest", pa.Check.gt(0, error="empty_text"), "a message is empty or only white space"),
        "too_long": (
            "longest",
            pa.Check.le(max_chars, error="too_long"),
            f"a message exceeds {max_chars:,} characters",
        ),
        "control_characters": (
            "control",
            pa.Check.eq(0, error="control_characters"),
            "control characters, surrogates or replacement marks: the text was damaged on its way",
        ),
        "special_tokens": (
            "special",
            pa.Check.eq(0, error="special_tokens"),
            "a chat template's special token stands in the text; it would end or open a turn",
        ),
        "duplicate": ("first", pa.Check.eq(True, error="duplicate"), "the same conversation stands further up"),
        "overlap": ("leaks", pa.Check.eq(False, error="overlap"), "the same user text stands in another split"),
    }
    columns = {column: pa.Column(checks=check, name=column) for column, check, _ in rules.values()}
    return pa.DataFrameSchema(columns), {rule: reason for rule, (_, _, reason) in rules.items()}


def write_split(outcome: Checked, path: Path) -> None:
    """The good rows, byte for byte."""
    with path.open("wb") as handle:
        for row in outcome.good:
            handle.write(row.raw if row.raw.endswith(b"\n") else row.raw + b"\n")
