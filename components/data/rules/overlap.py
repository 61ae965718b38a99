"""Rows of a held-out split that stand in another one too.

A model that was trained on its exam passes it. What the user says decides, letter case and spacing aside: the same
question with another answer is a leak as well. Splits come in the order test, eval, train, so the row of the larger
split is refused and the exam stays whole.

Try it: `data: {contract: {rules: {overlap: fail}}}` in a recipe; `near_overlap` finds the ones that were reworded.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import ClassVar

from components.core.kinds import register
from components.core.rows import DIGEST_BYTES
from components.interfaces import Batch, ModelFacts, Rule


@register("rule", "overlap")
class Overlap(Rule):
    """What the user says stands in no split that is held out from this one."""

    compares: ClassVar[bool] = True

    def prepare(self, model: ModelFacts | None, scratch: Path) -> None:
        self._before: dict[bytes, str] = {}
        self._here: dict[bytes, str] = {}

    def check(self, batch: Batch) -> Mapping[int, str]:
        last = batch.split == "train"
        if last and not self._before:
            return {}
        found = {}
        for position, prompt in enumerate(batch.prompts):
            if not prompt:
                continue
            key = blake2b(prompt.encode(), digest_size=DIGEST_BYTES).digest()
            if key in self._before:
                found[position] = f"the same user text stands in {self._before[key]}"
            elif not last:
                self._here[key] = batch.split
        return found

    def finish(self, split: str) -> Mapping[int, str]:
        self._before |= self._here
        self._here = {}
        return {}
