"""Lines of any length in bounded memory, and what is said of rows that do not read.

A line above the limit becomes an `Oversize`: its beginning, its length, and nothing else is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import NamedTuple

from components.interfaces import RawRow

KEPT = 2000
"""Bytes kept of what is too big."""
_MARK = b'"'


class Oversize(NamedTuple):
    """What is left of a line or value that is longer than the limit."""

    head: bytes
    size: int
    quotes: int
    """How many quotation marks it holds: CSV must know whether it ends inside of quotes."""


class Held:
    """Bytes that arrive in pieces, up to the limit; beyond it they are only counted."""

    def __init__(self, limit: int, mark: bytes = _MARK) -> None:
        self.limit, self.mark = limit, mark
        self.clear()

    def clear(self) -> None:
        self.pieces: list[bytes] = []
        self.size = self.quotes = 0
        self.head: bytes | None = None

    def add(self, piece: bytes | Oversize) -> None:
        size = piece.size if isinstance(piece, Oversize) else len(piece)
        self.size += size
        if self.size <= self.limit:
            self.pieces.append(piece)  # type: ignore[arg-type]
            return
        if self.head is None:
            first = piece.head if isinstance(piece, Oversize) else piece
            self.head = b"".join([*self.pieces, first[:KEPT]])[:KEPT]
            self.quotes = sum(held.count(self.mark) for held in self.pieces)
            self.pieces = []
        self.quotes += piece.quotes if isinstance(piece, Oversize) else piece.count(self.mark)

    def take(self) -> bytes | Oversize:
        """What was added since the last time."""
        whole = b"".join(self.pieces) if self.head is None else Oversize(self.head, self.size, self.quotes)
        self.clear()
        return whole


def line_batches(
    blocks: Iterator[bytes], limit: int, last: bool = True, mark: bytes = _MARK
) -> Iterator[list[bytes | Oversize]]:
    """The lines of a text, ends included, some at a time; `last=False` ends the last one where the file does not."""
    held = Held(limit, mark)
    for block in blocks:
        cut = block.rfind(b"\n") + 1
        if not cut:
            held.add(block)
            continue
        first = block.find(b"\n") + 1
        held.add(block[:first])
        lines: list[bytes | Oversize] = [held.take()]
        rest = BytesIO(block[first:cut]).readlines()
        if cut - first > limit:
            lines += [_bounded(line, limit, mark) for line in rest]
        else:
            lines += rest
        held.add(block[cut:])
        yield lines
    if held.size:
        if not last:
            held.add(b"\n")
        yield [held.take()]


def _bounded(line: bytes, limit: int, mark: bytes) -> bytes | Oversize:
    return line if len(line) <= limit else Oversize(line[:KEPT], len(line), line.count(mark))


def too_big(number: int, found: Oversize | bytes, limit: int, file: str) -> RawRow:
    """The row that stands for one that is too long to be read."""
    head, size = (found.head, found.size) if isinstance(found, Oversize) else (found[:KEPT], len(found))
    return RawRow(number, head, None, f"{size:,} bytes, max_row_bytes allows {limit:,}", "too_big", file)


def not_utf8(raw: bytes) -> str | None:
    """Why bytes are not UTF-8, with the encoding that they may be in; None if they are."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}; {_guess(raw)}"
    return None


def _guess(raw: bytes) -> str:
    try:
        raw.decode("cp1252")
        return "it reads as cp1252 (latin-1): if the whole file is, write 'encoding: cp1252'"
    except UnicodeDecodeError:
        return "if the whole file is in another encoding, write it as 'encoding:'"
