"""Readers on bad input: each fault is one row with its reason, or one error that names the file and the remedy."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
import tracemalloc
import zipfile
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import ConfigError, DataError, MissingExtraError
from components.core.kinds import registry
from components.data.readers.auto import reader_for
from components.interfaces import RawRow, Reader

ROWS = b'{"text": "one"}\n{"text": "two"}\n'


def reader(kind: str, path: Any, **keys: Any) -> Reader:
    return registry.create("reader", kind, path=path, **keys)


def read(kind: str, path: Any, **keys: Any) -> list[RawRow]:
    return list(reader(kind, path, **keys).rows())


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def said(rows: list[RawRow]) -> list[Any]:
    return [row.value for row in rows]


# ---------------------------------------------------------------- finding files


def test_directory_glob_and_list(tmp_path: Path) -> None:
    """A path is a file, a directory, a glob, or a list of them; a file counts once, in sorted order."""
    for name in ("b.jsonl", "a.jsonl.gz", "deep/c.ndjson", "notes.md", ".hidden.jsonl"):
        put(tmp_path / name, gzip.compress(ROWS) if name.endswith("gz") else ROWS)
    names = lambda path: [Path(name).name for name in reader("jsonl", path).fingerprint()]  # noqa: E731
    assert names(tmp_path) == ["a.jsonl.gz", "b.jsonl"]
    assert names(f"{tmp_path}/**/*.ndjson") == ["c.ndjson"]
    assert names([f"{tmp_path}/b.jsonl", tmp_path]) == ["b.jsonl", "a.jsonl.gz"]
    assert len(read("jsonl", tmp_path)) == 4


def test_nothing_found(tmp_path: Path) -> None:
    """An empty directory, a glob without match and a missing file are one DataError that says what was looked for."""
    with pytest.raises(DataError, match=r"holds no data file; looked for .jsonl, .ndjson.*\*\*/\*.jsonl"):
        read("jsonl", tmp_path)
    with pytest.raises(DataError, match=r"no file matches '.*\*.csv'"):
        read("csv", f"{tmp_path}/*.csv")
    with pytest.raises(DataError, match="'nowhere.csv' does not exist"):
        read("csv", "nowhere.csv")


def test_tracked_by_dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where DVC tracks the missing files, the error says how to fetch them."""
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "data.dvc", b"")
    with pytest.raises(DataError, match=r"run: dvc pull data.dvc"):
        read("jsonl", "data/triage/train.jsonl")


