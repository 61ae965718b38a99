"""What must hold for the data set to be honest; the generator runs this before it writes.

Each function raises ``AssertionError`` with the offending text.  Try::

    python -c "from examples.triage.checks import check_pools; check_pools()"
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from . import phrases as say
from .anchors import CATEGORY, PRIORITY, has
from .catalogue import HELD_OUT_PRODUCTS, TRAIN_PRODUCTS
from .compose import Sample
from .cues import CUES
from .schema import CATEGORIES, CURRENCIES, KEYS, LANGUAGES, PRIORITIES, to_line

MAX_OVERLAP = 0.45
FEW_WORDS = 5


def check_pools() -> None:
    """No template serves both splits, not even with other case, slots or punctuation."""
    train = {_skeleton(text): name for name, text in say.templates("train")}
    for name, text in say.templates("held_out"):
        _require(_skeleton(text) not in train, f"{name} is also in training: {text}")
    for split in ("train", "held_out"):
        texts = [text for _, text in say.templates(split)]
        _require(len(texts) == len(set(texts)), f"a template occurs twice in {split}")
    reserved = {product.name for product in HELD_OUT_PRODUCTS}
    shared = sorted(reserved & {product.name for product in TRAIN_PRODUCTS})
    _require(not shared, f"reserved products are used in training: {shared}")


def check_wording() -> None:
    """Within a pool, no held-out sentence is a training sentence with a word exchanged."""
    for pool in say.ALL_POOLS:
        for new in pool.held_out:
            for old in pool.train:
                _require(overlap(new, old) <= MAX_OVERLAP, f"too close: {new!r} and {old!r}")


def overlap(one: str, other: str) -> float:
    """Shared words over all words; greetings are too short for that to mean anything."""
    first, second = set(_skeleton(one).split()), set(_skeleton(other).split())
    if min(len(first), len(second)) < FEW_WORDS:
        return 0.0
    return len(first & second) / len(first | second)


def _skeleton(template: str) -> str:
    """The bare words of a template, without its slots."""
    return " ".join(re.findall(r"[\w']+", re.sub(r"\{\w+\}", " ", template).lower()))


def check_anchors() -> None:
    """Problems and cues carry key words of their own label, and no text those of another."""
    for category, pool in say.PROBLEMS.items():
        for text in (*pool.train, *pool.held_out):
            _require(has(CATEGORY[category], text), f"no key word of {category}: {text}")
    for cue in CUES:
        for text in (*cue.pool.train, *cue.pool.held_out):
            _require(has(PRIORITY[cue.priority], text), f"no key word of {cue.priority}: {text}")
    for name, text in (*say.templates("train"), *say.templates("held_out")):
        found = {label for label, words in (CATEGORY | PRIORITY).items() if has(words, text)}
        own = {label for label in found if label in name}
        _require(found == own, f"{name} has key words of {sorted(found - own)}: {text}")


def check_samples(train: list[Sample], held_out: list[Sample]) -> None:
    """No message occurs twice, none on both sides, and every record fits its message."""
    seen: set[str] = set()
    for sample in (*train, *held_out):
        key = " ".join(sample.message.lower().split())
        _require(key not in seen, f"message occurs twice: {sample.message}")
        seen.add(key)
        check_record(sample)
    for sample in train:
        for product in HELD_OUT_PRODUCTS:
            _require(product.name not in sample.message.lower(), f"reserved: {sample.message}")


def check_record(sample: Sample) -> None:
    """The record has the right shape and copies nothing the message does not say."""
    record, message = sample.record, sample.message
    hint = f"{to_line(record)} does not fit: {message}"
    _require(tuple(record) == KEYS, hint)
    _require(record["category"] in CATEGORIES and record["priority"] in PRIORITIES, hint)
    _require(record["product"] is None or str(record["product"]) in message.lower(), hint)
    _require(record["order"] is None or str(record["order"]) in message, hint)
    _require(record["language"] is None or record["language"] in LANGUAGES, hint)
    _require((record["amount"] is None) == (record["currency"] is None), hint)
    if record["amount"] is not None:
        _require(record["currency"] in CURRENCIES, hint)
        _require(_digits_of(record["amount"]) in _only_digits(message), hint)
    for key, value in sample.decoys:
        _require(record[key] != value, f"decoy {value!r} equals the answer: {message}")


def _digits_of(amount: object) -> str:
    """49.9 is written "49.90" or "49,90", so at least its digits 499 must occur."""
    return _only_digits(str(amount))


def _only_digits(text: str) -> str:
    return re.sub(r"[.,](?=\d)", "", text)


def check_preferences(rows: Iterable[dict[str, Any]], train: list[Sample]) -> None:
    """Prompts come from training, rejected differs from chosen, chosen is the truth."""
    truth = {sample.message: to_line(sample.record) for sample in train}
    for row in rows:
        message, chosen = row["prompt"][-1]["content"], row["chosen"][0]["content"]
        _require(truth.get(message) == chosen, f"not a training row: {message}")
        _require(row["rejected"] != row["chosen"], f"nothing is wrong with: {chosen}")
        json.loads(chosen)


def _require(condition: bool, message: str) -> None:
    """Unlike ``assert``, this also works under ``python -O``."""
    if not condition:
        raise AssertionError(message)
