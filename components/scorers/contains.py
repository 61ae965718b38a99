"""Does the expected text stand in the answer, as words of its own?

benchmark: [{type: generative, questions: capitals.jsonl, scorer: {type: contains}}]
"""

from __future__ import annotations

import re

from pydantic import Field

from components.core.component import StrictConfig
from components.core.kinds import register
from components.interfaces import Scorer


@register("scorer", "contains")
class Contains(Scorer):
    """1 if the expected text stands in the answer, not as a part of longer words."""

    class Config(StrictConfig):
        ignore_case: bool = Field(True, description="capitals and small letters are the same")

    config: Config

    def score(self, answer: str, expected: str | None) -> float:
        wanted = r"\s+".join(map(re.escape, (expected or "").split()))
        flags = re.IGNORECASE if self.config.ignore_case else 0
        return float(bool(wanted) and re.search(rf"(?<!\w){wanted}(?!\w)", answer, flags) is not None)
