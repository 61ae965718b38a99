"""What every reader promises. A new reader needs one line in MAKERS: a small source for it."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import DataError
from components.core.kinds import registry
from components.data.readers.auto import reader_for
from components.interfaces import RawRow, Reader
from tests.contract.common import check_component, named

SPOKEN = [{"prompt": f"Wo ist Paket {n}?", "completion": f'Äh, "dort", {n}\nKilometer'} for n in range(1, 6)]


def jsonl(folder: Path) -> dict[str, Any]:
    lines = [json.dumps(row, ensure_ascii=False) for row in SPOKEN]
    (folder / "rows.jsonl").write_bytes("\n".join(lines).encode())
    return {"path": str(folder / "rows.jsonl")}


def json_list(folder: Path) -> dict[str, Any]:
    (folder / "rows.json").write_text(json.dumps(SPOKEN, indent=2) + "\n")
    return {"path": str(folder / "rows.json")}


def csv_table(folder: Path) -> dict[str, Any]:
    quoted = [[value.replace('"', '""') for value in row.values()] for row in SPOKEN]
    lines = ["prompt,completion", *(f'{prompt},"{completion}"' for prompt, completion in quoted)]
    (folder / "rows.csv").write_bytes("\r\n".join([*lines, ""]).encode())
    return {"path": str(folder / "rows.csv")}


def parquet_table(folder: Path) -> dict[str, Any]:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(SPOKEN), folder / "rows.parquet", row_group_size=2)
    return {"path": str(folder / "rows.parquet")}


def arrow_table(folder: Path) -> dict[str, Any]:
    import pyarrow

    table = pyarrow.Table.from_pylist(SPOKEN)
    with pyarrow.ipc.new_file(folder / "rows.arrow", table.schema) as sink:
        sink.write_table(table, max_chunksize=2)
    return {"path": str(folder / "rows.arrow")}


def paragraphs(folder: Path) -> dict[str, Any]:
    (folder / "rows.txt").write_bytes("\n\n".join(row["completion"] for row in SPOKEN).encode())
    return {"path": str(folder / "rows.txt")}


def dataset(folder: Path) -> dict[str, Any]:
    (folder / "dataset").mkdir()
    jsonl(folder / "dataset")
    (folder / "dataset/rows.jsonl").rename(folder / "dataset/train.jsonl")
    return {"name": str(folder / "dataset")}


def mixture(folder: Path) -> dict[str, Any]:
    first, second = {"type": "jsonl", **jsonl(folder)}, {"type": "csv", **csv_table(folder)}
    return {"sources": [{"reader": first, "weight": 2.0}, {"reader": second, "rows": 3}]}


MAKERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "arrow": arrow_table,
    "auto": jsonl,
    "csv": csv_table,
    "hub": dataset,
    "json": json_list,
    "jsonl": jsonl,
    "mix": mixture,
    "parquet": parquet_table,
    "text": paragraphs,
}
BYTE_IDENTICAL = ("auto", "csv", "json", "jsonl", "text")
"""Text kinds: written again with their framing, the whole file is the same."""
ABSENT: dict[str, dict[str, Any]] = {
    "hub": {"name": "absent"},
    "mix": {"sources": [{"reader": {"type": "jsonl", "path": "absent.jsonl"}}]},
}


def made(name: str, folder: Path) -> tuple[Reader, dict[str, Any]]:
    if name not in MAKERS:
        pytest.fail(f"reader '{name}' has no source to be tested on; add a maker to MAKERS in {__file__}")
    keys = MAKERS[name](folder)
    return registry.create("reader", name, **keys), keys


@named("reader")
def test_reader(name: str) -> None:
    """Every reader is described and strictly configured (A27)."""
    check_component("reader", name)


@named("reader")
def test_rows_have_lines_and_bytes(name: str, tmp_path: Path) -> None:
    """A reader gives its rows in order, each with its line, bytes, value, file and part (E9)."""
    reader, _ = made(name, tmp_path)
    rows = list(reader.rows())
    assert len(rows) == (8 if name == "mix" else 5)
    assert all(row.error is None and row.raw and row.value and row.file for row in rows)
    for part in range(len(reader.parts())):
        lines = [row.line for row in rows if row.part == part]
        assert lines
        assert lines == sorted(set(lines))
        assert lines[0] >= 1


@named("reader")
def test_written_again(name: str, tmp_path: Path) -> None:
    """Rows written with their reader's framing read back to the same values; text files to the same bytes (B22)."""
    reader, keys = made(name, tmp_path)
    rows = list(reader.rows())
    for number, part in enumerate(reader.parts()):
        own = [row for row in rows if row.part == number]
        frame = part.framing()
        again = tmp_path / f"again{number}.{frame.suffix}"
        again.write_bytes(frame.begin + frame.between.join(row.raw for row in own) + frame.end)
        read = list(reader_for(str(again))[1].rows())
        assert [_said(row.value) for row in read] == [_said(row.value) for row in own]
        assert [row.raw for row in read] == [row.raw for row in own]
        if name in BYTE_IDENTICAL:
            assert again.read_bytes() == Path(keys["path"]).read_bytes()


