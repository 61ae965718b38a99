"""Is the answer JSON, the expected one, or one with the keys that are wanted?

benchmark: [{type: generative, scorer: {type: json}}]
benchmark: [{type: generative, scorer: {type: json, keys: [name, age]}}]
"""

from __future__ import annotations

from pydantic import Field

from components.core.answers import NOTHING, parsed, same
from components.core.component import StrictConfig
from components.core.kinds import register
from components.interfaces import Scorer


@register("scorer", "json")
class Json(Scorer):
    """1 for JSON and nothing else, equal to what is expected; with `keys`, for an object with exactly these."""

    needs_answer = False

    class Config(StrictConfig):
        keys: list[str] = Field([], description="keys of the object; its values then do not matter")

    config: Config

    def score(self, answer: str, expected: str | None) -> float:
        found = parsed(answer)
        if found is NOTHING:
            return 0.0
        if self.config.keys:
            return float(isinstance(found, dict) and found.keys() == set(self.config.keys))
        return float(expected is None or same(found, parsed(expected)))
