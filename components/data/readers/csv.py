"""CSV and TSV: the first line names the columns. Every value is a text. Records keep their bytes.

data: {train: {type: csv, path: data/tickets.csv}}
data: {train: {type: csv, path: data/tickets.csv, delimiter: ";", header: [prompt, completion]}}
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from components.core.errors import DataError
from components.core.kinds import register
from components.data.readers._files import File, FileReader, of_kind
from components.data.readers._lines import KEPT, Oversize, line_batches, not_utf8, too_big
from components.data.readers._streams import TextConfig, text_of
from components.interfaces import Framing, RawRow

COMMON = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_TAB_SEPARATED = (".tsv", ".tab")


@register("reader", "csv")
class CsvReader(FileReader):
    """Records of CSV and TSV files."""

    class Config(TextConfig):
        delimiter: str | None = Field(
            None, min_length=1, max_length=1, description="a comma by default, a tab where the file ends in .tsv"
        )
        quotechar: str = Field('"', min_length=1, max_length=1, pattern=r"^[!-~]$")
        header: Annotated[list[str], Field(min_length=1)] | None = Field(
            None, description="names of the columns, where the first line does not hold them"
        )

        @field_validator("delimiter")
        @classmethod
        def _one_byte(cls, value: str | None) -> str | None:
            if value is not None and (not value.isascii() or value in "\r\n"):
                raise ValueError("a delimiter is one ASCII character, for example ';'")
            return value

        @field_validator("header")
        @classmethod
        def _each_once(cls, value: list[str] | None) -> list[str] | None:
            if (twice := _twice(value or [])) is not None:
                raise ValueError(f"the header names {twice!r} twice; give it another name")
            return value

        @model_validator(mode="after")
        def _told_apart(self) -> CsvReader.Config:
            if self.delimiter == self.quotechar:
                raise ValueError(f"delimiter and quotechar are both {self.quotechar!r}")
            return self

    config: Config
    suffixes = (".csv", *_TAB_SEPARATED)

    def rows(self) -> Iterator[RawRow]:
        files = self.files()
        first: tuple[str, list[str]] | None = None
        for file in files:
            records = self._records(file, file is files[-1])
            header, _ = self._header(file, records)
            if header is None:
                continue
            if first and header != first[1]:
                raise DataError(f"'{file.name}' has the columns {header}, but '{first[0]}' has {first[1]}")
            first = first or (file.name, header)
            yield from self._body(file, records, header)

    def read(self, file: File, last: bool) -> Iterator[RawRow]:
        records = self._records(file, last)
        header, _ = self._header(file, records)
        if header is not None:
            yield from self._body(file, records, header)

    def framing(self) -> Framing:
        files = self.files()
        suffix = "tsv" if of_kind(files[0].name, _TAB_SEPARATED) else "csv"
        bom = text_of(files[0], self.config).bom
        for file in files:
            header, raw = self._header(file, self._records(file, True))
            if header is not None:
                end = b"" if raw.endswith(b"\n") or self.config.header else b"\n"
                return Framing(suffix, bom + raw + end)
        return Framing(suffix, bom)

    def _delimiter(self, file: File) -> str:
        return self.config.delimiter or ("\t" if of_kind(file.name, _TAB_SEPARATED) else ",")

    def _records(self, file: File, last: bool) -> Iterator[_Record]:
        config = self.config
        blocks = text_of(file, config).blocks
        lines = chain.from_iterable(line_batches(blocks, config.max_row_bytes, last, config.quotechar.encode()))
        return _records(file.name, _Feed(lines, config.max_row_bytes), self._delimiter(file), config.quotechar)

    def _header(self, file: File, records: Iterator[_Record]) -> tuple[list[str] | None, bytes]:
        """The names of the columns and the bytes they stand in; None if the file is empty."""
        if self.config.header:
            return self.config.header, b""
        record = next(records, None)
        if record is None:
            return None, b""
        line, raw, names, reason = record
        if isinstance(raw, Oversize) or names is None or not_utf8(raw):
            raise DataError(f"the header of '{file.name}' does not read: {reason or 'it is too long or not UTF-8'}")
        self._check_delimiter(file, raw.decode(), names)
        if (twice := _twice(names)) is not None:
            raise DataError(f"the header of '{file.name}', line {line}, names {twice!r} twice; give it another name")
        return names, raw

    def _check_delimiter(self, file: File, header: str, names: list[str]) -> None:
        if len(names) > 1:
            return
        found = [mark for mark in COMMON if mark != self._delimiter(file) and mark in header]
        if found:
            mark, used = max(found, key=header.count), self._delimiter(file)
            raise DataError(
                f"'{file.name}' seems to have a {COMMON[mark]} between its columns, but is read with a "
                f"{COMMON.get(used, repr(used))}: its header gives one column, {names[0][:80]!r}; "
                f"write 'delimiter: {json.dumps(mark)}' beside its path"
            )

    def _body(self, file: File, records: Iterator[_Record], header: list[str]) -> Iterator[RawRow]:
        name, limit, width = file.name, self.config.max_row_bytes, len(header)
        for line, raw, fields, reason in records:
            if isinstance(raw, Oversize):
                yield too_big(line, raw, limit, name)
            elif not raw.isascii() and (bad := not_utf8(raw)):
                yield RawRow(line, raw, None, bad, "encoding", name)
            elif fields is None:
                yield RawRow(line, raw, None, reason, "parse", name)
            elif len(fields) != width:
                yield RawRow(line, raw, None, f"{len(fields)} fields, the header has {width}", "parse", name)
            else:
                yield RawRow(line, raw, dict(zip(header, fields, strict=True)), None, "parse", name)


def _twice(names: list[str]) -> str | None:
    """The first name that another column has too."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


