"""Rows of columnar files (parquet, arrow, hub): as values that JSON can hold, and as a line of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import orjson

from components.core.errors import DataError
from components.data.readers._files import File, FileReader
from components.data.readers._lines import KEPT, too_big
from components.interfaces import RawRow

BATCH_ROWS = 2048
BATCH_BYTES = 1 << 24


def table_rows(batches: Iterator[Any], limit: int, file: str) -> Iterator[RawRow]:
    """Record batches -> rows, numbered from 1."""
    number = 0
    for batch in batches:
        sure = _is_json(batch.schema)
        for value in _values(batch):
            number += 1
            yield _row(number, value, sure, limit, file)


def _row(number: int, value: Any, sure: bool, limit: int, file: str) -> RawRow:
    if isinstance(value, UnicodeDecodeError):
        return RawRow(number, value.object[:KEPT], None, f"not UTF-8: byte {value.start}", "encoding", file)
    try:
        raw = orjson.dumps(value, default=_plain, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as error:
        seen = orjson.dumps(value, default=repr)[:KEPT]
        return RawRow(number, seen, None, f"not JSON: {_reason(value, error)}", "parse", file)
    if len(raw) > limit:
        return too_big(number, raw, limit, file)
    return RawRow(number, raw, value if sure else orjson.loads(raw), None, "parse", file)


def _values(batch: Any) -> Iterator[Any]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:  # a column of texts whose bytes are none: row by row
        for position in range(batch.num_rows):
            try:
                yield batch.slice(position, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield error


def _plain(value: Any) -> Any:
    """What orjson does not know by itself: numbers of exact length and times become text, bytes if they are text."""
    if isinstance(value, Decimal | timedelta):
        return str(value)
    if isinstance(value, bytes):
        return value.decode()  # a UnicodeDecodeError becomes orjson's TypeError
    raise TypeError(type(value).__name__)


def _reason(value: dict[str, Any], error: TypeError) -> str:
    for name, cell in value.items():
        try:
            orjson.dumps(cell, default=_plain)
        except TypeError:
            return f"column '{name}' holds {type(cell).__name__} that is no text; leave the column out"
    return str(error)


def _is_json(schema: Any) -> bool:
    """Whether every value reads back from JSON as it is: no dates, bytes, nor floats, which may be NaN."""
    return all(_type_is_json(field.type) for field in schema)


def _type_is_json(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return all(_type_is_json(kind.field(i).type) for i in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind):
        return _type_is_json(kind.value_type)
    known = (types.is_string, types.is_large_string, types.is_integer, types.is_boolean, types.is_null)
    return any(is_it(kind) for is_it in known)


class TableReader(FileReader):
    """A reader of columnar files. All files of the set must have the columns of the first one."""

    def rows(self) -> Iterator[RawRow]:
        first: tuple[str, Any] | None = None
        for file in self.files():
            schema = self.schema(file)
            first = first or (file.name, schema)
            _same(file.name, schema, *first)
            yield from self.read(file, True)

    def read(self, file: File, last: bool) -> Iterator[RawRow]:
        return guarded(file.name, table_rows(self.batches(file), self.config.max_row_bytes, file.name))

    def schema(self, file: File) -> Any:
        """pyarrow schema of a file."""
        raise NotImplementedError

    def batches(self, file: File) -> Iterator[Any]:
        """pyarrow record batches of a file, small enough to be held."""
        raise NotImplementedError


def guarded(name: str, rows: Iterator[Any]) -> Iterator[Any]:
    """The same, with what pyarrow says of a broken file as a DataError that names it."""
    import pyarrow

    try:
        yield from rows
    except (pyarrow.ArrowException, OSError) as error:
        raise broken(name, error) from error


def broken(name: str, error: Exception) -> DataError:
    """What is said of a file that pyarrow cannot read."""
    text = (str(error).splitlines() or [""])[0]
    return DataError(f"'{name}' is truncated, or of another kind than its reader ({text}); fetch it again")


def _same(name: str, schema: Any, first_name: str, first: Any) -> None:
    ours, theirs = ({field.name: str(field.type) for field in each} for each in (schema, first))
    for column in [*theirs, *ours]:
        if ours.get(column) != theirs.get(column):
            here, there = ours.get(column, "missing"), theirs.get(column, "missing")
            raise DataError(
                f"'{name}': column '{column}' is {here}, but {there} in '{first_name}'; "
                "write the files of one set with one schema, or read them as sources of a mix"
            )
