"""A pool is one set of interchangeable wordings, split for training and for evaluation.

The two halves share key words (see ``anchors``) but no template, so a good score on the
evaluation rows cannot come from remembering sentences.  Try::

    python -c "from examples.triage.phrases import REFUND; print(len(REFUND.held_out))"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "held_out"]


@dataclass(frozen=True)
class Pool:
    """Templates that may stand in for each other; ``name`` makes them traceable."""

    name: str
    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def of(self, split: Split) -> tuple[str, ...]:
        """The templates one split may use."""
        return self.train if split == "train" else self.held_out
