"""Does the answer match a regular expression?

rewards: [{type: regex, pattern: '<answer>.*</answer>'}]
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, field_validator

from components.core.chat import Message
from components.core.kinds import register
from components.interfaces import Reward, RewardConfig


@register("reward", "regex")
class Regex(Reward):
    """1 for an answer that matches the pattern, 0 for one that does not."""

    class Config(RewardConfig):
        pattern: str = Field(r"\S", description="Python's syntax; the dot matches line breaks too")
        whole: bool = Field(False, description="the whole answer must match, not a part of it")

        @field_validator("pattern")
        @classmethod
        def _compiles(cls, value: str) -> str:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"pattern '{value}' is no regular expression: {error}") from error
            return value

    config: Config

    def score(self, prompts: list[list[Message]], answers: list[str], rows: list[dict[str, Any]]) -> list[float]:
        pattern = re.compile(self.config.pattern, re.DOTALL)
        match = pattern.fullmatch if self.config.whole else pattern.search
        return [float(match(answer) is not None) for answer in answers]
