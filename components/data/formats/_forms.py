"""Which built-in form a value has, by its columns. A value has one form at most, so detection is never torn.

The order decides where a row has the columns of several: data sets often carry the same content twice (a preference
pair beside `messages`, Alpaca's three columns beside `text`), and the form that says more comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("instruction", "response"),
    ("input", "output"),
)
"""Names under which prompt and completion are known, the format's own first."""
_ASIDE = ("input", "context")
"""A row with one of these besides has a third part, which a guessed pair would drop without a word."""
_ANSWERS = frozenset(("completion", "response", "chosen", "rejected"))


def pair_in(row: dict[str, Any]) -> tuple[str, str] | None:
    """The pair of columns that holds prompt and completion."""
    found = next((pair for pair in PAIRS if pair[0] in row and pair[1] in row), None)
    if found is None or found == PAIRS[0]:
        return found
    return None if any(name in row and name not in found for name in _ASIDE) else found


def is_label(value: Any) -> bool:
    """True or false, or 1 or 0 for it."""
    return isinstance(value, int) and value in (0, 1)


def _listing(row: dict[str, Any], column: str, key: str) -> bool:
    """Whether the column holds a list that begins with an object with this key."""
    found = row.get(column)
    return isinstance(found, list) and bool(found) and isinstance(found[0], dict) and key in found[0]


def _unpaired(row: dict[str, Any]) -> bool:
    if "prompt" in row and "completion" in row:
        return is_label(row.get("label"))
    return "conversations" in row and is_label(row.get("kto_tag"))


_FORMS: tuple[tuple[str, Callable[[dict[str, Any]], bool]], ...] = (
    ("preference", lambda row: "chosen" in row and "rejected" in row),
    ("unpaired", _unpaired),
    ("messages", lambda row: _listing(row, "messages", "role")),
    ("sharegpt", lambda row: _listing(row, "conversations", "from")),
    ("alpaca", lambda row: "instruction" in row and "output" in row),
    ("prompt_completion", lambda row: pair_in(row) is not None),
    ("prompt", lambda row: "prompt" in row and _ANSWERS.isdisjoint(row)),
    ("text", lambda row: isinstance(row.get("text"), str)),
)


def looks_like(value: Any, form: str) -> bool:
    """Whether this is the one form that the value has."""
    if not isinstance(value, dict):
        return form == "text" and isinstance(value, str)
    return next((name for name, has in _FORMS if has(value)), None) == form
