"""Is the answer the expected one? For JSON objects, the share of fields that are right.

rewards: [{type: exact_match}]
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from components.core.answers import parsed, same
from components.core.chat import Message
from components.core.kinds import register
from components.interfaces import Reward, RewardConfig
from components.rewards._answers import expected


@register("reward", "exact_match")
class ExactMatch(Reward):
    """1 for the expected answer; for JSON objects the share of fields that are right, extra ones counted as wrong."""

    shapes = ("conversation",)

    class Config(RewardConfig):
        partial: bool = Field(True, description="credit for single fields; false: all of them or nothing")

    config: Config

    def score(self, prompts: list[list[Message]], answers: list[str], rows: list[dict[str, Any]]) -> list[float]:
        return [self._one(answer, expected(row)) for answer, row in zip(answers, rows, strict=True)]

    def _one(self, answer: str, wanted_text: str) -> float:
        wanted, found = parsed(wanted_text), parsed(answer)
        if not isinstance(wanted, dict) or not wanted:
            # plain text: the same words, whatever the spacing
            return float(answer.split() == wanted_text.split())
        if not isinstance(found, dict):
            return 0.0
        right = sum(key in found and same(found[key], value) for key, value in wanted.items())
        share = right / len(wanted.keys() | found.keys())
        return share if self.config.partial else float(share == 1)
