"""JSON values from bytes: fast where they are sound, and in words where they are not."""

from __future__ import annotations

import json

import orjson

from components.data.readers._lines import Oversize, not_utf8, too_big
from components.interfaces import RawRow


def bad_json(number: int, raw: bytes | Oversize, limit: int, file: str) -> RawRow:
    """The row for bytes that orjson refused."""
    if isinstance(raw, Oversize):
        return too_big(number, raw, limit, file)
    rule, reason = _why(raw)
    return RawRow(number, raw, None, reason, rule, file)


def _why(raw: bytes) -> tuple[str, str]:
    if reason := not_utf8(raw):
        return "encoding", reason
    if not raw.strip():
        return "parse", "not JSON: nothing stands here"
    try:
        orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if _lone_surrogate(raw):
            return "encoding", f"half of a surrogate pair ({error})"
        return "parse", f"not JSON: {error}"
    raise AssertionError(raw)


def _lone_surrogate(raw: bytes) -> bool:
    """Whether the standard library reads it, and a text in it cannot be written: half of a surrogate pair."""
    if b"\\u" not in raw:
        return False
    try:
        # NaN and Infinity are no JSON either; the standard library takes them unless told
        value = json.loads(raw, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def _refuse(literal: str) -> None:
    raise ValueError(literal)
