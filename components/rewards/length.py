"""Does the answer keep to a budget of characters?

rewards: [{type: length, budget: 200, weight: 0.5}]
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, PositiveInt

from components.core.chat import Message
from components.core.kinds import register
from components.interfaces import Reward, RewardConfig


@register("reward", "length")
class Length(Reward):
    """0 within the budget, falling to -1 for an answer of twice its length or more."""

    class Config(RewardConfig):
        budget: PositiveInt = Field(400, description="characters")

    config: Config

    def score(self, prompts: list[list[Message]], answers: list[str], rows: list[dict[str, Any]]) -> list[float]:
        return [-min(1.0, max(0.0, len(answer) / self.config.budget - 1)) for answer in answers]