def test_names_are_those_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is relative in the fingerprint too, and the digest is that of the stored bytes."""
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "data/a.jsonl", b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert reader("jsonl", "data").fingerprint() == {"data/a.jsonl": empty}
    assert read("jsonl", "data") == []


def test_addresses() -> None:
    """An address goes through fsspec: file, directory and glob (E9)."""
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe({"/set/a.jsonl": ROWS, "/set/b.jsonl.gz": gzip.compress(ROWS), "/set/c.csv": b"text\nx\n"})
    assert len(read("jsonl", "memory://set/a.jsonl")) == 2
    assert len(read("jsonl", "memory://set/*.jsonl*")) == 4
    assert list(reader("jsonl", "memory://set").fingerprint()) == ["memory:///set/a.jsonl", "memory:///set/b.jsonl.gz"]
    assert reader_for("memory://set/c.csv")[0] == "csv"
    with pytest.raises(DataError, match="memory://set/absent"):
        read("jsonl", "memory://set/absent.jsonl")
    memory.rm("/set", recursive=True)


def test_missing_file_system() -> None:
    """An address whose package is not installed names what to install."""
    import fsspec

    fsspec.register_implementation("cloud", "no_such_package.System", errtxt="Install cloudfs to access Cloud")
    with pytest.raises(MissingExtraError, match=r"'cloud://bucket/rows.jsonl' cannot be opened: Install cloudfs"):
        read("jsonl", "cloud://bucket/rows.jsonl")
    with pytest.raises(DataError, match="nonsense://x"):
        read("jsonl", "nonsense://x")


def test_addresses_without_answer(tmp_path: Path) -> None:
    """A server that does not answer and an archive that is missing are a DataError that names the address (B22)."""
    for address in (f"zip://a.jsonl::{tmp_path}/missing.zip", "ftp://127.0.0.1:9/a.jsonl", "github://a.jsonl"):
        with pytest.raises(DataError, match=rf"'{re.escape(address)}' cannot be (read|opened)"):
            read("jsonl", address)


def test_no_such_home_and_long_names() -> None:
    """A home that nobody has, and a name too long for the file system, are a DataError that names the path (B22)."""
    for kind, key in (("jsonl", "path"), ("hub", "name")):
        with pytest.raises(DataError, match="~nosuchuser/x': there is no such user here"):
            list(registry.create("reader", kind, **{key: "~nosuchuser/x"}).rows())
        with pytest.raises(DataError, match="xxx' cannot be read .*too long"):
            list(registry.create("reader", kind, **{key: "x" * 5000}).rows())


def test_only_regular_files(tmp_path: Path) -> None:
    """A pipe or a device is refused at once, also under its address: it may never end (B22)."""
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in (f"{tmp_path}/pipe.jsonl", f"file://{tmp_path}/pipe.jsonl", "/dev/zero"):
        for kind in ("jsonl", "auto"):
            with pytest.raises(DataError, match="is a device or a pipe; copy what it gives into a file"):
                read(kind, path)
    assert len(read("jsonl", f"file://{put(tmp_path / 'a.jsonl', ROWS)}")) == 2


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """A file whose name is not UTF-8 is a DataError with the name escaped and the remedy (B22)."""
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.jsonl")).write_bytes(ROWS)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    for path in (tmp_path, f"{tmp_path}/*.jsonl"):
        with pytest.raises(DataError, match=r"caf\\xe9.jsonl' is not UTF-8; rename the file"):
            read("jsonl", path)


# ---------------------------------------------------------------- compression


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, ROWS)
    return path


def zstd(data: bytes) -> bytes:
    import zstandard

    half = len(data) // 2  # two frames, as parallel compressors write them
    return zstandard.compress(data[:half]) + zstandard.compress(data[half:])


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("gz", gzip.compress), ("bz2", lambda data: bz2.compress(data, 1)), ("xz", lzma.compress), ("zst", zstd)],
)
def test_compressed(suffix: str, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """Compressed files read as the plain ones; a truncated one is a DataError that says so, once it is reached (E9)."""
    import random

    noise = random.Random(1)
    data = b"".join(b'{"text": "%032x"}\n' % noise.getrandbits(128) for _ in range(20_000))
    whole = put(tmp_path / f"whole.jsonl.{suffix}", pack(data))
    assert b"".join(row.raw for row in read("jsonl", whole)) == data
    cut = put(tmp_path / f"cut.jsonl.{suffix}", pack(data)[:-100_000])
    rows = reader("jsonl", cut).rows()
    assert next(rows).value
    with pytest.raises(DataError, match=rf"cut.jsonl.{suffix}' is truncated"):
        list(rows)
    with pytest.raises(DataError, match="truncated: it is empty"):
        read("jsonl", put(tmp_path / f"empty.jsonl.{suffix}", b""))


def test_damaged_archive(tmp_path: Path) -> None:
    """A compressed file with wrong bytes inside is a DataError that names it."""
    packed = bytearray(gzip.compress(ROWS * 100))
    packed[30] ^= 0xFF
    with pytest.raises(DataError, match="bad.jsonl.gz' is no valid gzip data"):
        read("jsonl", put(tmp_path / "bad.jsonl.gz", bytes(packed)))


def test_zip(tmp_path: Path) -> None:
    """A zip file with one member is read; one with several names them."""
    assert len(read("jsonl", zipped(tmp_path / "one.jsonl.zip", "a.jsonl", "__MACOSX/._a.jsonl"))) == 2
    with pytest.raises(DataError, match=r"holds 2 files \(a.jsonl, b.jsonl\)"):
        read("jsonl", zipped(tmp_path / "two.zip", "a.jsonl", "b.jsonl"))
    cut = put(tmp_path / "cut.zip", (tmp_path / "one.jsonl.zip").read_bytes()[:-30])
    with pytest.raises(DataError, match="cut.zip"):
        read("jsonl", cut)


# ---------------------------------------------------------------- rows that do not read


@pytest.mark.parametrize(
    ("raw", "rule", "reason"),
    [
        (b'{"a": ', "parse", "not JSON"),
        (b'{"a": NaN}', "parse", "not JSON"),
        (b'{"a": 1e999}', "parse", "infinity"),
        (b'{"a": "\\ud800", "b": NaN}', "parse", "not JSON"),
        (b"[" * 5000, "parse", "not JSON"),
        (b'{"a": "\x00"}', "parse", "control character"),
        (b'{"a": "\\ud800"}', "encoding", "surrogate"),
        (b'{"a": "caf\xe9"}', "encoding", "byte 10 is 0xe9; it reads as cp1252"),
        (b'{"a": "\x81\xff"}', "encoding", "another encoding"),
        (b'{"a": "' + b"x" * 9000 + b'"}', "too_big", "bytes, max_row_bytes allows 8,000"),
    ],
)
def test_bad_json(raw: bytes, rule: str, reason: str, tmp_path: Path) -> None:
    """Each fault of a line or element is told by its rule and reason, and the rows around it are read (bar 6)."""
    lines = put(tmp_path / "rows.jsonl", b'{"a": 1}\n\n' + raw + b'\r\n{"a": 2}')
    first, bad, last = read("jsonl", lines, max_row_bytes=8000)
    assert (first.line, bad.line, last.line) == (1, 3, 4)
    assert (first.value, bad.value, last.value) == ({"a": 1}, None, {"a": 2})
    assert bad.rule == rule
    assert reason in (bad.error or "")
    if raw.count(b"[") > 1000 or raw.endswith(b": "):
        return  # brackets that never close end a list, not a row
    elements = put(tmp_path / "rows.json", b'[{"a": 1},\n' + raw + b' ,\n{"a": 2}\n]')
    rows = read("json", elements, max_row_bytes=8000)
    assert [(row.line, row.value) for row in rows] == [(1, {"a": 1}), (2, None), (3, {"a": 2})]
    assert rows[1].rule == rule
    assert rows[1].raw == raw[:2000] if rule == "too_big" else rows[1].raw == raw


def test_json_of_any_layout(tmp_path: Path) -> None:
    """Elements are cut out byte for byte, whatever stands in their strings and between them."""
    odd = [b'{"a": "],[\\"\\\\"}', b"[1, [2, {}]]", b'"x, \\\\"', b"null", b"-1.5e3", b'{"b": {"c": [",", "]"]}}']
    for between in (b",", b" ,\n\t "):
        rows = read("json", put(tmp_path / "odd.json", b" \n[ " + between.join(odd) + b" ]\n\n"))
        assert [row.raw for row in rows] == odd
        assert said(rows) == [json.loads(raw) for raw in odd]
    assert read("json", put(tmp_path / "none.json", b" [ \n ] ")) == []
    assert read("json", put(tmp_path / "nothing.json", b"")) == []
    assert [row.error for row in read("json", put(tmp_path / "comma.json", b"[1, ]"))][1] is not None


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_json_across_blocks(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a block of the file ends does not matter, not even inside of an escape or of an element too big."""
    monkeypatch.setattr("components.data.readers._streams.BLOCK", block)
    big = b'{"a": "' + b'\\"],' * 30 + b'"}'
    path = put(tmp_path / "rows.json", b'[{"a": "\\\\"},\n' + big + b',\n{"b": "\\"}"}]')
    rows = read("json", path, max_row_bytes=40)
    assert [(row.line, row.rule, row.value) for row in rows] == [
        (1, "parse", {"a": "\\"}),
        (2, "too_big", None),
        (3, "parse", {"b": '"}'}),
    ]
    assert rows[1].error == f"{len(big)} bytes, max_row_bytes allows 40"
    lines = put(tmp_path / "rows.jsonl", b"[1]\n" + big + b"\n\n[2]\n[3]")
    assert [(row.line, row.value) for row in read("jsonl", lines, max_row_bytes=40)] == [
        (1, [1]),
        (2, None),
        (4, [2]),
        (5, [3]),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"data": [1, 2]}', 'an object whose first key is "data"'),
        (b'{"a": 1}\n{"a": 2}\n', "JSON Lines.*type: jsonl"),
        (b"hello", "holds no list of rows"),
        (b'[{"a": 1}, {"a": ', "truncated.*element 2"),
        (b'[{"a": 1}', "truncated"),
        (b"[1] [2]", "goes on after the end of its list, line 1"),
    ],
)
def test_not_a_list(content: bytes, reason: str, tmp_path: Path) -> None:
    """A JSON file that is no list, or not a whole one, is a DataError that says what was found."""
    with pytest.raises(DataError, match=rf"(?s)rows.json' .*{reason}"):
        read("json", put(tmp_path / "rows.json", content))


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "text"])
def test_huge_line_in_bounded_memory(kind: str, tmp_path: Path) -> None:
    """A line of 200 MB is one row that is too big; memory stays small, and the rows behind it are read (B22)."""
    begin = {"json": b'[1,{"a":"', "csv": b'text\nx\n"\n', "jsonl": b'1\n{"a":"', "text": b"1\n"}[kind]
    end = {"json": b'"},\n2]', "csv": b'"\ny\n', "jsonl": b'"}\n2\n', "text": b"\n2\n"}[kind]
    path = tmp_path / f"huge.{kind}"
    with path.open("wb") as handle:
        handle.write(begin)
        for _ in range(200):
            handle.write(b"x" * 1_000_000)
        handle.write(end)
    tracemalloc.start()
    try:
        keys = {"unit": "line"} if kind == "text" else {}
        rows = read(kind, path, **keys)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [row.rule for row in rows] == ["parse", "too_big", "parse"]
    assert (rows[1].error or "").startswith("200,00")
    assert len(rows[1].raw) == 2000
    assert rows[2].value
    assert peak < 8_000_000


