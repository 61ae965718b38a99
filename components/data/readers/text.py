"""Plain text and Markdown: a row is a file, a paragraph, a line or a section, or a chunk of one.

data: {train: {type: text, path: data/wiki.txt, unit: line}}
data: {train: {type: text, path: docs/, unit: section, chunk_chars: 4000, overlap_chars: 200}}

A value is {"text": ..., "file": ..., "chunk": number of the row in its file}. The file is named below the folder that
all files share, so that the same files elsewhere give the same values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from components.core.kinds import register
from components.data.readers._files import File, FileReader
from components.data.readers._lines import Held, Oversize, line_batches, not_utf8, too_big
from components.data.readers._streams import TextConfig, text_of
from components.interfaces import Framing, RawRow

_HEADING = re.compile(rb" {0,3}#{1,6}(\s|$)")
_FENCE = re.compile(rb" {0,3}(```|~~~)")
_SPACE = re.compile(r"\s")


@register("reader", "text")
class TextReader(FileReader):
    """Paragraphs, lines, sections or chunks of plain text and Markdown files."""

    class Config(TextConfig):
        unit: Literal["file", "paragraph", "line", "section"] = Field(
            "paragraph", description="what a row is; sections begin at Markdown's # headings"
        )
        chunk_chars: PositiveInt | None = Field(None, description="longer units are cut at white space")
        overlap_chars: NonNegativeInt = Field(0, description="what a chunk repeats of the one before it")

        @model_validator(mode="after")
        def _moves_on(self) -> TextReader.Config:
            if self.overlap_chars and self.overlap_chars >= (self.chunk_chars or 0):
                raise ValueError(f"overlap_chars ({self.overlap_chars}) must be less than chunk_chars, which it is of")
            return self

    config: Config
    suffixes = (".txt", ".md", ".markdown", ".text")

    def read(self, file: File, last: bool) -> Iterator[RawRow]:
        config, count = self.config, 0
        make = _Chunks if config.chunk_chars else _Whole
        unit: _Whole | _Chunks = make(config, file)
        begins = _BOUNDARIES[config.unit]()
        number = 0
        for lines in line_batches(text_of(file, config).blocks, config.max_row_bytes, last):
            for line in lines:
                number += 1
                pieces = unit.end() if begins(line) else []
                for row in (*pieces, *unit.add(number, line)):
                    count += 1
                    yield _numbered(row, count)
        for row in unit.end():
            count += 1
            if config.unit == "paragraph" and not last and not row.raw.endswith(b"\n\n"):
                row = row._replace(raw=row.raw + b"\n")  # else it would run on into the next file
            yield _numbered(row, count)

    def read_as(self, file: File) -> str:
        return file.short

    def framing(self) -> Framing:
        bom = text_of(self.files()[0], self.config).bom
        return Framing("md" if self.config.unit == "section" else "txt", bom)


def _numbered(row: RawRow, count: int) -> RawRow:
    if row.value is not None:
        row.value["chunk"] = count
    return row


# ---------------------------------------------------------------- where units begin


def _lines() -> Callable[[bytes | Oversize], bool]:
    return lambda line: True


def _files() -> Callable[[bytes | Oversize], bool]:
    return lambda line: False


def _paragraphs() -> Callable[[bytes | Oversize], bool]:
    blank = False

    def begins(line: bytes | Oversize) -> bool:
        nonlocal blank
        before, blank = blank, isinstance(line, bytes) and not line.strip()
        return before and not blank

    return begins


def _sections() -> Callable[[bytes | Oversize], bool]:
    fence = b""  # in a block of code '#' begins a comment

    def begins(line: bytes | Oversize) -> bool:
        nonlocal fence
        if isinstance(line, Oversize):
            return False
        if found := _FENCE.match(line):
            fence = b"" if fence == found[1] else fence or found[1]
        return not fence and bool(_HEADING.match(line))

    return begins


_BOUNDARIES = {"line": _lines, "file": _files, "paragraph": _paragraphs, "section": _sections}


# ---------------------------------------------------------------- units


class _Whole:
    """A unit that is one row."""

    def __init__(self, config: TextReader.Config, file: File) -> None:
        self.limit, self.file, self.short = config.max_row_bytes, file.name, file.short
        self.held = Held(self.limit)
        self.line = 0

    def add(self, number: int, line: bytes | Oversize) -> Iterator[RawRow]:
        if not self.held.size:
            self.line = number
        self.held.add(line)
        return iter(())

    def end(self) -> Iterator[RawRow]:
        raw = self.held.take()
        if isinstance(raw, Oversize):
            row = too_big(self.line, raw, self.limit, self.file)
            yield row._replace(error=f"{row.error}; cut it by 'unit: line' or 'chunk_chars: 4000'")
        elif reason := not_utf8(raw):
            yield RawRow(self.line, raw, None, reason, "encoding", self.file)
        elif raw.strip():
            yield _row(self.line, raw, raw.decode(), self.file, self.short)


class _Chunks:
    """A unit that is cut into rows of at most `chunk_chars`, while it is read."""

    def __init__(self, config: TextReader.Config, file: File) -> None:
        self.limit, self.file, self.short = config.max_row_bytes, file.name, file.short
        self.size, self.overlap = config.chunk_chars or 0, config.overlap_chars
        self.text = ""
        self.line = 1
        self.said = 0
        """Characters at the beginning of `text` that stand in the chunk before."""

    def add(self, number: int, line: bytes | Oversize) -> Iterator[RawRow]:
        if isinstance(line, Oversize):
            yield from self.end()
            yield too_big(number, line, self.limit, self.file)
        elif reason := not_utf8(line):
            yield from self.end()
            yield RawRow(number, line, None, reason, "encoding", self.file)
        else:
            if not self.text:
                self.line = number
            self.text += line.decode()
            yield from self._cut()

    def _cut(self) -> Iterator[RawRow]:
        text, at = self.text, 0
        while len(text) - at > self.size:
            end = _boundary(text, at + self.overlap + 1, at + self.size)
            yield from self._chunk(text[at:end])
            after = _after_space(text, max(end - self.overlap, at + 1), end)
            self.line += text.count("\n", at, after)
            at, self.said = after, end - after
        self.text = text[at:]

    def _chunk(self, text: str) -> Iterator[RawRow]:
        if text.strip():
            yield _row(self.line, text.encode(), text, self.file, self.short)

    def end(self) -> Iterator[RawRow]:
        if self.text[self.said :].strip():
            yield from self._chunk(self.text)
        self.text, self.said = "", 0


def _boundary(text: str, low: int, high: int) -> int:
    """The last place between `low` and `high` that is behind white space; `high` if there is none."""
    if text[high].isspace():
        return high
    return next((end for end in range(high, low, -1) if text[end - 1].isspace()), high)


def _after_space(text: str, low: int, high: int) -> int:
    """The first beginning of a word from `low` on; `low` if all of it is one word."""
    found = _SPACE.search(text, low - 1, high)
    return found.end() if found else low


def _row(line: int, raw: bytes, text: str, file: str, short: str) -> RawRow:
    # the white space between units belongs to the bytes, not to the text
    text = text.replace("\r\n", "\n").rstrip().lstrip("\n")
    return RawRow(line, raw, {"text": text, "file": short, "chunk": 0}, None, "parse", file)
