"""The files of a split: rows taken out late, file for file, and handles that do not stay open."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from components.data.writer import SplitWriter
from components.interfaces import Batch, Framing, RawRow, Reader

LINES = Framing()
ARRAY = Framing("json", b"[\n", b",\n", b"\n]\n")


class Part(Reader):
    """A source that is never read: only how it is written down matters."""

    def __init__(self, *framings: Framing) -> None:
        self.framings = framings

    def fingerprint(self) -> Mapping[str, str]:
        return {}

    def rows(self) -> Iterator[RawRow]:
        yield from ()

    def parts(self) -> tuple[Part, ...]:
        return tuple(Part(one) for one in self.framings)

    def framing(self) -> Framing:
        return self.framings[0]


def row(number: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"q {number}"}]}


def raw(number: int, part: int) -> RawRow:
    # the last line of a file may lack its end
    end = b"" if part or number == 5 else b"\n"
    return RawRow(number + 1, orjson.dumps(row(number)) + end, file=f"f{part}", part=part)


def fill(writer: SplitWriter, positions: Collection[int] = range(10), size: int = 4) -> None:
    """Rows named after their positions, in turn from each source, in batches."""
    numbers, parts = list(positions), len(writer.framings)
    for start in range(0, len(numbers), size):
        some = numbers[start : start + size]
        raws = [raw(number, number % parts) for number in some]
        writer.write(Batch("train", some, raws, [row(number) for number in some], "conversation"), [])


def fail(writer: SplitWriter) -> None:
    """Some rows, then what a broken reader does."""
    fill(writer)
    raise OSError("gone")


def content(folder: Path) -> dict[str, Any]:
    """Every file of the folder: bytes, and of an index its rows."""
    return {
        path.name: pa.ipc.open_stream(path.read_bytes()).read_all().to_pylist()
        if path.suffix == ".arrow"
        else path.read_bytes()
        for path in folder.iterdir()
    }


@pytest.fixture(params=[(LINES,), (ARRAY,), (LINES, ARRAY)])
def reader(request: pytest.FixtureRequest) -> Part:
    """One source of lines, one JSON array, and a mixture of both."""
    return Part(*request.param)


@pytest.mark.parametrize("taken", [[3], [0, 1, 2, 3], [9], [0, 4, 5, 8], range(10)])
def test_removed_rows_were_never_there(reader: Part, tmp_path: Path, taken: Collection[int]) -> None:
    """Taking rows out leaves the files that would be there without them, and hands over each with its place."""
    for name in ("some", "all"):
        (tmp_path / name).mkdir()
    with SplitWriter(tmp_path / "all", "train", "conversation", reader, False) as writer:
        fill(writer)
    removed = list(writer.remove(dict.fromkeys(taken)))
    assert removed == [(n, f"f{n % len(reader.framings)}", n + 1, raw(n, n % len(reader.framings)).raw) for n in taken]
    left = [number for number in range(10) if number not in taken]
    assert list(writer.seen) == left
    if left:
        with SplitWriter(tmp_path / "some", "train", "conversation", reader, False) as other:
            other.files = dict(writer.files)
            fill(other, left)
        assert content(tmp_path / "all") == content(tmp_path / "some")
    else:
        assert content(tmp_path / "all")["train.rows.jsonl"] == b""


def test_twice_and_with_holes(tmp_path: Path) -> None:
    """Positions count in the split, not in the file; unknown ones do not matter; more can be taken out later."""
    with SplitWriter(tmp_path, "train", "conversation", Part(LINES), False) as writer:
        fill(writer, [2, 3, 5, 8, 13, 21])
    assert [position for position, *_ in writer.remove(np.array([0, 3, 4, 13, 99]))] == [3, 13]
    assert [position for position, *_ in writer.remove({21, 3, 2})] == [2, 21]
    assert writer.kept([8]).tolist() == [True, False]
    assert list(writer.seen) == [5, 8]
    assert (tmp_path / "train.rows.jsonl").read_bytes() == b"".join(orjson.dumps(row(n)) + b"\n" for n in (5, 8))
    before = content(tmp_path)
    assert list(writer.remove([1, 2])) == []
    assert content(tmp_path) == before


def test_nothing_changes_before_the_end(tmp_path: Path) -> None:
    """Files are replaced once all removed rows were handed over; whoever stops half way finds them as they were."""
    with SplitWriter(tmp_path, "train", "conversation", Part(LINES), False) as writer:
        fill(writer)
    before = content(tmp_path)
    removed = writer.remove([1, 2, 3])
    next(removed)
    removed.close()  # type: ignore[attr-defined]
    assert content(tmp_path) == before
    assert len(list(writer.remove([1, 2, 3]))) == 3


def test_an_error_closes_the_files(tmp_path: Path) -> None:
    """A reader that fails leaves no handle open, and closing once more is harmless."""
    writer = SplitWriter(tmp_path, "t", "conversation", Part(LINES), False)
    with pytest.raises(OSError, match="gone"), writer:
        fail(writer)
    writer.close()
    assert len((tmp_path / "t.jsonl").read_bytes().splitlines()) == 10
    with pytest.raises(ValueError, match="closed"):
        fill(writer)
