"""How much of the expected answer stands in the answer. Tells answers apart long before one of them is right.

rewards: [{type: exact_match}, {type: similarity, weight: 0.2}]
"""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import Any

from components.core.chat import Message
from components.core.kinds import register
from components.interfaces import Reward, RewardConfig
from components.rewards._answers import expected


@register("reward", "similarity")
class Similarity(Reward):
    """Share of characters that the answer and the expected answer have in common, in order: 0 to 1."""

    shapes = ("conversation",)
    Config = RewardConfig

    def score(self, prompts: list[list[Message]], answers: list[str], rows: list[dict[str, Any]]) -> list[float]:
        pairs = zip(answers, map(expected, rows), strict=True)
        return [SequenceMatcher(None, wanted, answer, autojunk=False).ratio() for answer, wanted in pairs]
