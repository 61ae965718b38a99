"""`postmill data find`: which row is meant, and the models that saw it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.text import Text

from components.core.errors import DataError
from components.core.recipe import Spec, default_spec
from components.core.rows import normalised, prompt_text, row_digest, said_digest
from components.data.formats._detect import detect
from components.data.source import open_source
from components.interfaces import BadRow, Format, Row
from components.services.lineage import Place, Sighting, Wanted
from flows.data.display import shorten, visible
from flows.data.source import form_spec, source_section

SHOWN = 10
"""Places that are listed of one data set."""
DIGITS = re.compile(r"[0-9a-fA-F]{8,32}")
_PLACE = re.compile(r"(?P<file>\S.*?):(?P<line>[1-9]\d*)")


@dataclass(frozen=True)
class Asked:
    """What to look for, and what to say of it: how ROW was understood."""

    wanted: Wanted
    about: str
    said: Wanted | None = None
    """What the user says in the row, for a second look when nothing is found."""


def asked(text: str, said: bool, format: str | None) -> Asked:
    """ROW as the user gives it: a JSON row, FILE:LINE, the digits of a digest, or what the user says."""
    form = form_spec(format) if format else None
    if not text.strip():
        raise DataError("say which row: a JSON row, FILE:LINE, a digest, or what the user says")
    if text.lstrip().startswith("{"):
        return _of_row(_from_json(text, form), said, "the row")
    place = _PLACE.fullmatch(text)
    if place and (Path(place["file"]).exists() or (Path(place["file"]).suffix and " " not in text)):
        return _of_row(_from_file(place["file"], int(place["line"]), form), said, text)
    if DIGITS.fullmatch(text):
        return Asked(Wanted(text.lower(), said), f"{'what the user says' if said else 'row'} {text}")
    return Asked(Wanted(said_digest(normalised(text)).hex(), said=True), f"user says: {shorten(text, 80)!r}")


def _of_row(row: Row, said: bool, about: str) -> Asked:
    own = Wanted(row_digest(row).hex())
    prompt = Wanted(said_digest(normalised(prompt_text(row))).hex(), said=True)
    says = f"{about}: {shorten(prompt_text(row), 80)!r}"
    return Asked(prompt, f"{says}, whatever the answer") if said else Asked(own, says, prompt)


def _from_json(text: str, form: Spec | None) -> Row:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DataError(f"ROW begins like JSON but is none: {error}; quote it for the shell with '...'") from error
    return _convert(value, (form or default_spec("format", detect([value]))).build(), "ROW")


def _from_file(file: str, line: int, form: Spec | None) -> Row:
    source = open_source(source_section(file).train, form)
    last = 0
    for raw in source.reader.rows():
        if raw.line == line:
            if raw.error is not None:
                raise DataError(f"{file}:{line} is no row: {raw.error}")
            return _convert(raw.value, source.formats[raw.part], f"{file}:{line}")
        last = max(last, raw.line)
    raise DataError(f"in '{file}' no row begins on line {line}; the last one begins on line {last}")


def _convert(value: Any, form: Format, where: str) -> Row:
    try:
        return form.convert(value)
    except BadRow as error:
        raise DataError(f"{where} is no row: {error}") from error


def print_found(console: Console, ask: Asked, found: Sequence[Sighting], datasets: int, elsewhere: int) -> None:
    """Every data set that holds the row, and what saw it there. `elsewhere`: data sets with another answer to it."""
    _print(console, ask.about, "bold")
    _print(console, f"{'said' if ask.wanted.said else 'digest'} {ask.wanted.digits}", "dim")
    for sighting in found:
        _print_sighting(console, sighting)
    if found:
        return
    here = f"the {datasets:,} data sets" if datasets > 1 else "the one data set"
    _print(console, f"not in {here} here" if datasets else "there is no data set here yet")
    if ask.wanted.said:
        _print(console, "compared with all that the user says in a row, letter case and spacing aside", "dim")
    if elsewhere:
        _print(console, f"the same question stands in {elsewhere:,} of them with another answer: add --said", "yellow")


def _print_sighting(console: Console, sighting: Sighting) -> None:
    rows = ", ".join(f"{count:,} {split}" for split, count in sorted(sighting.rows.items(), reverse=True))
    _print(console, f"\ndata set {sighting.key[:12]}  {sighting.created[:10]}  {rows} rows", "bold")
    for place in sighting.places[:SHOWN]:
        _print(console, f"  {place.split:<5} {_where(place)}")
    if sighting.count > SHOWN:
        _print(console, f"  ... and {sighting.count - SHOWN:,} more places (all of them: --json)")
    for relation, style in (("trained on", "red"), ("measured on", "yellow")):
        models = [a for a in sighting.artifacts if a.relation == relation]
        versions = [v for v in sighting.versions if v.relation == relation]
        if models or versions:
            _print(console, f"  {relation} it:", style)
        for version in versions:
            aliases = "".join(f" @{alias}" for alias in version.aliases)
            variant = f"  (variant {version.variant})" if version.variant else ""
            _print(console, f"    {version.model} version {version.version}{aliases}{variant}", "bold")
        for model in models:
            _print(console, f"    {f'{model.stage}/{model.key[:12]}':<24} {model.kind:<8} {model.type}")
    if not sighting.artifacts and not sighting.versions:
        only_test = {place.split for place in sighting.places} == {"test"}
        _print(
            console, "  test rows: no step reads them" if only_test else "  no model here was trained or measured on it"
        )


def _where(place: Place) -> str:
    return f"{place.file}:{place.line}  {place.digest[:16]}"


def _print(console: Console, text: str, style: str = "") -> None:
    console.print(Text(visible(text), style=style), soft_wrap=True)
