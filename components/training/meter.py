"""What a run has measured so far. It travels with the checkpoints, so a resumed run reports the whole of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SMOOTHED = 5
"""Steps whose mean loss is the yardstick of the watchdog."""


@dataclass
class Meter:
    """Loss, gradient norm and learning rate of every step; tokens and seconds of training (without evaluation)."""

    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    figures: dict[str, list[float]] = field(default_factory=dict)
    """What the method itself measures at every step, for example `rewards/accuracies`."""
    tokens: int = 0
    rows: int = 0
    trained: int = 0
    """Tokens that carry loss."""
    seconds: float = 0.0
    evaluations: list[dict[str, float]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    tried: list[dict[str, Any]] = field(default_factory=list)
    """What `speed: auto` measured before the first step."""
    joules: float = 0.0
    adapted: list[dict[str, Any]] = field(default_factory=list)
    resumed_from: list[int] = field(default_factory=list)
    best_step: int | None = None
    best_loss: float | None = None
    stale: int = 0
    """Evaluations since the best one."""

    def notes(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def restored(cls, notes: Mapping[str, Any]) -> Meter:
        return cls(**notes)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def evaluated(self, step: int, figures: Mapping[str, float], min_delta: float) -> None:
        """Take down an evaluation, and whether it is the best."""
        self.evaluations.append({"step": step, **figures})
        if self.best_loss is None or figures["loss"] < self.best_loss - min_delta:
            self.best_step, self.best_loss, self.stale = step, figures["loss"], 0
        else:
            self.stale += 1

    def above(self, diverged: float | None, most: float | None, patience: int) -> float | None:
        """The limit that the last `patience` losses all exceed; None while all is well."""
        recent = self.losses[-patience:]
        if len(recent) < patience:
            return None
        first = sum(self.losses[:SMOOTHED]) / min(SMOOTHED, len(self.losses))
        limits = [most] if most else []
        if diverged and len(self.losses) >= SMOOTHED + patience and first > 0:
            limits.append(diverged * first)
        return next((limit for limit in limits if min(recent) > limit), None)
