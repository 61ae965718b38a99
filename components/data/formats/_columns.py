"""Columns of a row: the column map of a configuration, and clear words for what is not there.

The built-in formats extend `Mapped`. Their `Config` extends `Columns` and lists its own column names in `names`; a
column map (`columns: {prompt: question}`) says which column of the data stands for which of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import orjson
from pydantic import field_validator

from components.core.errors import ConfigError, did_you_mean
from components.interfaces import BadRow, Format, FormatConfig, Row

_SHOWN = 200
LEVELS = 64
"""How deep lists and objects may be nested; JSON is written to a certain depth only, and the row adds some."""


def kind_of(value: Any) -> str:
    """What a value is, for people."""
    if value is None:
        return "null"
    if isinstance(value, (list, dict)) and not value:
        return f"an empty {'list' if isinstance(value, list) else 'object'}"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


def shown(names: Any) -> str:
    """Column names in a message, however many and long."""
    text = " ".join(", ".join(map(str, names)).split()) or "none"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def loaded(value: Any, where: str, levels: int = LEVELS) -> Any:
    """What a string of JSON says; any other value as JSON says it, so that the row can be written down again."""
    try:
        found = orjson.loads(value) if isinstance(value, str) else value
        found = orjson.loads(orjson.dumps(found))
    except (ValueError, TypeError) as error:
        raise BadRow(f"{where} cannot be read or written as JSON: {error}") from error
    if problem := _beyond(found, levels):
        raise BadRow(f"{where} cannot be read or written as JSON: {problem}")
    return found


def _beyond(value: Any, levels: int) -> str | None:
    """Why a value does not come back from JSON the same: too many levels, or a whole number beyond 64 bits."""
    if isinstance(value, float):
        # what parses JSON makes a float of such a number, and 12345678901234567890123 is 12345678901234567000000 then
        rounded = value.is_integer() and (value >= 2**64 or value <= -(2**63))
        return f"the number {value!r} is beyond 64 bits and loses digits; write it as text" if rounded else None
    if not isinstance(value, (list, dict)):
        return None
    if not levels:
        return "it is nested too deeply"
    inner = value.values() if isinstance(value, dict) else value
    return next(filter(None, (_beyond(each, levels - 1) for each in inner)), None)


class Columns(FormatConfig):
    """Keys of every built-in format; refuses a column map that names what the format does not have."""

    names: ClassVar[tuple[str, ...]] = ()
    """The format's own columns, optional ones included."""

    @field_validator("columns")
    @classmethod
    def _known(cls, columns: dict[str, str]) -> dict[str, str]:
        known = ", ".join(cls.names)
        unknown = [name for name in columns if name not in cls.names]
        if unknown:
            raise ConfigError(
                [
                    f"the format has no column '{name}'{did_you_mean(name, cls.names)} (it has: {known})"
                    for name in unknown
                ]
            )
        return columns


class Mapped(Format):
    """A format that finds its columns through the column map."""

    Config: ClassVar[type[Columns]] = Columns
    config: Any

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.at: dict[str, str] = {name: self.config.columns.get(name, name) for name in self.Config.names}
        """Own column name -> the one in the data."""

    def reads(self, value: Mapping[str, Any]) -> set[str]:
        """Columns of a value that say something in its row."""
        return set(self.at.values())

    def need(self, value: Any, name: str) -> Any:
        """What stands in the column; BadRow if the value has no columns, or not this one."""
        column = self.at[name]
        if not isinstance(value, dict):
            raise BadRow(f"expected an object with the column '{column}', found {kind_of(value)}")
        if column not in value:
            raise BadRow(f"there is no column '{column}', found: {shown(value)}")
        return value[column]

    def text(self, value: Any, name: str) -> str:
        """What stands in a column of text."""
        return as_text(self.need(value, name), f"'{self.at[name]}'")

    def optional_text(self, value: Mapping[str, Any], name: str) -> str:
        """What stands in a column of text; empty where it is absent or null."""
        found = value.get(self.at[name])
        return "" if found is None else as_text(found, f"'{self.at[name]}'")


def as_text(value: Any, where: str) -> str:
    """The value, if it is text."""
    if not isinstance(value, str):
        raise BadRow(f"{where} must be text, found {kind_of(value)}")
    return value


def holds(row: Row, *names: str) -> None:
    """BadRow unless the internal row has just these lists; `tools` may be added, where it is named."""
    if set(row) - {"tools"} != {*names} - {"tools"} or ("tools" in row and "tools" not in names):
        wanted = ", ".join(name for name in names if name != "tools")
        raise BadRow(f"this form holds rows of {wanted}, not of {shown(row)}")