def _said(value: dict[str, Any]) -> dict[str, Any]:
    return {key: each for key, each in value.items() if key != "file"}


@named("reader")
def test_missing_source(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing source is a DataError that names it, from the fingerprint and from the rows."""
    monkeypatch.chdir(tmp_path)
    reader = registry.create("reader", name, **ABSENT.get(name, {"path": "absent.jsonl"}))
    with pytest.raises(DataError, match="absent"):
        reader.fingerprint()
    with pytest.raises(DataError, match="absent"):
        list(reader.rows())


@named("reader")
def test_two_readings_agree(name: str, tmp_path: Path) -> None:
    """Two readings give the same rows in the same order, and the same fingerprint."""
    reader, keys = made(name, tmp_path)
    other = registry.create("reader", name, **keys)
    assert list(reader.rows()) == list(other.rows()) == list(reader.rows())
    assert reader.fingerprint() == other.fingerprint()
    assert all(len(digest) == 64 for digest in reader.fingerprint().values())


@named("reader")
def test_fingerprint_follows_the_bytes(name: str, tmp_path: Path) -> None:
    """Another byte in a file is another fingerprint (E9)."""
    reader, keys = made(name, tmp_path)
    before = dict(reader.fingerprint())
    file = next(Path(name) for name in before)
    file.write_bytes(file.read_bytes() + b"\n")
    after = registry.create("reader", name, **keys).fingerprint()
    assert before.keys() == after.keys()
    assert before != after


@named("reader")
def test_identity_is_of_the_rows(name: str, tmp_path: Path) -> None:
    """The same rows in another folder have the same identity, which JSON can hold; other bytes have another (E9)."""
    folders = tmp_path / "one", tmp_path / "two"
    for folder in folders:
        folder.mkdir()
    (one, first), (two, keys) = (made(name, folder) for folder in folders)
    assert str(tmp_path) not in json.dumps(one.identity())
    assert one.identity() == two.identity()
    file = next(Path(name) for name in two.fingerprint())
    file.write_bytes(file.read_bytes() + b"\n")
    assert registry.create("reader", name, **keys).identity() != one.identity()
    assert registry.create("reader", name, **first, max_row_bytes=9).identity() != one.identity()
    assert one.classes()[0] is type(one)
    assert all(issubclass(cls, Reader) for cls in one.classes())


ODD: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"x",
    "NULs": b"\0" * 1000,
    "line ends": b"\n" * 1000,
    "byte order mark": b"\xef\xbb\xbf",
    "random": random.Random(3).randbytes(5000),
    "huge number": b"[" + b"9" * 100_000 + b"]",
    "deep": b"[" * 50_000 + b"]" * 50_000,
    "HTML": b"<!doctype html><html><body>404</body></html>\n",
    "gzip of nothing": gzip.compress(b""),
    "truncated zst": b"\x28\xb5\x2f\xfd\x20",
    "truncated zip": b"PK\x03\x04\x14\0\0\0",
    "truncated parquet": b"PAR1" + b"\0" * 60 + b"PAR1",
    "truncated arrow": b"ARROW1\0\0" + b"\xff" * 100 + b"ARROW1",
    "end of stream": b"\xff\xff\xff\xff\0\0\0\0",
    "one column": b"text\na\nb\n",
    "object": b'{"a": [1, 2]}',
    "mixed line ends": b'{"a": 1}\r\n{"a": 2}\r{"a": 3}\n\r"',
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("odd", ODD)
@named("reader")
def test_odd_content(name: str, odd: str, tmp_path: Path) -> None:
    """Whatever a file holds, a reader gives rows or one DataError; nothing else escapes, and nothing hangs (B22)."""
    keys = MAKERS[name](tmp_path)
    for file in tmp_path.rglob("*.*"):
        file.write_bytes(ODD[odd])
    reader = registry.create("reader", name, **keys)
    for ask in (reader.rows, reader.framing, reader.identity):
        with contextlib.suppress(DataError):
            found = ask()
            assert not isinstance(found, Iterator) or all(isinstance(row, RawRow) for row in found)


@named("reader")
def test_too_big(name: str, tmp_path: Path) -> None:
    """A row above max_row_bytes is not read: its beginning stays, with its size and the limit (B22)."""
    _, keys = made(name, tmp_path)
    small = {"max_row_bytes": 22}  # the header of the CSV fits
    if name == "mix":
        keys["sources"] = [{**source, "reader": source["reader"] | small} for source in keys["sources"]]
    rows = list(registry.create("reader", name, **keys, **small).rows())
    assert rows
    assert {(row.rule, row.value) for row in rows} == {("too_big", None)}
    assert all(re.match(r"\d+ bytes, max_row_bytes allows 22", row.error or "") for row in rows)
