"""`postmill data convert`: the rows of a source in another form, all of them or none.

A row is read, turned into its internal shape and written down in the other form; that it still says the same is checked
by reading it again. What cannot be written is listed, never dropped.
"""

from __future__ import annotations

import gzip
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from rich.console import Console
from rich.text import Text

from components.core.errors import ConfigError, DataError
from components.data.formats._detect import ignored_columns
from components.data.source import Source, open_source
from components.interfaces import BadRow, Format, RawRow
from flows.data.display import visible
from flows.data.source import form_spec, source_section

ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
LISTED = 20
"""Bad rows that are told one by one."""


@dataclass
class Converted:
    """What became of the rows."""

    written: int = 0
    bad: int = 0
    examples: list[str] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)
    """Columns that the source's form does not read, and that are not in the new rows."""
    out: Path | None = None
    rejected: Path | None = None

    def refuse(self, raw: RawRow, reason: str) -> None:
        self.bad += 1
        if len(self.examples) < LISTED:
            self.examples.append(f"{raw.file}:{raw.line}: {reason}")


def convert(text: str, out: Path, to: str, from_: str | None, force: bool, skip_bad: bool) -> Converted:
    """Write the rows of a source in another form. Nothing is written if a row is bad, unless `skip_bad`."""
    ending = _ending(out)
    rejected = out.with_name(out.name.removesuffix(ending) + ".rejected.jsonl")
    _refuse_to_overwrite([out, rejected] if skip_bad else [out], force)
    source = open_source(source_section(text).train, form_spec(from_) if from_ else None)
    target: Format = form_spec(to).build()
    if source.shape != target.shape:
        raise DataError(
            f"the rows are '{source.names[0]}', of shape {source.shape}; '{to}' holds rows of shape {target.shape}: "
            "one cannot be written as the other"
        )
    found = Converted()
    with _replacing(out) as good, _replacing(rejected, wanted=skip_bad) as bad:
        with _rows_file(good.handle, ending) as write:
            _convert(source, target, found, write, bad.handle if skip_bad else None)
        good.keep = found.written > 0 and (skip_bad or not found.bad)
        bad.keep = good.keep and found.bad > 0
    found.out, found.rejected = (out if good.keep else None), (rejected if bad.keep else None)
    if skip_bad and force and not found.rejected and found.out:
        rejected.unlink(missing_ok=True)  # of an earlier conversion: it would speak of rows that are good now
    return found


def tell(console: Console, errors: Console, found: Converted) -> bool:
    """Say what became of the rows; whether all is as it was asked for."""
    for text in found.examples:
        errors.print(Text(visible(text), style="yellow"), soft_wrap=True)
    if found.bad > len(found.examples):
        errors.print(f"... and {found.bad - len(found.examples):,} more", style="yellow", highlight=False)
    for column, count in found.unused.most_common():
        errors.print(
            f"note: the column '{column}' is not in the new rows ({count:,} rows had it)", highlight=False, markup=False
        )
    if found.out:
        console.print(f"{found.written:,} rows: {found.out}", highlight=False, markup=False, soft_wrap=True)
    if found.rejected:
        console.print(f"{found.bad:,} bad rows: {found.rejected}", highlight=False, markup=False, soft_wrap=True)
    if not found.out:
        total = found.written + found.bad
        why = f"{found.bad:,} of {total:,} rows are bad" if found.bad else "the source has no rows"
        remedy = "; mend them, or leave them out with --skip-bad" if found.bad and found.written else ""
        errors.print(f"error: nothing was written: {why}{remedy}", style="red", highlight=False, markup=False)
    return found.out is not None


def _convert(source: Source, target: Format, found: Converted, write: Any, rejected: BinaryIO | None) -> None:
    for raw in source.reader.rows():
        try:
            value = _converted(raw, source.formats[raw.part], target)
        except BadRow as error:
            found.refuse(raw, str(error))
            if rejected:
                rejected.write(orjson.dumps(_record(raw, str(error)), option=orjson.OPT_APPEND_NEWLINE))
            continue
        found.unused.update(ignored_columns(source.formats[raw.part], [raw.value]))
        write(value)
        found.written += 1


def _converted(raw: RawRow, source: Format, target: Format) -> bytes:
    if raw.error is not None:
        raise BadRow(raw.error)
    row = source.convert(raw.value)
    if not hasattr(target, "restore"):
        raise DataError(f"the form '{type(target).__name__}' has no 'restore': it can be read, but not written")
    written = target.restore(row)
    if target.convert(written) != row:
        raise BadRow("the row would not say the same in the other form")
    return orjson.dumps(written)


def _record(raw: RawRow, reason: str) -> dict[str, Any]:
    # whole, unlike in a quarantine: it may be the only copy that anyone looks at
    text = raw.raw.decode("utf-8", "backslashreplace").rstrip("\r\n")
    return {"file": raw.file, "line": raw.line, "reason": reason, "row": text}


def _ending(out: Path) -> str:
    found = [ending for ending in ENDINGS if out.name.endswith(ending) and out.name != ending]
    if not found:
        raise ConfigError(f"'{out}': end the name in one of {', '.join(ENDINGS)}")
    if not out.parent.is_dir():
        raise ConfigError(f"'{out}': the directory '{out.parent}' does not exist")
    return max(found, key=len)


def _refuse_to_overwrite(paths: list[Path], force: bool) -> None:
    there = [str(path) for path in paths if path.exists()]
    if there and not force:
        raise ConfigError(f"'{there[0]}' exists; choose another name, or overwrite it with --force")


@contextmanager
def _rows_file(handle: BinaryIO, ending: str) -> Iterator[Any]:
    """Writes one row after the other, as lines or as one list."""
    # without name and time in it, so that the same rows are the same file
    packed = gzip.GzipFile("", "wb", fileobj=handle, mtime=0) if ending.endswith(".gz") else None
    target: Any = packed or handle
    listed = ".jsonl" not in ending
    before = b"[\n" if listed else b""

    def write(row: bytes) -> None:
        nonlocal before
        target.write(before + row + (b"" if listed else b"\n"))
        before = b",\n" if listed else b""

    yield write
    target.write(b"\n]\n" if listed and before == b",\n" else before + b"]\n" if listed else b"")
    if packed:
        packed.close()


@dataclass
class _Pending:
    handle: Any
    keep: bool = False


@contextmanager
def _replacing(path: Path, wanted: bool = True) -> Iterator[_Pending]:
    """A file that takes the place of `path` whole, at the end and only if it is to be kept."""
    if not wanted:
        yield _Pending(None)
        return
    scratch = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with scratch.open("wb") as handle:
            pending = _Pending(handle)
            yield pending
            handle.flush()
            os.fsync(handle.fileno())
        if pending.keep:
            scratch.replace(path)
            _sync_directory(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
