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
_ASIDE = ("input", "context", "instruction")
"""A row with one of these besides has a third part, which a guessed pair would drop without a word."""
_LABELS = ("label", "kto_tag")
"""A row with one of these besides may be an answer that is bad, which a guessed pair would teach."""
_ANSWERS = frozenset(("completion", "response", "chosen", "rejected"))


def pair_in(row: dict[str, Any]) -> tuple[str, str] | None:
    """The pair of columns that holds prompt and completion; none where a label stands beside it."""
    return None if any(name in row for name in _LABELS) else labelled_pair_in(row)


def labelled_pair_in(row: dict[str, Any]) -> tuple[str, str] | None:
    """The pair of columns that holds prompt and completion, with or without a label."""
    found = next((pair for pair in PAIRS if pair[0] in row and pair[1] in row), None)
    if found is None or found == PAIRS[0]:
        return found
    return None if any(name in row and name not in found for name in _ASIDE) else found


def label_of(value: Any) -> bool | None:
    """True or false, or 1 or 0 for it, also as text in any letter case; None for anything else."""
    if isinstance(value, str):
        return _LABEL_TEXTS.get(value.strip().lower())
    return bool(value) if isinstance(value, (int, float)) and value in (0, 1) else None


_LABEL_TEXTS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def _listing(row: dict[str, Any], column: str, key: str) -> bool:
    """Whether the column holds a list that begins with an object with this key."""
    found = row.get(column)
    return isinstance(found, list) and bool(found) and isinstance(found[0], dict) and key in found[0]


def _unpaired(row: dict[str, Any]) -> bool:
    if labelled_pair_in(row):
        return any(name in row for name in _LABELS)
    answers = "conversations" in row or "messages" in row or _alpaca(row)
    return answers and any(label_of(row.get(name)) is not None for name in _LABELS)


def _alpaca(row: dict[str, Any]) -> bool:
    return "instruction" in row and "output" in row


_FORMS: tuple[tuple[str, Callable[[dict[str, Any]], bool]], ...] = (
    ("preference", lambda row: "chosen" in row and "rejected" in row),
    ("unpaired", _unpaired),
    ("messages", lambda row: _listing(row, "messages", "role")),
    ("sharegpt", lambda row: _listing(row, "conversations", "from")),
    ("alpaca", _alpaca),
    ("prompt_completion", lambda row: pair_in(row) is not None),
    ("prompt", lambda row: "prompt" in row and _ANSWERS.isdisjoint(row)),
    ("text", lambda row: isinstance(row.get("text"), str)),
)


def looks_like(value: Any, form: str) -> bool:
    """Whether this is the one form that the value has."""
    if not isinstance(value, dict):
        return form == "text" and isinstance(value, str)
    return next((name for name, has in _FORMS if has(value)), None) == form