# ---------------------------------------------------------------- encodings


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_wide_text(encoding: str, tmp_path: Path) -> None:
    """UTF-16 is one DataError with the remedy, and the remedy works."""
    path = put(tmp_path / "rows.jsonl", '{"text": "Straße"}\n{"text": "two"}\n'.encode(encoding))
    with pytest.raises(DataError, match=rf"rows.jsonl' is {encoding.upper()}.*encoding: {encoding}"):
        read("jsonl", path)
    rows = read("jsonl", path, encoding=encoding)
    assert said(rows) == [{"text": "Straße"}, {"text": "two"}]
    assert rows[0].raw == '{"text": "Straße"}\n'.encode()


def test_mixed_encodings(tmp_path: Path) -> None:
    """In a file of several encodings the rows that are not UTF-8 are told, the others are read."""
    lines = ['{"text": "é"}\n'.encode(code) for code in ("utf-8", "latin-1", "utf-8")]
    rows = read("jsonl", put(tmp_path / "rows.jsonl", b"".join(lines)))
    assert [row.rule if row.error else "" for row in rows] == ["", "encoding", ""]
    assert [row.raw for row in rows] == lines
    whole = put(tmp_path / "latin.csv", "text,n\né,1\n".encode("latin-1"))
    assert [row.rule for row in read("csv", whole)] == ["encoding"]
    assert said(read("csv", whole, encoding="latin-1")) == [{"text": "é", "n": "1"}]


def test_what_does_not_decode(tmp_path: Path) -> None:
    """A byte that the given encoding does not have is an error of its row, not of the file."""
    rows = read("jsonl", put(tmp_path / "rows.jsonl", b'"\x81"\n"\xe9"\n'), encoding="cp1252")
    assert [(row.rule, row.value) for row in rows] == [("encoding", None), ("parse", "é")]
    with pytest.raises(ConfigError, match="no encoding is called 'utf-88'"):
        reader("jsonl", "x", encoding="utf-88")


@pytest.mark.parametrize(
    ("encoding", "content", "remedy"),
    [
        ("utf-16", "[1]\n".encode("utf-16")[:-1], "fetch it again"),
        ("utf-16", "[1]\n".encode("utf-16-le"), "no byte order mark write 'encoding: utf-16-le' or 'utf-16-be'"),
        ("utf-16-be", "[1]\n".encode("utf-16-be")[:-1], "fetch it again"),
        ("utf_32", "[1]\n".encode("utf-32")[:-2], "fetch it again"),
        ("utf_32", b"[1]\n" * 5, "'encoding: utf-32-le'"),
        ("iso2022_kr", b"\xff\x81\x1b$B\xd8\n", "write the encoding that it is in"),
        ("idna", b"[1]\n\xff", "write the encoding that it is in"),
        ("utf-7", b"+2AA-\n", "write the encoding that it is in"),
    ],
)
def test_encoding_that_fails(encoding: str, content: bytes, remedy: str, tmp_path: Path) -> None:
    """A file that its encoding cannot read on in is a DataError with its name, the encoding and the remedy (B22)."""
    path = put(tmp_path / "rows.jsonl", content)
    with pytest.raises(DataError, match=rf"rows.jsonl' does not read as {encoding} \(.*{remedy}"):
        read("jsonl", path, encoding=encoding)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "text"])
