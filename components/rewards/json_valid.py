"""Is the answer JSON, and with the keys that are wanted?

rewards: [{type: json_valid, weight: 0.2, keys: [category, priority]}]
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from components.core.answers import NOTHING, parsed
from components.core.chat import Message
from components.core.kinds import register
from components.interfaces import Reward, RewardConfig


@register("reward", "json_valid")
class JsonValid(Reward):
    """1 for an answer that is JSON and nothing else; with `keys`, the share of them that the object has."""

    class Config(RewardConfig):
        keys: list[str] = Field([], description="keys that the answer, then an object, must have")

    config: Config

    def score(self, prompts: list[list[Message]], answers: list[str], rows: list[dict[str, Any]]) -> list[float]:
        return [self._one(parsed(answer)) for answer in answers]

    def _one(self, found: Any) -> float:
        if not self.config.keys:
            return float(found is not NOTHING)
        if not isinstance(found, dict):
            return 0.0
        return sum(key in found for key in self.config.keys) / len(self.config.keys)
