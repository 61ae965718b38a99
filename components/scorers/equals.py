"""Is the answer the expected text?

benchmark: [{type: generative, scorer: {type: equals, ignore_case: true}}]
"""

from __future__ import annotations

from pydantic import Field

from components.core.component import StrictConfig
from components.core.kinds import register
from components.interfaces import Scorer


@register("scorer", "equals")
class Equals(Scorer):
    """1 for the same words as expected, whatever the spacing."""

    class Config(StrictConfig):
        ignore_case: bool = Field(False, description="capitals and small letters are the same")

    config: Config

    def score(self, answer: str, expected: str | None) -> float:
        found, wanted = answer.split(), (expected or "").split()
        if self.config.ignore_case:
            found, wanted = [word.casefold() for word in found], [word.casefold() for word in wanted]
        return float(found == wanted)
