"""JSON as it has to be in an answer: nothing around it, and values equal only where their types are."""

from __future__ import annotations

import json
from typing import Any

NOTHING = object()
"""What a text that is no JSON holds; None is JSON's null."""


def parsed(text: str) -> Any:
    """The text as JSON, or NOTHING. A text around it, NaN and Infinity make it none."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return NOTHING


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def same(found: Any, wanted: Any) -> bool:
    """Equal as JSON: 49.9 equals 49.90, but true is not 1 and "49.9" is not 49.9."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[key], value) for key, value in wanted.items())
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, int | float) and isinstance(wanted, int | float):
        return found == wanted
    return type(found) is type(wanted) and bool(found == wanted)
