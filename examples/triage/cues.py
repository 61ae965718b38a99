"""Which priority cue may follow which problem, so that the message stays believable.

Nobody sees smoke rise from a wool blanket, and questions need no lawyer.  Try::

    python -c "from examples.triage.cues import CUES; print([cue.pool.name for cue in CUES])"
"""

from __future__ import annotations

from dataclasses import dataclass

from . import phrases as say
from .pools import Pool
from .schema import CATEGORIES
from .writer import Writer

PROBLEMS = tuple(category for category in CATEGORIES if category != "question")
DISPUTES = ("refund", "delivery", "damage", "billing")


@dataclass(frozen=True)
class Cue:
    """A pool of cues, its priority and the messages it fits."""

    priority: str
    pool: Pool
    categories: tuple[str, ...]
    powered: bool = False


CUES = (
    Cue("urgent", say.URGENT, CATEGORIES),
    Cue("urgent", say.LEGAL, DISPUTES),
    Cue("urgent", say.HAZARD, ("technical",), powered=True),
    Cue("high", say.REPEATED, CATEGORIES),
    Cue("high", say.ANGRY, PROBLEMS),
    Cue("high", say.WEEKS, PROBLEMS),
    Cue("low", say.NO_RUSH, CATEGORIES),
)


def cue_sentences(writer: Writer) -> list[str]:
    """The sentence that sets the priority; "normal" is the lack of one."""
    category, priority = writer.facts["category"], writer.facts["priority"]
    pools = [
        cue.pool
        for cue in CUES
        if cue.priority == priority and category in cue.categories and (writer.product is not None or not cue.powered)
    ]
    return [writer.say(writer.rng.choice(pools))] if pools else []
