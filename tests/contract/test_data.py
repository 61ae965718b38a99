"""What every reader and every format promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.core.errors import DataError
from components.core.kinds import registry
from tests import tiny
from tests.contract.common import check_component, named

GOOD = {"messages": {"messages": tiny.conversation(1)}}
BAD = [None, 1, "text", [], {}, {"messages": None}, {"messages": [None]}, {"messages": [[]]}]


@named("reader")
def test_reader(name: str) -> None:
    """Every reader is described and strictly configured (A27)."""
    check_component("reader", name)


@named("format")
def test_format(name: str) -> None:
    """Every format is described and strictly configured (A27)."""
    check_component("format", name)


@named("reader")
def test_rows_keep_bytes_and_lines(name: str, tmp_path: Path) -> None:
    """A reader gives every row with its line and bytes, malformed ones with the reason (E9)."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(tiny.row(1) + b"\nbroken\n" + tiny.row(2).rstrip(b"\n"))
    rows = list(registry.create("reader", name, path=path).rows())
    assert [row.line for row in rows] == [1, 3, 4]
    assert [row.error is None for row in rows] == [True, False, True]
    assert b"".join(row.raw for row in rows) == tiny.row(1) + b"broken\n" + tiny.row(2).rstrip(b"\n")


@named("reader")
def test_missing_source(name: str, tmp_path: Path) -> None:
    """A missing source is a DataError that names it."""
    with pytest.raises(DataError, match="absent"):
        registry.create("reader", name, path=tmp_path / "absent").files()


@named("format")
def test_good_and_bad_values(name: str) -> None:
    """A format takes its own shape and says in words what is wrong with another one; it never raises."""
    shape = registry.create("format", name)
    assert shape.problem(GOOD[name]) is None
    assert shape.messages(GOOD[name]) == tiny.conversation(1)
    for value in BAD:
        assert shape.problem(value), value


@named("format")
def test_only_role_and_content_pass(name: str) -> None:
    """The internal shape holds role and content, nothing else of the row."""
    value = {"messages": [{**message, "weight": 1} for message in tiny.conversation(1)]}
    assert all(set(message) == {"role", "content"} for message in registry.create("format", name).messages(value))