def test_byte_order_mark(kind: str, tmp_path: Path) -> None:
    """UTF-8's byte order mark is no part of the first row; it is kept for the file that is written again."""
    content = {"jsonl": b"[1]\n", "json": b"[[1]]\n", "csv": b"text\nx\n", "text": b"x\n"}[kind]
    path = put(tmp_path / f"rows.{kind}", b"\xef\xbb\xbf" + content)
    rows = read(kind, path)
    assert said(rows) in ([[1]], [{"text": "x"}], [{"text": "x", "file": path.name, "chunk": 1}])
    assert reader(kind, path).framing().begin.startswith(b"\xef\xbb\xbf")
    assert b"\xef" not in rows[0].raw


# ---------------------------------------------------------------- csv


def test_csv_records(tmp_path: Path) -> None:
    """A record keeps its bytes, line ends inside of quotes included, and the line it begins on; empty lines count."""
    records = [b'1,"a\nb"\r\n', b'2,"say ""x"", y"\n', b"3,\n"]
    path = put(tmp_path / "rows.csv", b"n,text\n" + records[0] + b"\n" + records[1] + records[2])
    rows = read("csv", path)
    assert [row.raw for row in rows] == records
    assert [row.line for row in rows] == [2, 5, 6]
    assert [row.value["text"] for row in rows] == ["a\nb", 'say "x", y', ""]


def test_csv_bad_records(tmp_path: Path) -> None:
    """A record with a wrong number of fields, or text after a quote, is an error of that row."""
    path = put(tmp_path / "rows.csv", b'a,b\n1,2\n1,2,3\n1\n"x"y,2\n3,4\n')
    assert [row.error for row in read("csv", path)] == [
        None,
        "3 fields, the header has 2",
        "1 fields, the header has 2",
        "not CSV: ',' expected after '\"'",
        None,
    ]


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolon"), ("\t", "tab"), ("|", "bar")])
def test_csv_wrong_delimiter(mark: str, name: str, tmp_path: Path) -> None:
    """A wrong delimiter is one DataError that names the file, what was found and the key; with the key it reads."""
    path = put(tmp_path / "rows.csv", f"prompt{mark}completion\na{mark}b, c\n".encode())
    with pytest.raises(DataError, match=rf"rows.csv' .* {name} .*'delimiter: \"") as caught:
        read("csv", path)
    assert json.dumps(mark) in str(caught.value)
    assert said(read("csv", path, delimiter=mark)) == [{"prompt": "a", "completion": "b, c"}]


def test_csv_headers(tmp_path: Path) -> None:
    """All files have one header; a column has one name; a file without a header is read by the names that are given."""
    put(tmp_path / "a.csv", b"a,b\n1,2")
    put(tmp_path / "b.csv", b"a,b\n3,4\n")
    assert said(read("csv", tmp_path)) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    assert read("csv", tmp_path)[0].raw == b"1,2\n"  # the next row must not run into it
    assert said(read("csv", tmp_path / "a.csv", header=["x", "y"]))[0] == {"x": "a", "y": "b"}
    assert reader("csv", tmp_path / "a.csv", header=["x", "y"]).framing().begin == b""
    put(tmp_path / "c.csv", b"a,c\n3,4\n")
    with pytest.raises(DataError, match=r"c.csv' has the columns \['a', 'c'\], but '.*a.csv' has \['a', 'b'\]"):
        read("csv", tmp_path)
    with pytest.raises(ConfigError, match="names 'x' twice"):
        reader("csv", tmp_path / "a.csv", header=["x", "y", "x"])
    with pytest.raises(ConfigError, match="delimiter and quotechar are both '#'"):
        reader("csv", tmp_path / "a.csv", delimiter="#", quotechar="#")
    with pytest.raises(DataError, match="names 'a' twice"):
        read("csv", put(tmp_path / "d.csv", b"a,a\n"))
    assert said(read("csv", put(tmp_path / "e.tsv", b"a\tb\n1\t2\n"))) == [{"a": "1", "b": "2"}]


def test_csv_unclosed_quote(tmp_path: Path) -> None:
    """A quote that is never closed is a DataError that names its line, in bounded memory."""
    good = b"a,b\n1,2\n"
    with pytest.raises(DataError, match=r"rows.csv': a quote opened in the record at line 3 is never closed"):
        read("csv", put(tmp_path / "rows.csv", good + b'"x,2\n' + b"3,4\n" * 10))
    path = put(tmp_path / "rows.csv", good + b'"x,2\n' + (b"3," + b"4" * 500 + b"\n") * 40_000)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"line 3 is never closed"):
            read("csv", path, max_row_bytes=10_000)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- parquet and arrow


def parquet(path: Path, rows: list[dict[str, Any]], schema: Any = None) -> Path:
    import pyarrow
    from pyarrow import parquet as pq

    pq.write_table(pyarrow.Table.from_pylist(rows, schema), path)
    return path


def test_parquet_schema_change(tmp_path: Path) -> None:
    """A file whose column is of another type is a DataError that names the file, the column and both types (E9)."""
    parquet(tmp_path / "a.parquet", [{"text": "x", "n": 1}])
    parquet(tmp_path / "b.parquet", [{"n": 2, "text": "y"}])
    assert said(read("parquet", tmp_path)) == [{"text": "x", "n": 1}, {"n": 2, "text": "y"}]
    parquet(tmp_path / "c.parquet", [{"text": "z", "n": "3"}])
    with pytest.raises(DataError, match=r"c.parquet': column 'n' is string, but int64 in '.*a.parquet'"):
        read("parquet", tmp_path)
    parquet(tmp_path / "c.parquet", [{"text": "z"}])
    with pytest.raises(DataError, match=r"column 'n' is missing, but int64"):
        read("parquet", tmp_path)


