"""Preference pairs: the true record against a believable mistake.

Five kinds of fault take turns, so that preference training sees each of them equally
often.  A rejected answer never equals the chosen one.  Try::

    python -c "from examples.triage.preferences import FAULTS; print(FAULTS)"
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random

from . import values
from .catalogue import TRAIN_PRODUCTS
from .compose import Sample
from .phrases import LANGUAGE_NAMES
from .schema import NULLABLE, SYSTEM, Record, Value, to_line

Fault = Callable[[Sample, Random], str | None]

CHATTER = (
    ("Sure! Here is the record:\n", ""),
    ("", "\nLet me know if you need anything else!"),
    ("I have read the message. The result is ", "."),
    ("Thank you for reaching out, I am sorry for the trouble. ", ""),
    ("Triage: ", " (I was not sure about the priority.)"),
)
RENAMED = (
    ("category", "type"), ("priority", "urgency"), ("product", "item"), ("order", "order_id"),
    ("amount", "price"), ("language", "reply_language"),
)  # fmt: skip


def preferences(samples: list[Sample], count: int, rng: Random) -> list[dict[str, object]]:
    """Build ``count`` pairs from distinct samples, cycling through the faults."""
    unused = rng.sample(samples, len(samples))
    kinds = tuple(FAULTS)
    return [_next_pair(unused, kinds[index % len(kinds)], rng) for index in range(count)]


def _next_pair(unused: list[Sample], kind: str, rng: Random) -> dict[str, object]:
    """Take the first unused sample in which this fault is possible."""
    for index, sample in enumerate(unused):
        bad = FAULTS[kind](sample, rng)
        if bad is not None and bad != to_line(sample.record):
            del unused[index]
            return _pair(sample, kind, bad)
    raise RuntimeError(f"no unused sample allows the fault {kind!r}")


def _pair(sample: Sample, kind: str, bad: str) -> dict[str, object]:
    return {
        "prompt": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": sample.message},
        ],
        "chosen": [{"role": "assistant", "content": to_line(sample.record)}],
        "rejected": [{"role": "assistant", "content": bad}],
        "fault": kind,
    }


def _chatty(sample: Sample, rng: Random) -> str:
    before, after = rng.choice(CHATTER)
    return before + to_line(sample.record) + after


def _fenced(sample: Sample, rng: Random) -> str:
    return f"```{rng.choice(('json', ''))}\n{to_line(sample.record)}\n```"


def _wrong_schema(sample: Sample, rng: Random) -> str:
    """Rename, drop or add a key, or write a value with the wrong type."""
    spoil = rng.choice((_rename_key, _drop_key, _add_key, _wrong_type))
    return _compact(spoil(dict(sample.record), rng))


def _rename_key(record: Record, rng: Random) -> Record:
    old, new = rng.choice(RENAMED)
    return {new if key == old else key: value for key, value in record.items()}


def _drop_key(record: Record, rng: Random) -> Record:
    """Leave out a null, as careless writers of JSON like to do, or else any key."""
    nulls = [key for key, value in record.items() if value is None]
    del record[rng.choice(nulls or list(record))]
    return record


def _add_key(record: Record, rng: Random) -> Record:
    return record | {rng.choice(("summary", "sentiment", "customer", "notes")): None}


def _wrong_type(record: Record, rng: Random) -> Record:
    """Write the amount, or else a null, as a string."""
    nulls = [key for key, value in record.items() if value is None]
    key = "amount" if record["amount"] is not None else rng.choice(nulls or ["priority"])
    wrong: Value = "" if record[key] is None else str(record[key])
    return record | {key: 2 if key == "priority" else wrong}


def _invented(sample: Sample, rng: Random) -> str | None:
    """Replace a null by a value that the message does not contain."""
    fields = [key for key in NULLABLE if sample.record[key] is None and key != "currency"]
    if not fields:
        return None
    field = rng.choice(fields)
    if field == "amount":
        sum_ = values.money(rng, 80)
        return to_line(sample.record | {"amount": sum_.amount, "currency": sum_.currency})
    return to_line(sample.record | {field: _invent(field, rng)})


def _invent(field: str, rng: Random) -> str:
    if field == "order":
        return values.order_number(rng).removeprefix("#")
    if field == "product":
        return rng.choice(TRAIN_PRODUCTS).name
    return rng.choice(tuple(LANGUAGE_NAMES))


def _from_decoy(sample: Sample, rng: Random) -> str | None:
    """Copy a value of the right shape and the wrong meaning."""
    if not sample.decoys:
        return None
    key, value = rng.choice(sample.decoys)
    spoilt = sample.record | {key: value}
    if key == "amount" and spoilt["currency"] is None:
        spoilt["currency"] = "EUR"
    return to_line(spoilt)


def _compact(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


FAULTS: dict[str, Fault] = {
    "chatty": _chatty,
    "wrong_schema": _wrong_schema,
    "invented_field": _invented,
    "markdown_fence": _fenced,
    "distractor_value": _from_decoy,
}
