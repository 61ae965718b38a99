"""The triage record: its keys, its closed vocabularies and its one-line JSON form.

Everything that trains, checks or scores a triage model imports these constants, so
the shape of a record is stated once.  Try::

    python -c "from examples.triage.schema import KEYS; print(KEYS)"
"""

from __future__ import annotations

import json

Value = str | int | float | None
Record = dict[str, Value]

KEYS = ("category", "priority", "product", "order", "amount", "currency", "language")
CATEGORIES = ("refund", "delivery", "damage", "billing", "account", "technical", "question")
PRIORITIES = ("low", "normal", "high", "urgent")
NULLABLE = ("product", "order", "amount", "currency", "language")
CURRENCIES = (
    "EUR", "USD", "GBP", "CHF", "JPY", "PLN", "SEK", "NOK", "INR", "CAD", "AUD", "CZK",
)  # fmt: skip
LANGUAGES = ("de", "fr", "es", "it", "pt", "nl", "pl", "ja")

SYSTEM = f"Triage as JSON: {', '.join(KEYS)}."


def to_line(record: Record) -> str:
    """Write a record the one way the task accepts: compact, keys in order."""
    ordered = {key: record[key] for key in KEYS}
    return json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))