def test_parquet_values(tmp_path: Path) -> None:
    """What JSON cannot hold becomes text; bytes that are no text are left out of the value, wherever they stand."""
    values = {"day": date(2026, 1, 2), "price": Decimal("1.50"), "text": b"abc", "share": float("nan"), "all": [1.5]}
    rows = read("parquet", parquet(tmp_path / "a.parquet", [values, values | {"text": b"\xff\xfe"}]))
    plain = {"day": "2026-01-02", "price": "1.50", "text": "abc", "share": None, "all": [1.5]}
    assert rows[0].value == plain == json.loads(rows[0].raw)
    del plain["text"]  # type: ignore[misc]
    assert rows[1].value == plain == json.loads(rows[1].raw)
    image = {"path": "a.png", "bytes": b"\x89PNG\xff" * 900_000}
    photos = parquet(tmp_path / "b.parquet", [{"text": "cat", "photo": image, "all": [b"a", b"\xff"], "raw": b"\xff"}])
    assert said(read("parquet", photos)) == [{"text": "cat", "photo": {"path": "a.png"}, "all": ["a", None]}]


def test_pandas_times(tmp_path: Path) -> None:
    """Times in nanoseconds, which is how pandas writes them, are ISO text (E9)."""
    import pandas

    path = tmp_path / "a.parquet"
    times = pandas.to_datetime(["2026-01-02 03:04:05", "2026-01-02 03:04:05.123456789", None], format="ISO8601")
    pandas.DataFrame({"at": times.astype("datetime64[ns]"), "n": [1, 2, 3]}).to_parquet(path)
    assert [row.value["at"] for row in read("parquet", path)] == [
        "2026-01-02T03:04:05",
        "2026-01-02T03:04:05.123456789",
        None,
    ]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (("date32",), 10**7),
        (("timestamp", "s"), 10**18),
        (("duration", "s"), 10**17),
        (("timestamp", "us", "No/Where"), 1),
    ],
)
def test_times_out_of_range(kind: tuple[str, ...], value: int, tmp_path: Path) -> None:
    """A time that cannot be told is an error of its row, and the rows around it are read (B22)."""
    import pyarrow
    from pyarrow import feather

    type_ = getattr(pyarrow, kind[0])(*kind[1:])
    path = tmp_path / "a.arrow"
    feather.write_feather(pyarrow.table({"at": pyarrow.array([None, value], type_), "n": [1, 2]}), path)
    good, bad = read("arrow", path)
    assert good.value == {"at": None, "n": 1}
    assert (bad.value, bad.rule) == (None, "parse")
    assert "a value cannot be read" in (bad.error or "")
    assert said(read("arrow", path, columns=["n"])) == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_columns_of_tables(kind: str, tmp_path: Path) -> None:
    """`columns` reads some columns only; a name that is absent, or stands for two columns, is refused (E9)."""
    import pyarrow
    from pyarrow import feather
    from pyarrow import parquet as pq

    write = pq.write_table if kind == "parquet" else feather.write_feather
    path = tmp_path / f"a.{kind}"
    write(pyarrow.table({"a": ["x"], "b": [1], "c": [2.5]}), path)
    assert said(read(kind, path, columns=["b", "a"])) == [{"b": 1, "a": "x"}]
    with pytest.raises(DataError, match=r"has no column 'd'; it has: a, b, c"):
        read(kind, path, columns=["d"])
    with pytest.raises(ConfigError, match="'a' is named twice"):
        reader(kind, path, columns=["a", "a"])
    write(pyarrow.table({"a": ["x"], "b": ["other"]}), tmp_path / f"b.{kind}")
    assert said(read(kind, tmp_path, columns=["a"])) == [{"a": "x"}, {"a": "x"}]
    with pyarrow.ipc.new_file(
        tmp_path / "twice.arrow", (twice := pyarrow.table([["x"], ["y"]], ["a", "a"])).schema
    ) as f:
        f.write_table(twice)
    with pytest.raises(DataError, match="twice.arrow' has 2 columns called 'a'"):
        read("arrow", tmp_path / "twice.arrow")


def test_damaged_positions(tmp_path: Path) -> None:
    """An Arrow file whose inner positions point out of it is a DataError; reading it would end the process (B22)."""
    import pyarrow

    offsets = pyarrow.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 5, 2_000_000_000, 10)))
    column = pyarrow.Array.from_buffers(pyarrow.string(), 3, [None, offsets, pyarrow.py_buffer(b"abcdefghij")])
    batch = pyarrow.RecordBatch.from_arrays([column], ["a"])
    with pyarrow.ipc.new_file(tmp_path / "a.arrow", batch.schema) as sink:
        sink.write_batch(batch)
    with pytest.raises(DataError, match="a.arrow' is truncated, or of another kind"):
        read("arrow", tmp_path / "a.arrow")


def test_broken_tables(tmp_path: Path) -> None:
    """A truncated file, or one of another kind, is a DataError that names it."""
    whole = parquet(tmp_path / "a.parquet", [{"text": "x" * 50}] * 50)
    with pytest.raises(DataError, match="cut.parquet' is truncated, or of another kind"):
        read("parquet", put(tmp_path / "cut.parquet", whole.read_bytes()[:-20]))
    with pytest.raises(DataError, match="other.arrow' is truncated, or of another kind"):
        read("arrow", put(tmp_path / "other.arrow", ROWS))
    with pytest.raises(DataError, match="feather's first version"):
        read("arrow", put(tmp_path / "old.feather", b"FEA1 and so on"))


