"""Rows of columnar files (parquet, arrow, hub): as values that JSON can hold, and as a line of it.

Times become ISO text, to the nanosecond, and numbers of exact length become text. Bytes become text where they are
UTF-8; others, such as images, are left out of the value, which then lacks that column. `columns` reads some only:

data: {train: {type: parquet, path: data/photos.parquet, columns: [question, answer]}}
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, Field

from components.core.errors import DataError, PostmillError
from components.data.readers._files import File, FileReader, FilesConfig
from components.data.readers._lines import KEPT, too_big
from components.interfaces import RawRow

BATCH_ROWS = 2048
BATCH_BYTES = 1 << 24
_NO_TEXT = object()
"""Stands for bytes that are no text."""


def _each_once(names: list[str] | None) -> list[str] | None:
    if twice := [name for name, count in Counter(names or ()).items() if count > 1]:
        raise ValueError(f"the column {twice[0]!r} is named twice")
    return names


ColumnNames = Annotated[
    Annotated[list[str], Field(min_length=1)] | None,
    AfterValidator(_each_once),
    Field(description="columns to read; all of them by default"),
]


class TableConfig(FilesConfig):
    """Keys of every reader of columnar files."""

    columns: ColumnNames = None


def table_rows(batches: Iterator[Any], limit: int, file: str) -> Iterator[RawRow]:
    """Record batches -> rows, numbered from 1."""
    number = 0
    for batch in batches:
        _check(batch)
        sure = _all(_is_json, batch.schema)
        text_only = _all(_holds_no_bytes, batch.schema)
        for value in _values(batch):
            number += 1
            yield _row(number, value if text_only else _decoded(value), sure, limit, file)


def check_columns(schema: Any, wanted: Sequence[str] | None, file: str) -> list[str]:
    """The columns to read; a DataError where one is absent, or where two have one name."""
    counts = Counter(schema.names)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise DataError(f"'{file}' has {counts[twice[0]]} columns called {twice[0]!r}; give each a name of its own")
    if absent := [name for name in wanted or () if name not in counts]:
        raise DataError(f"'{file}' has no column {absent[0]!r}; it has: {', '.join(counts)}")
    return list(wanted or counts)


def _row(number: int, value: Any, sure: bool, limit: int, file: str) -> RawRow:
    if isinstance(value, UnicodeDecodeError):
        return RawRow(number, value.object[:KEPT], None, f"not UTF-8: byte {value.start}", "encoding", file)
    if isinstance(value, Exception):
        reason = f"a value cannot be read ({type(value).__name__}: {value}); leave its column out: columns: [...]"
        return RawRow(number, b"", None, reason, "parse", file)
    try:
        raw = orjson.dumps(value, default=_plain, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as error:
        seen = repr(value).encode("utf-8", "backslashreplace")[:KEPT]
        return RawRow(number, seen, None, f"not JSON: {_reason(value, error)}", "parse", file)
    if len(raw) > limit:
        return too_big(number, raw, limit, file)
    return RawRow(number, raw, value if sure else orjson.loads(raw), None, "parse", file)


def _check(batch: Any) -> None:
    """An ArrowInvalid for positions that point out of the file, which would end the process and not this reading."""
    import pyarrow

    for column in batch.columns:
        try:
            column.validate(full=True)
        except pyarrow.ArrowInvalid as error:
            if "UTF8" not in str(error):  # which is a fault of its row alone
                raise


def _values(batch: Any) -> Iterator[Any]:
    """The rows; for one that cannot be read the exception: bytes that are no text, a date after the year 9999,
    a time zone that this machine does not know."""
    try:
        yield from batch.to_pylist()
    except (ValueError, ArithmeticError, KeyError):  # somewhere in the batch: row by row
        for position in range(batch.num_rows):
            try:
                yield batch.slice(position, 1).to_pylist()[0]
            except (ValueError, ArithmeticError, KeyError) as error:
                yield error


def _decoded(value: Any) -> Any:
    """The value with its bytes as text, and without those that are none: columns go, elements of lists become null."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return _NO_TEXT
    if isinstance(value, dict):
        cells = ((name, _decoded(cell)) for name, cell in value.items())
        return {name: cell for name, cell in cells if cell is not _NO_TEXT}
    if isinstance(value, list | tuple):
        return [None if (cell := _decoded(each)) is _NO_TEXT else cell for each in value]
    return value


