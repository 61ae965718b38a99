"""Finds the format of some rows by asking every registered one; and which mapped columns are not there.

Try it: detect([{"question": "1 + 1?", "answer": "2"}]) == "prompt_completion"
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from components.core.errors import DataError
from components.core.kinds import registry
from components.data.formats._columns import kind_of, shown
from components.interfaces import Format

LOOKED_AT = 100
"""Values that are enough to tell."""
_HOW = "say which it is: data: {format: {type: prompt_completion, columns: {prompt: <column>, completion: <column>}}}"


def detect(values: Sequence[Any]) -> str:
    """Name of the one format that most of the first values fit; a DataError if there is none, or not just one."""
    values = values[:LOOKED_AT]
    if not values:
        raise DataError("there are no rows to tell the format from")
    formats = {
        name: registry.get("format", name) for name in registry.names("format") if not registry.broken("format", name)
    }
    votes = Counter(name for value in values for name, cls in formats.items() if cls.fits(value))
    most = max(votes.values(), default=0)
    best = sorted(name for name, count in votes.items() if count == most)
    if len(best) == 1:
        return best[0]
    looks = f"like {' and '.join(best)} alike" if best else "like no known format"
    tried = ", ".join(sorted(formats))
    raise DataError(f"the rows look {looks}; found: {_found(values)}; formats tried: {tried}; {_HOW}")


def missing_columns(format: Format, values: Sequence[Any]) -> list[str]:
    """Columns that the format's column map names and that stand in none of the values."""
    mapped = getattr(format.config, "columns", {}).values()
    found = {column for value in values if isinstance(value, dict) for column in value}
    return [column for column in dict.fromkeys(mapped) if column not in found]


def ignored_columns(format: Format, values: Sequence[Any]) -> list[str]:
    """Columns of the values that no part of the format reads: what they say is not in the rows."""
    reads = getattr(format, "reads", None)
    if reads is None:  # a plugin's format, which does not tell
        return []
    unread = (str(name) for value in values if isinstance(value, dict) for name in value.keys() - reads(value))
    known = {str(name): None for value in values if isinstance(value, dict) for name in value}
    found = set(unread)
    return [name for name in known if name in found]


def _found(values: Sequence[Any]) -> str:
    columns = dict.fromkeys(column for value in values if isinstance(value, dict) for column in value)
    others = dict.fromkeys(kind_of(value) for value in values if not isinstance(value, dict))
    return "; ".join(filter(None, (f"columns {shown(columns)}" if columns else "", ", ".join(others))))