def test_arrow_streams(tmp_path: Path) -> None:
    """The stream form of Arrow, which the package datasets writes, and feather are read as the file form."""
    import pyarrow
    from pyarrow import feather

    table = pyarrow.table({"text": ["a", "b", "c"]})
    with pyarrow.ipc.new_stream(tmp_path / "a.arrow", table.schema) as sink:
        sink.write_table(table)
    whole = (tmp_path / "a.arrow").read_bytes()
    with pytest.raises(DataError, match="cut.arrow' is truncated: the mark at the end"):
        read("arrow", put(tmp_path / "cut/cut.arrow", whole[:-8]))
    feather.write_feather(table, tmp_path / "b.feather")
    assert [row["text"] for row in said(read("arrow", tmp_path))] == ["a", "b", "c", "a", "b", "c"]


# ---------------------------------------------------------------- text

MARKDOWN = b"intro\n\n# One\nbody\n```sh\n# no heading\n```\n## Two\nmore\n"


@pytest.mark.parametrize(
    ("unit", "texts", "lines"),
    [
        ("file", [MARKDOWN.decode().strip()], [1]),
        ("paragraph", ["intro", MARKDOWN.decode().strip()[7:]], [1, 3]),
        ("section", ["intro", "# One\nbody\n```sh\n# no heading\n```", "## Two\nmore"], [1, 3, 8]),
        ("line", MARKDOWN.decode().replace("\n\n", "\n").splitlines(), [1, 3, 4, 5, 6, 7, 8, 9]),
    ],
)
def test_units(unit: str, texts: list[str], lines: list[int], tmp_path: Path) -> None:
    """Text is cut into files, paragraphs, lines or sections; code is not taken for headings (E9)."""
    path = put(tmp_path / "a.md", MARKDOWN)
    rows = read("text", path, unit=unit)
    assert [row.value["text"] for row in rows] == texts
    assert [row.line for row in rows] == lines
    assert [row.value["chunk"] for row in rows] == list(range(1, len(rows) + 1))
    if unit != "line":
        assert b"".join(row.raw for row in rows) == MARKDOWN


@pytest.mark.parametrize("overlap", [0, 15])
def test_chunks(overlap: int, tmp_path: Path) -> None:
    """Chunks end at white space, are no longer than asked for, overlap, and lose nothing but white space."""
    words = [f"wörd{n}" for n in range(500)]
    path = put(tmp_path / "a.txt", "".join(w + ("\n" if n % 7 == 6 else " ") for n, w in enumerate(words)).encode())
    rows = read("text", path, unit="file", chunk_chars=60, overlap_chars=overlap)
    texts = [row.value["text"] for row in rows]
    assert all(len(text) <= 60 for text in texts)
    assert all(set(text.split()) <= set(words) for text in texts)
    said_words = [word for text in texts for word in text.split()]
    assert list(dict.fromkeys(said_words)) == words
    assert (len(said_words) > len(words)) == bool(overlap)
    for row in rows:
        assert texts[row.value["chunk"] - 1] == row.raw.decode().strip()
        first = row.value["text"].split()[0]
        assert row.line == words.index(first) // 7 + 1


def test_chunks_of_one_word(tmp_path: Path) -> None:
    """Text without white space is cut at the size."""
    path = put(tmp_path / "a.txt", b"x" * 25)
    assert [row.raw for row in read("text", path, chunk_chars=10)] == [b"x" * 10, b"x" * 10, b"x" * 5]
    with pytest.raises(ConfigError, match="must be less than chunk_chars"):
        reader("text", path, overlap_chars=10)


def test_bad_text(tmp_path: Path) -> None:
    """What is not UTF-8 or too long is told, with the remedy, and the text around it is read."""
    content = b"one\n\n\xff two\n\nthree\n\n" + b"long " * 20 + b"\n\nfour\n"
    path = put(tmp_path / "a.txt", content)
    for keys in ({}, {"chunk_chars": 50}):
        rows = read("text", path, max_row_bytes=60, **keys)
        assert [row.rule if row.error else row.value["text"] for row in rows] == [
            "one",
            "encoding",
            "three",
            "too_big",
            "four",
        ]
    assert "chunk_chars" in (read("text", path, max_row_bytes=60)[3].error or "")


def test_paragraphs_of_two_files(tmp_path: Path) -> None:
    """The last paragraph of a file does not run into the next file when they are written as one."""
    put(tmp_path / "a.txt", b"one")
    put(tmp_path / "b.txt", b"two")
    rows = read("text", tmp_path)
    again = put(tmp_path / "again/all.txt", b"".join(row.raw for row in rows))
    assert [row.value["text"] for row in read("text", again)] == ["one", "two"]


# ---------------------------------------------------------------- hub


def test_local_dataset(tmp_path: Path) -> None:
    """A local directory reads as the hub would: by split, or as it was saved."""
    import datasets

    for split in ("train", "test"):
        put(tmp_path / f"plain/{split}.jsonl", b'{"text": "%s"}\n' % split.encode())
    hub = registry.create("reader", "hub", name=str(tmp_path / "plain"), split="test")
    assert said(list(hub.rows())) == [{"text": "test"}]
    assert [Path(name).name for name in hub.fingerprint()] == ["test.jsonl"]
    with pytest.raises(DataError, match="plain' has no split 'dev'; it has train, test"):
        list(registry.create("reader", "hub", name=str(tmp_path / "plain"), split="dev").rows())
    saved = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a", "b"]})})
    saved.save_to_disk(tmp_path / "saved")
    hub = registry.create("reader", "hub", name=str(tmp_path / "saved"))
    assert said(list(hub.rows())) == [{"text": "a"}, {"text": "b"}]


