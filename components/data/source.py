"""A reader together with the forms of its rows: declared, or told from the first rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from components.core.errors import DataError
from components.core.recipe import DataSection, Spec, default_spec
from components.data.formats._detect import detect, ignored_columns, missing_columns
from components.interfaces import Format, Reader

SAMPLE = 100
"""Rows that a form is detected on."""
PLACES = ("file", "chunk")
"""What a reader of texts says of where one stands; no form reads it."""


@dataclass
class Source:
    """A reader and how the rows of each of its parts read."""

    reader: Reader
    formats: list[Format]
    names: list[str]
    """Registry names of the formats."""
    ignored: list[str]
    """Columns that are there, and that no form reads."""

    @property
    def shape(self) -> str:
        return self.formats[0].shape


def open_source(spec: Spec, default: Spec | None) -> Source:
    """The reader of a split, with the forms of its rows declared or detected; a DataError if they do not fit."""
    reader: Reader = spec.build()
    parts = list(reader.parts())
    values = [first_values(part) for part in parts]
    names, formats = zip(
        *(_format(part, found, default) for part, found in zip(parts, values, strict=True)), strict=True
    )
    if len({form.shape for form in formats}) > 1:
        found = "; ".join(
            f"{next(iter(part.fingerprint()), '?')}: {name}, which is {form.shape}"
            for part, name, form in zip(parts, names, formats, strict=True)
        )
        raise DataError(f"a mixture needs rows of one shape, found {found}; take a source out, or name its format")
    unread = [column for form, found in zip(formats, values, strict=True) for column in ignored_columns(form, found)]
    ignored = [column for column in dict.fromkeys(unread) if column not in PLACES]
    return Source(reader, list(formats), list(names), ignored)


def check_group(section: DataSection, source: Source) -> None:
    """A DataError if `split.group_by` names a column that no row has."""
    column = section.split and section.split.group_by
    for part in source.reader.parts() if column else ():
        values = first_values(part)
        if values and not any(isinstance(value, Mapping) and column in value for value in values):
            raise DataError(f"split.group_by: no row has a column '{column}'; columns found: {_columns(values)}")


def first_values(part: Reader) -> list[Any]:
    """The first rows that parse."""
    return [row.value for row in islice((row for row in part.rows() if row.error is None), SAMPLE)]


def _columns(values: Sequence[Any]) -> str:
    return ", ".join(sorted({str(key) for value in values if isinstance(value, Mapping) for key in value}))


def _format(part: Reader, values: Sequence[Any], default: Spec | None) -> tuple[str, Format]:
    spec = part.config.format or default or default_spec("format", detect(values) if values else "messages")
    form: Format = spec.build()
    absent = missing_columns(form, values) if values else []
    if absent:
        raise DataError(
            f"{', '.join(part.fingerprint())}: the column map names {', '.join(map(repr, absent))}, "
            f"which no row has; columns found: {_columns(values)}"
        )
    return spec.type, form
