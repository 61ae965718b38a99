"""Composes one message and its record: a problem, and what people write around it.

The problem sentence of the category is chosen first and decides the rest: which cues
make sense, whether a price or a second product can be mentioned.  Try::

    python -c "from random import Random; from examples.triage.compose import compose; \
print(compose(Random(1), 'train'))"
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

from . import phrases as say
from .cues import cue_sentences
from .noise import roughen
from .pools import Pool, Split
from .schema import KEYS, LANGUAGES, Record, Value
from .writer import Writer

CATEGORY_WEIGHTS = {
    "refund": 15, "delivery": 15, "damage": 15, "billing": 14, "account": 13,
    "technical": 14, "question": 14,
}  # fmt: skip
PRIORITY_WEIGHTS = {"normal": 40, "high": 20, "urgent": 20, "low": 20}

# Chance that a sentence states the value when the problem sentence does not.
ORDER_CHANCE = {
    "refund": 0.7, "delivery": 0.7, "damage": 0.7, "billing": 0.7, "account": 0.0,
    "technical": 0.65, "question": 0.0,
}  # fmt: skip
AMOUNT_CHANCE = {"refund": 0.4, "delivery": 0.4, "damage": 0.4, "billing": 0.0, "technical": 0.4}
LANGUAGE_CHANCE = 0.32
NATIVE_SHARE = 0.4  # of those whose language has native requests
PAIR_CHANCE = 0.1
NUMBER_CHANCE = 0.13
OTHER_LANGUAGE_CHANCE = 0.025
OTHER_PRICE_CHANCE = 0.05
TYPO_CHANCE = 0.2
STYLES = {"short": 25, "plain": 45, "chatty": 30}
DETAIL_CHANCE = {"short": 0.0, "plain": 0.25, "chatty": 0.45}
TALK_CHANCE = {"short": 0.0, "plain": 0.15, "chatty": 0.35}
FRAME_CHANCE = {"short": 0.05, "plain": 0.3, "chatty": 0.6}

# What may go on in lower case after "Hello,".
COMMON_START = re.compile(r"(?!I\b|PayPal\b)[A-Z][a-z]*\b")


@dataclass(frozen=True)
class Sample:
    """A message, its true record and the false values a careless reader might copy."""

    message: str
    record: Record
    decoys: tuple[tuple[str, Value], ...]


def compose(rng: Random, split: Split) -> Sample:
    """Write one message of the split together with its record."""
    writer = Writer(rng, split)
    category = _weighted(rng, CATEGORY_WEIGHTS)
    style = _weighted(rng, STYLES)
    template = rng.choice(say.PROBLEMS[category].of(split))
    writer.facts |= {"category": category, "priority": _weighted(rng, PRIORITY_WEIGHTS)}
    body = _body(writer, template, style)
    text = _frame(writer, body, style)
    if rng.random() < TYPO_CHANCE:
        text = roughen(text, writer.protected, rng)
    return Sample(text, {key: writer.facts.get(key) for key in KEYS}, tuple(writer.decoys))


def _weighted(rng: Random, weights: dict[str, int]) -> str:
    return rng.choices(tuple(weights), tuple(weights.values()))[0]


def _body(writer: Writer, template: str, style: str) -> list[str]:
    """The sentences that carry the facts, in an order in which "it" stays clear."""
    problem = writer.fill(template)
    order_first, order_last = _order(writer)
    before, after = _pair(writer)
    near = [*_amount(writer), *cue_sentences(writer)]
    if writer.rng.random() < 0.3:
        near.reverse()
    language = _language(writer)
    loose = [*order_last, *after, *_extras(writer, style)]
    writer.rng.shuffle(loose)
    return [*order_first, *before, problem, *_detail(writer, style), *near, *loose, *language]


def _order(writer: Writer) -> tuple[list[str], list[str]]:
    """A sentence with the order number, to stand before or after the problem."""
    if writer.rng.random() >= ORDER_CHANCE[str(writer.facts["category"])]:
        return [], []
    if writer.rng.random() < 0.35:
        return [writer.say(say.ORDER_FIRST)], []
    return [], [writer.say(say.ORDER_LAST)]


def _amount(writer: Writer) -> list[str]:
    chance = AMOUNT_CHANCE.get(str(writer.facts["category"]), 0)
    if "amount" in writer.facts or writer.rng.random() >= chance:
        return []
    return [writer.say(say.AMOUNT_ITEM if writer.product else say.AMOUNT_ORDER)]


def _detail(writer: Writer, style: str) -> list[str]:
    """A side remark that fits any problem of the category."""
    if writer.rng.random() >= DETAIL_CHANCE[style]:
        return []
    return [writer.say(say.DETAILS[str(writer.facts["category"])])]


def _pair(writer: Writer) -> tuple[list[str], list[str]]:
    """A second product, only where the problem sentence names the first one."""
    if writer.product is None or writer.rng.random() >= PAIR_CHANCE:
        return [], []
    if writer.facts["category"] == "question":
        return [], [writer.say(say.PAIR_OWNED)]
    if writer.rng.random() < 0.2:
        return [writer.say(say.PAIR_FIRST)], []
    return [], [writer.say(say.PAIR_LAST)]


def _extras(writer: Writer, style: str) -> list[str]:
    """Small talk and decoys; a question asks already, and its price has no rival."""
    calm = writer.facts["priority"] in ("low", "normal")
    problem = writer.facts["category"] != "question"
    chances = {
        say.SMALL_TALK: TALK_CHANCE[style] * (1 if calm else 0.3),  # the angry seldom chat
        say.REQUEST: TALK_CHANCE[style] if problem else 0,
        _number_decoys(writer): NUMBER_CHANCE,
        say.DECOY_LANGUAGE: OTHER_LANGUAGE_CHANCE,
        say.DECOY_AMOUNT: OTHER_PRICE_CHANCE if writer.product and problem else 0,
    }
    return [writer.say(pool) for pool, odds in chances.items() if writer.rng.random() < odds]


def _number_decoys(writer: Writer) -> Pool:
    """Stickers and receipts belong to goods in the house; contacts fit everywhere."""
    at_home = writer.facts["category"] in ("damage", "technical", "refund")
    labelled = writer.product is not None and not writer.product.fits("soft")
    if at_home and labelled and writer.rng.random() < 0.5:
        return say.DECOY_LABEL
    return say.DECOY_CONTACT


def _language(writer: Writer) -> list[str]:
    """A request for the language of the answer, in English or in that language."""
    if writer.rng.random() >= LANGUAGE_CHANCE:
        return []
    code = writer.rng.choice(LANGUAGES)
    writer.facts["language"] = code
    if code not in say.ASK_NATIVE or writer.rng.random() >= NATIVE_SHARE:
        return [writer.say(say.ASK_ENGLISH)]
    request = writer.say(say.ASK_NATIVE[code])
    writer.protected.append(request)
    return [request]


def _frame(writer: Writer, body: list[str], style: str) -> str:
    """Put a greeting before and a sign-off after the body, as often as the style asks."""
    chance = FRAME_CHANCE[style]
    text = " ".join(body)
    if writer.rng.random() < chance:
        opener = writer.say(say.OPENER)
        if opener.endswith(",") and COMMON_START.match(text):
            text = text[0].lower() + text[1:]
        text = f"{opener} {text}"
    if writer.rng.random() < chance:
        gap = "\n" if writer.rng.random() < 0.4 else " "
        text = f"{text}{gap}{writer.say(say.CLOSER)}"
    return text
