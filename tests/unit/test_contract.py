"""The engine of the contract: what names a row, what stops a run, and that nothing passes unchecked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import ContractBroken, DataError
from components.core.kinds import register, registry
from components.interfaces import ColumnRule
from tests import tiny
from tests.unit.test_data import Rows, pair, quarantine

OWNER = "test_contract"
TOKEN = "hf_aB3dE5gH7jK9mN1pQ3rS5tU7vW9xY1zA"


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return Rows(tmp_path)


@pytest.fixture
def owned() -> Iterator[None]:
    with registry.owned_by(OWNER):
        yield
        registry.forget(OWNER)


@pytest.mark.parametrize("how", ["a pattern that does not compile", "a column that is not there"])
def test_a_rule_that_cannot_be_checked(rows: Rows, owned: None, how: str) -> None:
    """A rule whose expression fails stops the run and is named: rows never pass because nobody looked (B22)."""

    @register("rule", "broken_rule")
    class BrokenRule(ColumnRule):
        """Fails."""

        reason = "never said"

        def broken(self) -> Any:
            import polars as pl

            return pl.col("content").str.contains("(?<=a)b") if "pattern" in how else pl.col("nope") > 3

    with pytest.raises(DataError, match=r"(?s)rule 'broken_rule' could not be checked: .*or ignore it"):
        rows.validate()


def test_a_rule_that_stops_the_run_names_the_row(rows: Rows) -> None:
    """`fail` holds even if the row breaks other rules that would only quarantine it (B22)."""
    rows.train.write_bytes(rows.train.read_bytes() + pair(user=f"a\x00b {TOKEN}"))
    with pytest.raises(ContractBroken, match="a row breaks 'secrets', whose action is fail"):
        rows.validate(rules={"secrets": "fail"})


@pytest.mark.parametrize(
    ("rule", "bad"),
    [("parse", b"broken\n"), ("schema", b'{"x": 1}\n'), ("encoding", b'{"messages": "\xff"}\n')],
)
def test_reading_rules_may_stop_the_run(rows: Rows, rule: str, bad: bytes) -> None:
    """What is found while a row is read has a name and an action too; it cannot be ignored (B22)."""
    rows.train.write_bytes(rows.train.read_bytes() + bad)
    assert rows.validate().meta["rules"] == {rule: 1}
    with pytest.raises(ContractBroken, match=f"a row breaks '{rule}', whose action is fail"):
        rows.validate(rules={rule: "fail"})
    with pytest.raises(ValueError, match="Input should be 'quarantine' or 'fail'"):
        rows.validate(rules={rule: "ignore"})


def test_rows_are_not_judged_by_rows_that_are_out(rows: Rows) -> None:
    """A row stays though it is like one that was itself thrown out, in its own split or in a held-out one (B22)."""
    said = " ".join(f"word{n}" for n in range(40))
    rows.train.write_bytes(rows.train.read_bytes() + pair(user=said, assistant="a\x00") + pair(user=said + " more"))
    rows.eval.write_bytes(rows.eval.read_bytes() + pair(user="only in a bad row", assistant=" "))
    rows.train.write_bytes(rows.train.read_bytes() + pair(user="only in a bad row"))
    artifact = rows.validate(rules={"near_duplicate": "quarantine"}, max_bad_fraction=0.9)
    assert artifact.meta["rules"] == {"control_characters": 1, "empty_text": 1}


def test_keys_switch_a_rule_on(rows: Rows) -> None:
    """Who says how a rule is to judge wants it to, also if it is not asked by default."""
    rows.train.write_bytes(rows.train.read_bytes() + pair(user="Где мой заказ? Он так и не пришёл."))
    assert rows.validate().meta["rules"] == {}
    assert rows.validate(rules={"script": {"scripts": ["Latin"]}}).meta["rules"] == {"script": 1}


def test_secrets_are_not_spread(rows: Rows) -> None:
    """A secret that a rule found stands in no quarantine, report or page (B22)."""
    rows.train.write_bytes(rows.train.read_bytes() + pair(user=f"my key is {TOKEN}, is it safe?"))
    artifact = rows.validate(rules={"secrets": "quarantine"})
    (entry,) = quarantine(artifact)
    assert entry["rule"] == "secrets"
    assert "is it safe?" in entry["row"]
    for name in ("quarantine.jsonl", "report.json", "report.html"):
        assert TOKEN not in (artifact.path / name).read_text()


def test_every_failing_split_is_told_at_once(rows: Rows) -> None:
    """One error for all splits, with examples of each and what can be done (B22)."""
    rows.train.write_bytes(rows.train.read_bytes() + b"broken\n" * 9)
    rows.eval.write_bytes(rows.eval.read_bytes() + b"broken\n" * 9)
    with pytest.raises(ContractBroken) as caught:
        rows.validate(max_bad_fraction=0.1)
    for text in (
        "9 of 13 eval rows",
        "eval.jsonl:5: parse",
        "9 of 19 train rows",
        "train.jsonl:11: parse",
        "--skip-bad",
    ):
        assert text in str(caught.value)
    assert (caught.value.kept / "quarantine.jsonl").is_file()


def test_splits_of_other_shapes(rows: Rows, tmp_path: Path) -> None:
    """Rows to measure on have the shape of the training rows; else one error names both (B22)."""
    (tmp_path / "e.txt").write_text("some text\n")
    with pytest.raises(DataError, match="all splits need rows of one shape, found train conversation, eval text"):
        rows.validate({"eval": {"type": "text", "path": str(tmp_path / "e.txt")}})


def test_group_by_a_column_that_is_not_there(rows: Rows) -> None:
    """A column to group by that no row has is named, with those that there are."""
    with pytest.raises(DataError, match="split.group_by: no row has a column 'client'; columns found: messages"):
        rows.validate({"eval": None, "split": {"eval": 0.5, "group_by": "client"}})


def test_too_few_rows_to_split(rows: Rows) -> None:
    """A held-out split without rows says that there are too few, not that a path is wrong."""
    rows.train.write_bytes(tiny.row(1))
    with pytest.raises(DataError, match=r"too few rows, or groups, for split\.eval=0\.01"):
        rows.validate({"eval": None, "split": {"eval": 0.01}})


def test_overlapping_chunks_are_not_split(rows: Rows, tmp_path: Path) -> None:
    """Chunks that share text must not stand in two splits."""
    (tmp_path / "a.txt").write_text("word " * 500)
    source = {"type": "text", "path": str(tmp_path / "a.txt"), "chunk_chars": 100, "overlap_chars": 20}
    with pytest.raises(DataError, match="keep a document's chunks together with split.group_by=file"):
        rows.validate({"train": source, "eval": None, "split": {"eval": 0.5}})


def test_a_file_that_grows_while_it_is_read(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was hashed is what was read, or there is an error and no data set (bar 7)."""
    from components.services import data

    def grows(*arguments: Any) -> Any:
        rows.train.write_bytes(rows.train.read_bytes() + tiny.row(50))
        return open_source(*arguments)

    open_source = data.open_source
    monkeypatch.setattr(data, "open_source", grows)
    with pytest.raises(DataError, match="a file changed while it was read"):
        rows.validate()


def test_bad_answers_are_not_measured_against(rows: Rows) -> None:
    """Of labelled answers only the good ones are an expected answer; the others train (B22)."""
    from components.services.data import load_rows

    for path, first in ((rows.train, 0), (rows.eval, 100)):
        values = [
            {"prompt": f"Question {n}?", "completion": f"Answer {n}.", "label": n % 2 == 0}
            for n in range(first, first + 6)
        ]
        path.write_text("".join(json.dumps(value) + "\n" for value in values))
    artifact = rows.validate()
    assert artifact.meta["shape"] == "unpaired"
    assert len(load_rows(artifact).conversations) == 3
    assert artifact.meta["rows"] == {"train": 6, "eval": 6}