_Record = tuple[int, bytes | Oversize, list[str] | None, str | None]
"""The line it begins on, its bytes, its fields, and why it has none."""


class _TooLong(Exception):
    pass


class _Feed:
    """Gives lines to the csv module, and remembers those of the record that it is reading."""

    def __init__(self, lines: Iterator[bytes | Oversize], limit: int) -> None:
        self.lines, self.limit = lines, limit
        self.line = 0
        self.begin()

    def begin(self) -> None:
        """A record begins here."""
        self.taken: list[Any] = []
        self.size = 0

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        raw = next(self.lines)
        self.line += 1
        self.taken.append(raw)
        self.size += len(raw)
        if self.size > self.limit or isinstance(raw, Oversize):
            raise _TooLong
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw.decode("latin-1")  # the row is refused later; its quotes still count


def _records(name: str, feed: _Feed, delimiter: str, quotechar: str) -> Iterator[_Record]:
    # 128 KB a field by default; the feed is the one that bounds it
    csv.field_size_limit(max(csv.field_size_limit(), feed.limit))
    reader = csv.reader(feed, delimiter=delimiter, quotechar=quotechar, strict=True)
    while True:
        feed.begin()
        begins = feed.line + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except _TooLong:
            yield begins, _skip(name, feed, quotechar.encode(), begins), None, None
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise _never_closed(name, begins) from error
            yield begins, b"".join(feed.taken), None, f"not CSV: {error}"
        else:
            if len(fields) > 1 or feed.taken[0].strip():
                yield begins, feed.taken[0] if len(feed.taken) == 1 else b"".join(feed.taken), fields, None


def _skip(name: str, feed: _Feed, quote: bytes, begins: int) -> Oversize:
    """Go to the end of a record that is too long, keeping its beginning and its length only."""
    *before, last = feed.taken
    head = b"".join([*before, last.head if isinstance(last, Oversize) else last])[:KEPT]
    size = sum(map(len, before)) + _size(last)
    quotes = sum(line.count(quote) for line in before) + _quotes(last, quote)
    while quotes % 2:
        line = next(feed.lines, None)
        if line is None:
            raise _never_closed(name, begins)
        feed.line += 1
        size += _size(line)
        quotes += _quotes(line, quote)
    return Oversize(head, size, quotes)


def _size(line: bytes | Oversize) -> int:
    return line.size if isinstance(line, Oversize) else len(line)


def _quotes(line: bytes | Oversize, quote: bytes) -> int:
    return line.quotes if isinstance(line, Oversize) else line.count(quote)


def _never_closed(name: str, line: int) -> DataError:
    return DataError(
        f"'{name}': a quote opened in the record at line {line} is never closed; close it, or restore the file"
    )
