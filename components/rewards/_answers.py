"""What rewards share: the expected answer of a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def expected(row: Mapping[str, Any]) -> str:
    """What the assistant says last in a row; empty where it only calls tools, or says nothing."""
    said = [message for message in row.get("messages", ()) if message["role"] == "assistant"]
    return str(said[-1].get("content") or "") if said else ""
