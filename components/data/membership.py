"""Which split a row belongs to, when rows are held out of one source.

The split hangs on a seeded hash of what the user says (or of a column, to keep a customer's rows together): it stays
the same when rows are added or sorted, and two rows with the same question never part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from components.core.recipe import Split
from components.core.rows import normalised, prompt_text
from components.interfaces import BadRow, Row


def membership(split: Split) -> Callable[[Any, Row], str]:
    """(value as read, row) -> "train", "eval" or "test"; BadRow if the column to group by is not there."""

    def of(value: Any, row: Row) -> str:
        place = _fraction(split.seed, _key(split.group_by, value, row))
        if place < split.test:
            return "test"
        return "eval" if place < split.test + split.eval else "train"

    return of


def _key(column: str | None, value: Any, row: Row) -> str:
    if column is None:
        return normalised(prompt_text(row))
    if not isinstance(value, Mapping) or value.get(column) is None:
        raise BadRow(f"there is nothing under '{column}', the column that split.group_by names")
    return str(value[column])


def _fraction(seed: int, key: str) -> float:
    """A number from 0 to 1, the same for the same key."""
    digest = hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