def _plain(value: Any) -> Any:
    """What orjson does not know by itself: numbers of exact length and spans of time, and pandas' kind of times."""
    if isinstance(value, Decimal | timedelta):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(type(value).__name__)


def _reason(value: dict[str, Any], error: TypeError) -> str:
    for name, cell in value.items():
        try:
            orjson.dumps(cell, default=_plain)
        except TypeError:
            return f"column '{name}' holds {type(cell).__name__}; leave it out: columns: [...]"
    return str(error)


def _all(holds: Any, kind: Any) -> bool:
    """Whether it holds for every type that a schema, or a type with others inside, is made of."""
    from pyarrow import types

    if hasattr(kind, "names") and not hasattr(kind, "id"):  # a schema
        return all(_all(holds, field.type) for field in kind)
    if types.is_dictionary(kind):
        return _all(holds, kind.value_type)
    if types.is_nested(kind):
        return holds(kind) and all(_all(holds, kind.field(i).type) for i in range(kind.num_fields))
    return bool(holds(kind))


def _is_json(kind: Any) -> bool:
    """Whether every value reads back from JSON as it is: no dates, bytes, nor floats, which may be NaN."""
    from pyarrow import types

    known = (types.is_string, types.is_large_string, types.is_integer, types.is_boolean, types.is_null)
    nested = (types.is_struct, types.is_list, types.is_large_list)
    return any(is_it(kind) for is_it in (*known, *nested))


def _holds_no_bytes(kind: Any) -> bool:
    from pyarrow import types

    known = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return not any(is_it(kind) for is_it in known) and not hasattr(kind, "extension_name")


class TableReader(FileReader):
    """A reader of columnar files. All files of the set must have the columns of the first one."""

    Config = TableConfig
    config: TableConfig

    def rows(self) -> Iterator[RawRow]:
        first: tuple[str, dict[str, str]] | None = None
        for file in self.files():
            schema = self.schema(file)
            names = check_columns(schema, self.config.columns, file.name)
            types = {name: str(schema.field(name).type) for name in names}
            first = first or (file.name, types)
            _same(file.name, types, *first)
            yield from self.read(file, True)

    def read(self, file: File, last: bool) -> Iterator[RawRow]:
        return guarded(file.name, table_rows(self.batches(file), self.config.max_row_bytes, file.name))

    @abstractmethod
    def schema(self, file: File) -> Any:
        """pyarrow schema of a file."""

    @abstractmethod
    def batches(self, file: File) -> Iterator[Any]:
        """pyarrow record batches of a file with the columns to be read, small enough to be held."""


def guarded(name: str, rows: Iterator[Any]) -> Iterator[Any]:
    """The same, with what pyarrow says of a broken file as a DataError that names it."""
    try:
        yield from rows
    except PostmillError:
        raise
    except Exception as error:  # pyarrow raises its own, OSErrors, and plain ValueErrors
        raise broken(name, error) from error


def broken(name: str, error: Exception) -> DataError:
    """What is said of a file that pyarrow cannot read."""
    text = (str(error).splitlines() or [""])[0]
    return DataError(f"'{name}' is truncated, or of another kind than its reader ({text}); fetch it again")


def _same(name: str, ours: dict[str, str], first_name: str, theirs: dict[str, str]) -> None:
    for column in [*theirs, *ours]:
        if ours.get(column) != theirs.get(column):
            here, there = ours.get(column, "missing"), theirs.get(column, "missing")
            raise DataError(
                f"'{name}': column '{column}' is {here}, but {there} in '{first_name}'; "
                "write the files of one set with one schema, or read them as sources of a mix"
            )
