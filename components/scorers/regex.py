"""Does the answer match a regular expression? Checks that an instruction about form was followed.

benchmark: [{type: generative, scorer: {type: regex, pattern: '[A-D]', whole: true}}]
"""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from components.core.component import StrictConfig
from components.core.kinds import register
from components.interfaces import Scorer


@register("scorer", "regex")
class Regex(Scorer):
    """1 for an answer that matches the pattern, whatever is expected."""

    needs_answer = False

    class Config(StrictConfig):
        pattern: str = Field(r"\S", description="Python's syntax; the dot matches line breaks too")
        whole: bool = Field(False, description="the whole answer, without space around it, must match")

        @field_validator("pattern")
        @classmethod
        def _compiles(cls, value: str) -> str:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"pattern '{value}' is no regular expression: {error}") from error
            return value

    config: Config

    def score(self, answer: str, expected: str | None) -> float:
        pattern = re.compile(self.config.pattern, re.DOTALL)
        found = pattern.fullmatch(answer.strip()) if self.config.whole else pattern.search(answer)
        return float(found is not None)
