"""What every rule of the data contract promises. A new rule needs a line in `EXAMPLES`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from components.core.errors import ConfigError
from components.core.kinds import registry
from components.interfaces import SHAPES, Action, Batch, ColumnRule, ModelFacts, RawRow, Row, Rule
from tests.contract.common import check_component, named

PLAIN = "Where is the parcel that I sent to my aunt in Oslo last week?"
MODEL = ModelFacts(tokenizer=SimpleNamespace(all_special_tokens=["<end>"], added_tokens_decoder={}), context=100)
ENOUGH = {"tokens": 10, "longest": 10, "trained": 4, "silent": False, "unknown": 0, "ends": True}


READING = ("encoding", "parse", "schema", "template", "too_big")
"""Rules of whoever reads, converts or renders a row: they are asked nothing, and cannot be ignored."""
judging = pytest.mark.parametrize("name", sorted(set(registry.names("rule")) - set(READING)))


def chat(prompt: str = PLAIN, answer: str = "It is on its way.", **keys: Any) -> Row:
    """A conversation of two messages."""
    said = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"messages": said, **keys}


def pair(chosen: str, rejected: str) -> Row:
    """A preference row."""
    one, other = ([{"role": "assistant", "content": text}] for text in (chosen, rejected))
    return {"prompt": [{"role": "user", "content": PLAIN}], "chosen": one, "rejected": other}


@dataclass(frozen=True)
class Example:
    """A row that a rule accepts and one that it refuses."""

    good: Row
    bad: Row
    shape: str = "conversation"
    config: dict[str, Any] = field(default_factory=dict)
    held_out: tuple[Row, ...] = ()
    """Rows of the split `test`, seen first."""
    further_up: tuple[Row, ...] = ()
    """Rows of the same split, seen first."""
    tokens: dict[str, Any] = field(default_factory=dict)
    """What the tokenizer finds in the bad row, where it differs from `ENOUGH`."""
    needs: str = ""
    """A package that is not always installed."""


NEARLY = PLAIN.replace("?", ", and who took it there in the end, if anybody ever did so at all, may I ask you now?")
EXAMPLES: dict[str, Example] = {
    "control_characters": Example(chat("a\tb\r\n\u200f"), chat("a\x08b")),
    "damaged_text": Example(chat("un café crème"), chat("un cafÃ© crème")),
    "duplicate": Example(chat("again"), chat(), further_up=(chat(),)),
    "duplicate_id": Example(chat("more", id=2), chat("other", id=1), further_up=(chat(id=1),)),
    "empty_text": Example(chat("."), chat(" \u200b\n")),
    "end_of_turn": Example(chat(), chat("cut"), tokens={"ends": False}),
    "language": Example(
        chat(), chat("Où se trouve le colis que j'ai envoyé à ma tante la semaine dernière ?"), needs="lingua"
    ),
    "near_duplicate": Example(
        chat("What is the capital of Norway, and how many live there?"),
        chat(NEARLY),
        config={"threshold": 0.8},
        further_up=(chat(NEARLY.replace("may I", "can I")),),
    ),
    "near_overlap": Example(
        chat("What is the capital of Norway, and how many live there?"),
        chat(NEARLY),
        config={"threshold": 0.8},
        held_out=(chat(NEARLY.replace("may I", "can I"), "No."),),
    ),
    "no_trained_tokens": Example(chat(), chat("silent"), tokens={"silent": True}),
    "overlap": Example(chat("new"), chat("  WHERE is it?"), held_out=(chat("Where is it?", "Here."),)),
    "personal_data": Example(chat("write to me@example.com"), chat("write to jo.doe@mail.org")),
    "same_answer": Example(pair("Yes.", "No."), pair("Yes.", " yes. "), "preference"),
    "script": Example(chat("Ça va, 12 €?"), chat("包裹在哪里？"), config={"scripts": ["Latin"]}),
    "secrets": Example(chat("sk-learn-is-a-library"), chat("use hf_" + "aB3dE5gH7j" * 4)),
    "special_tokens": Example(chat("<b>bold</b>"), chat("stop<end>")),
    "too_long": Example(chat("ä" * 50), chat("a" * 51), config={"max_chars": 50}),
    "too_many_tokens": Example(chat(), chat("long"), tokens={"longest": 101}),
    "unknown_tokens": Example(chat(), chat("unknown"), tokens={"unknown": 3}),
}


def batch(rows: Sequence[Row], shape: str, tokens: Sequence[dict[str, Any]], split: str, start: int = 0) -> Batch:
    """Rows as the contract hands them over."""
    import numpy as np

    columns = {name: np.array([facts[name] for facts in tokens], type(value)) for name, value in ENOUGH.items()}
    content = [{key: value for key, value in row.items() if key != "id"} for row in rows]
    raws = [RawRow(start + i + 1, b"{}\n", row) for i, row in enumerate(rows)]
    return Batch(split, range(start, start + len(rows)), raws, content, shape, columns)


def verdict(rule: Rule, example: Example, scratch: Path, size: int = 100) -> dict[int, str]:
    """What the rule says of the rows further up, the good row and the bad row of an example, in batches of `size`."""
    rule.prepare(MODEL, scratch)
    found: dict[int, str] = {}
    rows = [*example.further_up, example.good, example.bad]
    for split, given in (("test", example.held_out), ("eval", ()), ("train", rows)):
        facts = [ENOUGH] * len(given)
        if given and split == "train":
            facts[-1] = ENOUGH | example.tokens
        reasons: dict[int, str] = {}
        for at in range(0, len(given), size):
            part = batch(given[at : at + size], example.shape, facts[at : at + size], split, at)
            reasons |= {at + position: reason for position, reason in rule.check(part).items()}
        found = reasons | dict(rule.finish(split))
    rule.close()
    return found


@pytest.fixture
def tried(name: str) -> tuple[Any, Example]:
    """What makes the rule anew, and its example; skipped where a package is missing."""
    if name not in EXAMPLES:
        pytest.fail(f"rule '{name}' has no example of a row it refuses and of one it accepts; add it to EXAMPLES")
    example = EXAMPLES[name]
    if example.needs:
        pytest.importorskip(example.needs)
    return lambda: registry.create("rule", name, **{"action": "quarantine", **example.config}), example


@named("rule")
def test_component(name: str) -> None:
    """Every rule is described, strictly configured, and can be set to `fail`, and to `ignore` unless rows need it."""
    check_component("rule", name)
    config = registry.get("rule", name).Config
    actions = [action for action in get_args(Action) if action != "ignore" or name not in READING]
    assert [config(action=action).action for action in actions] == actions


@pytest.mark.parametrize("name", READING)
def test_reading_goes_before(name: str) -> None:
    """A row that cannot be read is never ignored, and the rule of that name judges no row that could."""
    with pytest.raises(ConfigError, match="ignore"):
        registry.create("rule", name, action="ignore")
    rule = registry.create("rule", name)
    assert dict(rule.check(batch([chat(" ")], "conversation", [ENOUGH], "train"))) == {}
    assert not rule.compares


@judging
def test_tells_good_from_bad(name: str, tried: tuple[Any, Example], tmp_path: Path) -> None:
    """A rule refuses exactly the bad row of its example, and says why in a sentence of one line."""
    make, example = tried
    found = verdict(make(), example, tmp_path)
    assert list(found) == [len(example.further_up) + 1]
    (reason,) = found.values()
    assert len(reason.split()) > 3
    assert "\n" not in reason
    assert not reason.endswith(".")  # the contract goes on with the row's place


@judging
def test_batches_do_not_matter(name: str, tried: tuple[Any, Example], tmp_path: Path) -> None:
    """The same rows get the same verdict however they are cut into batches."""
    make, example = tried
    assert verdict(make(), example, tmp_path, size=1) == verdict(make(), example, tmp_path)


@judging
def test_nothing_is_fine(name: str, tried: tuple[Any, Example], tmp_path: Path) -> None:
    """An empty batch and an empty split break no rule, with or without a model; closing twice is harmless."""
    make, example = tried
    for model in (None, MODEL):
        rule = make()
        rule.prepare(model, tmp_path)
        for split in ("test", "eval", "train"):
            assert dict(rule.check(batch([], example.shape, [], split))) == {}
            assert dict(rule.finish(split)) == {}
        rule.close()
        rule.close()


@judging
def test_scratch_is_left_empty(name: str, tried: tuple[Any, Example], tmp_path: Path) -> None:
    """What a rule writes into its scratch folder is gone once it is closed."""
    make, example = tried
    verdict(make(), example, tmp_path)
    assert list(tmp_path.iterdir()) == []


@named("rule")
def test_declares_what_it_reads(name: str) -> None:
    """Shapes are known ones, and a rule on a column of tokens waits for them."""
    cls = registry.get("rule", name)
    assert cls.shapes
    assert set(cls.shapes) <= set(SHAPES)
    if issubclass(cls, ColumnRule):
        assert cls.on_tokens == (cls.column in ENOUGH)
        assert cls.column in ("content", "bytes", *ENOUGH)


@judging
def test_says_whether_it_compares(name: str) -> None:
    """A rule whose verdict needs other rows says so: it is asked last, about rows that nothing else is wrong with."""
    example = EXAMPLES[name]
    assert registry.get("rule", name).compares == bool(example.held_out or example.further_up)


@pytest.mark.parametrize("name", [n for n in registry.names("rule") if issubclass(registry.get("rule", n), ColumnRule)])
def test_column_rules_answer_for_every_row(name: str) -> None:
    """The expression of a column rule is true or false for every line of its table: one schema holds them all."""
    import polars as pl

    rule = registry.create("rule", name)
    rows = batch([chat("é" * n) for n in range(5)], "conversation", [ENOUGH] * 5, "train")
    table = rows.messages if rule.column == "content" else rows.table
    answers = table.select(broken=rule.broken())["broken"]
    assert answers.dtype == pl.Boolean
    assert (len(answers), answers.null_count()) == (len(table), 0)


def test_every_example_is_of_a_rule() -> None:
    """The table names no rule that is gone."""
    assert set(EXAMPLES) <= set(registry.names("rule"))
