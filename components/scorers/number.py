"""Is the number in the answer the expected one? Of an answer with its working, the last number counts.

benchmark: [{type: generative, questions: maths.jsonl, scorer: {type: number}}]
"""

from __future__ import annotations

import math
import re
from typing import Literal

from pydantic import Field

from components.core.component import StrictConfig
from components.core.kinds import register
from components.interfaces import Scorer

# 1,234.5 with commas between thousands, or digits alone; a minus between two numbers takes one from the other
NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


@register("scorer", "number")
class Number(Scorer):
    """1 if the last number of the answer equals that of the expected one."""

    class Config(StrictConfig):
        take: Literal["last", "first"] = Field("last", description="which number of the answer counts")
        tolerance: float = Field(0.0, ge=0, description="how far it may be from the expected one")

    config: Config

    def score(self, answer: str, expected: str | None) -> float:
        found, wanted = _numbers(answer), _numbers(expected or "")
        if not found or not wanted:
            return 0.0
        mine = found[-1 if self.config.take == "last" else 0]
        return float(math.isclose(mine, wanted[-1], rel_tol=1e-9, abs_tol=self.config.tolerance))


def _numbers(text: str) -> list[float]:
    return [float(each.replace(",", "")) for each in NUMBER.findall(text)]