def test_hub_splits_have_files_of_their_own(tmp_path: Path) -> None:
    """Two splits of one dataset share no digest, however it was written, and another split is another identity (E9)."""
    import datasets

    rows = {split: datasets.Dataset.from_dict({"text": [split]}) for split in ("train", "test")}
    datasets.DatasetDict(rows).save_to_disk(tmp_path / "saved")
    for split, table in rows.items():
        (tmp_path / "named").mkdir(exist_ok=True)
        table.to_parquet(tmp_path / f"named/{split}-00000.parquet")
    listing = "".join(f"  - {{split: {split}, path: {split[-1]}.csv}}\n" for split in rows)
    put(tmp_path / "told/README.md", f"---\nconfigs:\n- config_name: default\n  data_files:\n{listing}---\n".encode())
    for split in rows:
        put(tmp_path / f"told/{split[-1]}.csv", f"text\n{split}\n".encode())
    assert read_splits(tmp_path / "told") == ["train", "test"]
    assert read_splits(tmp_path / "named") == ["train", "test"]
    assert read_splits(tmp_path / "saved") == ["train", "test"]


def read_splits(folder: Path) -> list[str]:
    """What the one row of train and of test says, once their files and identities were seen to differ."""
    train, test = (registry.create("reader", "hub", name=str(folder), split=split) for split in ("train", "test"))
    assert not set(train.fingerprint().values()) & set(test.fingerprint().values())
    assert len(train.fingerprint()) == len(test.fingerprint()) == 1
    assert train.identity() != test.identity()
    with pytest.raises(DataError, match="has no split 'dev'; it has train, test"):
        registry.create("reader", "hub", name=str(folder), split="dev").fingerprint()
    return [said(list(hub.rows()))[0]["text"] for hub in (train, test)]


def test_hub_columns(tmp_path: Path) -> None:
    """`columns` reads some columns of a dataset, images left aside (E9)."""
    (tmp_path / "photos").mkdir()
    parquet(tmp_path / "photos/train.parquet", [{"text": "cat", "photo": b"\x89PNG\xff", "n": 1}])
    make = lambda **keys: registry.create("reader", "hub", name=str(tmp_path / "photos"), **keys)  # noqa: E731
    assert said(list(make().rows())) == [{"text": "cat", "n": 1}]
    assert said(list(make(columns=["text"]).rows())) == [{"text": "cat"}]
    with pytest.raises(DataError, match="has no column 'm'"):
        list(make(columns=["m"]).rows())


def test_hub_offline() -> None:
    """Offline, a dataset that is not on this machine is a DataError with the remedy."""
    hub = registry.create("reader", "hub", name="hf://nobody/nothing-here")
    with pytest.raises(DataError, match=r"(?s)hf://nobody/nothing-here.*go online once"):
        hub.fingerprint()


# ---------------------------------------------------------------- mix


def numbered(path: Path, name: str, count: int) -> Path:
    return put(path, b"".join(b'{"id": "%s%d"}\n' % (name.encode(), n) for n in range(count)))


def mixed(sources: list[dict[str, Any]], **keys: Any) -> list[RawRow]:
    return list(registry.create("reader", "mix", sources=sources, **keys).rows())


def source(path: Path, **keys: Any) -> dict[str, Any]:
    return {"reader": {"type": "jsonl", "path": str(path)}, **keys}


def test_mix_by_weight(tmp_path: Path) -> None:
    """Sources are interleaved by weight; until `first` the proportions hold, until `all` no row is left."""
    a, b = numbered(tmp_path / "a.jsonl", "a", 3000), numbered(tmp_path / "b.jsonl", "b", 3000)
    sources = [source(a, weight=3.0), source(b)]
    rows = mixed(sources, until="first")
    counts = [sum(row.part == part for row in rows) for part in (0, 1)]
    assert counts[0] == 3000
    assert 850 < counts[1] < 1150
    assert [row.value["id"] for row in rows if row.part == 1] == [f"b{n}" for n in range(counts[1])]
    assert len(mixed(sources)) == 6000
    assert [row.value for row in mixed(sources, seed=1)] != [row.value for row in mixed(sources, seed=2)]


def test_mix_keeps_rows_by_their_bytes(tmp_path: Path) -> None:
    """The rows that `fraction` and `rows` keep stay the same when rows are added, also behind a line without end."""
    path = numbered(tmp_path / "a.jsonl", "a", 1000)
    put(path, path.read_bytes().rstrip())
    half = {row.value["id"] for row in mixed([source(path, fraction=0.5)])}
    few = {row.value["id"] for row in mixed([source(path, rows=100)])}
    assert 420 < len(half) < 580
    assert len(few) == 100
    assert len(mixed([source(path, rows=5000)])) == 1000
    numbered(path, "a", 1100)
    again = {row.value["id"] for row in mixed([source(path, fraction=0.5)])}
    assert half == {name for name in again if int(name[1:]) < 1000}
    assert len(few & {row.value["id"] for row in mixed([source(path, rows=100)])}) > 80
    assert len(mixed([source(path, fraction=0.1, rows=50)])) == 50


def test_mix_inside_mix(tmp_path: Path) -> None:
    """The parts of a mixture inside a mixture are counted through."""
    a, b, c = (numbered(tmp_path / f"{name}.jsonl", name, 5) for name in "abc")
    inner = {"reader": {"type": "mix", "sources": [source(b), source(c)]}}
    outer = registry.create("reader", "mix", sources=[source(a), inner])
    parts = outer.parts()
    assert len(parts) == len(outer.fingerprint()) == 3
    for row in outer.rows():
        assert row.file == next(iter(parts[row.part].fingerprint()))


