"""All wordings of the sample task, one module per subject.

``ALL_POOLS`` and ``templates`` exist so that a test can prove that training and
evaluation share no template.  Try::

    python -c "from examples.triage.phrases import templates; print(len(templates('train')))"
"""

from __future__ import annotations

from ..pools import Pool, Split
from .account import ACCOUNT
from .billing import BILLING
from .damage import DAMAGE
from .delivery import DELIVERY
from .details import DETAILS
from .frames import (
    CLOSER,
    DECOY_AMOUNT,
    DECOY_CONTACT,
    DECOY_LABEL,
    DECOY_LANGUAGE,
    OPENER,
    PAIR_FIRST,
    PAIR_LAST,
    PAIR_OWNED,
    REQUEST,
    SMALL_TALK,
)
from .mentions import (
    AMOUNT_ITEM,
    AMOUNT_ORDER,
    ASK_ENGLISH,
    ASK_NATIVE,
    LANGUAGE_NAMES,
    ORDER_FIRST,
    ORDER_LAST,
)
from .priority import ANGRY, HAZARD, LEGAL, NO_RUSH, REPEATED, URGENT, WEEKS
from .question import QUESTION
from .refund import REFUND
from .technical import TECHNICAL

__all__ = (
    "ACCOUNT",
    "ALL_POOLS",
    "AMOUNT_ITEM",
    "AMOUNT_ORDER",
    "ANGRY",
    "ASK_ENGLISH",
    "ASK_NATIVE",
    "BILLING",
    "CLOSER",
    "DAMAGE",
    "DECOY_AMOUNT",
    "DECOY_CONTACT",
    "DECOY_LABEL",
    "DECOY_LANGUAGE",
    "DELIVERY",
    "DETAILS",
    "HAZARD",
    "LANGUAGE_NAMES",
    "LEGAL",
    "NO_RUSH",
    "OPENER",
    "ORDER_FIRST",
    "ORDER_LAST",
    "PAIR_FIRST",
    "PAIR_LAST",
    "PAIR_OWNED",
    "PROBLEMS",
    "QUESTION",
    "REFUND",
    "REPEATED",
    "REQUEST",
    "SMALL_TALK",
    "TECHNICAL",
    "URGENT",
    "WEEKS",
    "templates",
)

PROBLEMS = {
    "refund": REFUND,
    "delivery": DELIVERY,
    "damage": DAMAGE,
    "billing": BILLING,
    "account": ACCOUNT,
    "technical": TECHNICAL,
    "question": QUESTION,
}

CUES = (URGENT, LEGAL, HAZARD, REPEATED, ANGRY, WEEKS, NO_RUSH)
MENTIONS = (ORDER_FIRST, ORDER_LAST, AMOUNT_ITEM, AMOUNT_ORDER, ASK_ENGLISH, *ASK_NATIVE.values())
DECOYS = (DECOY_CONTACT, DECOY_LABEL, DECOY_AMOUNT, DECOY_LANGUAGE)
PAIRS = (PAIR_FIRST, PAIR_LAST, PAIR_OWNED)
FRAMES = (OPENER, CLOSER, REQUEST, SMALL_TALK)
ALL_POOLS: tuple[Pool, ...] = (
    *PROBLEMS.values(),
    *DETAILS.values(),
    *CUES,
    *MENTIONS,
    *DECOYS,
    *PAIRS,
    *FRAMES,
)


def templates(split: Split) -> list[tuple[str, str]]:
    """Every template a split may use, as (id, text), e.g. ("opener/train/0", "Hi,")."""
    return [(f"{pool.name}/{split}/{index}", text) for pool in ALL_POOLS for index, text in enumerate(pool.of(split))]
