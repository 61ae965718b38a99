"""Rows in their internal shape: what is said in them, and their identity.

`row_digest` names a row wherever it stands and however it was written down; `postmill data find` looks for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

DIGEST_BYTES = 16
_LISTS = ("prompt", "messages", "completion", "chosen", "rejected")


def row_digest(row: Mapping[str, Any]) -> bytes:
    """Identity of a row's content, whatever its formatting: 16 bytes of sha256 over canonical JSON."""
    if len(row) == 1 and "messages" in row:
        # as it has always been: rows of older evidence are found again, and the same ones are chosen to measure on
        content = json.dumps(row["messages"], sort_keys=True).encode()
    else:
        content = orjson.dumps(row, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).digest()[:DIGEST_BYTES]


def spoken(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(role, content) of every message in the row; a text row is one with the role "text"."""
    if "text" in row:
        yield "text", row["text"]
    for name in _LISTS:
        for message in row.get(name, ()):
            # a message that only calls tools has no content of its own
            if message.get("content") is not None:
                yield message["role"], message["content"]


def prompt_text(row: Mapping[str, Any]) -> str:
    """All that the user says, or the text of a text row."""
    if "text" in row:
        return str(row["text"])
    messages = row.get("messages") or row["prompt"]
    return " ".join(message["content"] for message in messages if message["role"] == "user")


def normalised(text: str) -> str:
    """Letter case and spacing aside."""
    return " ".join(text.lower().split())


def said_digest(prompt: str) -> bytes:
    """Identity of a normalised prompt, 16 bytes: finds a row again whatever its answer was."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()[:DIGEST_BYTES]