def test_mix_is_checked() -> None:
    """Keys of a source, and of the reader inside of it, are checked before anything is read."""
    with pytest.raises(ConfigError, match="sources.0.wieght"):
        mixed([source(Path("x"), wieght=2)])
    with pytest.raises(ConfigError, match=r"sources.0.reader.*pathh"):
        mixed([{"reader": {"type": "jsonl", "pathh": "x"}}])


# ---------------------------------------------------------------- auto


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.jsonl", ROWS, "jsonl"),
        ("a.json", ROWS, "jsonl"),
        ("a.json", b'[\n {"a": 1}\n]', "json"),
        ("a.data", b'[{"a": 1}]', "json"),
        ("rows", ROWS, "jsonl"),
        ("rows.gz", gzip.compress(ROWS, mtime=0), "jsonl"),
        ("a.CSV.gz", gzip.compress(b"a,b\n", mtime=0), "csv"),
        ("a.tsv", b"a\tb\n", "csv"),
        ("a.md", b"# A\n", "text"),
        ("rows.bin", b"PAR1....", "parquet"),
    ],
)
def test_auto(name: str, content: bytes, kind: str, tmp_path: Path) -> None:
    """The reader is chosen by the ending of a file, or else by its first bytes (E9)."""
    chosen, made = reader_for(str(put(tmp_path / name, content)))
    assert chosen == kind
    assert isinstance(made, registry.get("reader", kind))


def test_auto_on_directories_and_addresses(tmp_path: Path) -> None:
    """A directory of one kind is read, what stands beside data aside; one of several kinds is an error naming them."""
    for name in ("a.json", "b.json", "README.md"):
        put(tmp_path / name, ROWS)
    assert len(read("auto", tmp_path)) == 4
    put(tmp_path / "c.csv", b"a\n")
    with pytest.raises(DataError, match=r"several kinds of files: csv \(.*c.csv\), jsonl \(.*a.json\)"):
        read("auto", tmp_path)
    assert reader_for("hf://openai/gsm8k")[0] == "hub"
    with pytest.raises(DataError, match=r"cannot tell how '.*pic.png' is to be read; name the reader"):
        read("auto", put(tmp_path / "pic.png", b"\x89PNG"))


def test_auto_passes_its_keys_on(tmp_path: Path) -> None:
    """max_row_bytes and encoding reach the reader that was chosen."""
    path = put(tmp_path / "a.csv", "a,b\né,1\n".encode("cp1252"))
    assert said(read("auto", path, encoding="cp1252", max_row_bytes=10)) == [{"a": "é", "b": "1"}]


# ---------------------------------------------------------------- identity


def test_names_that_decide() -> None:
    """The ending of a table's name and the name of a text file are part of the identity; folders are not (E9)."""
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe({f"/ids/{name}": b"a\tb\n" for name in ("a.csv", "a.tsv", "x/b.csv", "a.txt", "a.md", "x/a.txt")})
    same = lambda kind, one, other, **keys: (  # noqa: E731
        reader(kind, f"memory://ids/{one}", **keys).identity()
        == reader(kind, f"memory://ids/{other}", **keys).identity()
    )
    assert same("csv", "a.csv", "x/b.csv")
    assert not same("csv", "a.csv", "a.tsv")
    assert not same("auto", "a.txt", "a.md")
    assert same("text", "a.txt", "x/a.txt")
    assert not same("text", "a.txt", "a.md")
    memory.rm("/ids", recursive=True)


def test_text_files_are_named_below_their_folder(tmp_path: Path) -> None:
    """A value of text names its file without the folder that all share, so that groups are the same anywhere (E9)."""
    for name in ("a.txt", "deep/a.txt"):
        put(tmp_path / name, b"x\n")
    assert [row.value["file"] for row in read("text", f"{tmp_path}/**/*.txt")] == ["a.txt", "deep/a.txt"]
    assert read("text", tmp_path / "deep")[0].value["file"] == "a.txt"
    assert read("text", tmp_path / "deep")[0].file == str(tmp_path / "deep/a.txt")


def test_order_of_files_is_identity(tmp_path: Path) -> None:
    """Files in another order, and a file that is read twice, are other rows (E9)."""
    a, b = put(tmp_path / "a.jsonl", b"1\n"), put(tmp_path / "b.jsonl", b"2\n")
    os.link(a, tmp_path / "c.jsonl")
    paths = ([a, b], [b, a], [a, b, tmp_path / "c.jsonl"], [a])
    found = [reader("jsonl", [str(path) for path in each]).identity() for each in paths]
    assert all(found.count(each) == 1 for each in found)


def test_mixtures_differ(tmp_path: Path) -> None:
    """Every key of a mixture, and of the readers in it, is part of its identity; so is a source named twice (E9)."""
    a, b = numbered(tmp_path / "a.jsonl", "a", 3), numbered(tmp_path / "b.jsonl", "b", 3)
    make = lambda sources, **keys: registry.create("reader", "mix", sources=sources, **keys)  # noqa: E731
    mixes = [
        make([source(a), source(b)]),
        make([source(b), source(a)]),
        make([source(a), source(a)]),
        make([source(a)]),
        make([source(a), source(b, weight=2.0)]),
        make([source(a), source(b, fraction=0.5)]),
        make([source(a), source(b, rows=2)]),
        make([source(a), source(b)], until="first"),
        make([source(a), source(b)], seed=3),
        make([source(a), {"reader": {"type": "text", "path": str(b)}}]),
        make([source(a), {"reader": {"type": "jsonl", "path": str(b), "format": {"type": "text"}}}]),
    ]
    found = [mix.identity() for mix in mixes]
    assert all(found.count(each) == 1 for each in found)
    assert [cls.__name__ for cls in mixes[9].classes()] == ["MixReader", "JsonlReader", "TextReader"]
    assert [cls.__name__ for cls in reader("auto", a).classes()] == ["AutoReader", "JsonlReader"]
