"""`postmill data inspect`: what is in a source, how its rows read, and how a recipe names it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from components.core.errors import DataError
from components.core.machine import human_bytes
from components.core.recipe import Spec
from components.data.formats._columns import kind_of
from components.data.formats._detect import LOOKED_AT, detect
from components.data.source import Source, open_source
from components.interfaces import BadRow, RawRow, Reader
from flows.data.display import cut, print_conversation, shorten, visible
from flows.data.source import form_keys, form_spec, reader_keys, source_section

WIDEST = 1_000
"""Columns of a row that are counted."""
MOST = 20
"""Files and columns that are listed."""


@dataclass
class _Column:
    kinds: Counter[str] = field(default_factory=Counter)
    empty: int = 0
    example: str = ""

    def add(self, value: Any) -> None:
        self.kinds[kind_of(value).removeprefix("a ").removeprefix("an ")] += 1
        if value in (None, "", [], {}):
            self.empty += 1
        elif not self.example:
            self.example = value if isinstance(value, str) else str(value)


@dataclass
class Findings:
    """What one pass over a source gives; it holds a few rows, never all."""

    rows: int = 0
    converted: int = 0
    unreadable: int = 0
    columns: dict[str, _Column] = field(default_factory=dict)
    first: list[RawRow] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    others: int = 0
    """Rows that are no objects, and have no columns."""

    def add(self, raw: RawRow, most: int) -> None:
        self.rows += 1
        if raw.error is not None:
            self.unreadable += 1
            self.refused(raw, raw.error)
            return
        if len(self.first) < most:
            self.first.append(raw)
        if len(self.values) < LOOKED_AT:
            self.values.append(raw.value)
        if isinstance(raw.value, Mapping):
            for name, value in list(raw.value.items())[:WIDEST]:
                self.columns.setdefault(str(name), _Column()).add(value)
        else:
            self.others += 1

    def refused(self, raw: RawRow, reason: str) -> None:
        if len(self.bad) < 3:
            self.bad.append(f"{raw.file}:{raw.line}: {reason}")


def inspect(console: Console, text: str, rows: int, format: str | None) -> None:
    """Print what is in the source; a DataError at the end if its rows have no known form."""
    spec = source_section(text, format).train
    reader: Reader = spec.build()
    _line(console, "reader", _kind(spec, reader))
    _print_files(console, reader)
    source, problem = _source(spec, form_spec(format) if format else None)
    found = _read(reader, source, rows)
    _line(
        console, "rows", f"{found.rows:,}" + (f", {found.unreadable:,} of them unreadable" if found.unreadable else "")
    )
    if not found.values:
        _print_bad(console, found)
        _refuse_empty(found, reader_keys(text))
    _line(console, "format", _why(source, found, format) if source else "not known, see below")
    if source and found.converted + found.unreadable < found.rows:
        good = f"{found.converted:,} of {found.rows:,} rows are of this form"
        _line(console, "", good, "yellow")
    _print_bad(console, found)
    _print_columns(console, found)
    for number, raw in enumerate(found.first, start=1):
        _print_row(console, number, raw, source)
    if problem:
        raise problem
    if not found.converted:
        raise DataError(f"no row is of the form '{format}'; leave --format out to have it told from the rows")
    _print_snippet(console, text, format)


def _refuse_empty(found: Findings, keys: Mapping[str, Any]) -> None:
    where = keys.get("path", keys.get("name", ""))
    if not found.rows:
        raise DataError(f"'{where}' has no rows")
    example = f"postmill data inspect '{{type: {keys['type']}, path: {where}, KEY: VALUE}}'"
    raise DataError(f"'{where}' has no row that can be read as it is; keys of the reader are tried by: {example}")


def _source(spec: Spec, form: Spec | None) -> tuple[Source | None, DataError | None]:
    """How the rows read, or why that cannot be told."""
    try:
        return open_source(spec, form), None
    except DataError as error:
        return None, error


def _read(reader: Reader, source: Source | None, most: int) -> Findings:
    found = Findings()
    for raw in reader.rows():
        found.add(raw, most)
        if source and raw.error is None:
            try:
                source.formats[raw.part].convert(raw.value)
                found.converted += 1
            except BadRow as error:
                found.refused(raw, str(error))
    return found


def _line(console: Console, name: str, value: str, style: str = "") -> None:
    console.print(Text.assemble((f"{name:<8}", "bold"), (visible(value), style)), soft_wrap=True)


def _kind(spec: Spec, reader: Reader) -> str:
    inner = getattr(reader, "inner", None)  # what `auto` has chosen
    if inner is not None:
        return f"{type(inner).__module__.rpartition('.')[2]}, told by the files' names and beginnings"
    parts = len(reader.parts())
    return spec.type + (f" of {parts} sources" if spec.type == "mix" else "")


def _print_files(console: Console, reader: Reader) -> None:
    files = [file for part in reader.parts() for file in _files(getattr(part, "inner", part))]
    sizes = [size for _, size in files if size is not None]
    total = f", {human_bytes(sum(sizes))}" if len(sizes) == len(files) else ""
    _line(console, "files", f"{len(files):,}{total}")
    for name, size in files[:MOST]:
        _line(console, "", f"{name}{f'  {human_bytes(size)}' if size is not None else ''}")
    if len(files) > MOST:
        _line(console, "", f"... and {len(files) - MOST:,} more")


def _files(reader: Any) -> Iterator[tuple[str, int | None]]:
    """Name and size of every file behind a reader; no size where only a server knows it."""
    if hasattr(reader, "files"):
        names = [file.name for file in reader.files()]
    elif hasattr(reader, "directory"):
        names = [str(file) for file in sorted(reader.directory.rglob("*")) if file.is_file() and file.name[0] != "."]
    else:
        names = list(reader.fingerprint())
    for name in names:
        local = Path(name)
        yield name, local.stat().st_size if local.is_file() else None


def _why(source: Source, found: Findings, format: str | None) -> str:
    names = ", ".join(dict.fromkeys(source.names))
    if format or source.reader.parts()[0].config.format:
        return f"{names}, as you say; shape: {source.shape}"
    looked = found.values
    if len(source.names) > 1 or detect(looked) != source.names[0]:
        return f"{names}; shape: {source.shape}"
    votes = sum(type(source.formats[0]).fits(value) for value in looked)
    return f"{names}: {votes:,} of the first {len(looked):,} rows have its columns; shape: {source.shape}"


def _print_bad(console: Console, found: Findings) -> None:
    for text in found.bad:
        _line(console, "", text, "yellow")


def _print_columns(console: Console, found: Findings) -> None:
    if not found.columns:
        return
    readable = found.rows - found.unreadable
    cells = []
    for name, column in list(found.columns.items())[:MOST]:
        there = sum(column.kinds.values())
        kinds = [kind for kind, _ in column.kinds.most_common()]
        kinds += ["absent"] if there < readable - found.others else []
        filled = f"{(there - column.empty) / readable:.1%}".replace("100.0%", "100%")
        cells.append((shorten(name, 40), shorten(", ".join(kinds), 30), filled, column.example))
    left = console.width - 20 - max(len(cell[0]) for cell in cells) - max(len(cell[1]) for cell in cells)
    table = Table(
        Column("column", no_wrap=True), Column("type", no_wrap=True), Column("filled", justify="right"), "example"
    )
    for name, kind, filled, example in cells:
        table.add_row(Text(name), kind, filled, Text(shorten(example, max(left, 20))))
    if len(found.columns) > MOST:
        table.caption = f"... and {len(found.columns) - MOST:,} more columns"
    console.print(table)


def _print_row(console: Console, number: int, raw: RawRow, source: Source | None) -> None:
    console.print(Text(f"── row {number}  {raw.file}:{raw.line}", style="bold"), soft_wrap=True)
    console.print(Text(cut(visible(raw.raw.decode("utf-8", "replace").strip())), style="dim"), soft_wrap=True)
    if source is None:
        return
    try:
        print_conversation(console, source.formats[raw.part].convert(raw.value))
    except BadRow as error:
        console.print(Text(f"not {source.names[raw.part]}: {visible(str(error))}", style="yellow"), soft_wrap=True)


def _print_snippet(console: Console, text: str, format: str | None) -> None:
    keys = reader_keys(text)
    data: dict[str, Any] = {"train": keys, "split": {"eval": 0.1}}
    if format:
        data["format"] = form_keys(format)
    console.print(Text("── in a recipe", style="bold"))
    lines = ["data:"]
    for key, value in data.items():
        flow = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
        remark = "   # a tenth is held out to measure on; or name your own: eval: {...}" if key == "split" else ""
        lines.append(f"  {key}: {flow.strip()}{remark}")
    console.print(Text("\n".join(lines)), soft_wrap=True)
