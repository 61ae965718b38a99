"""Greedy answers to many prompts, through the artifact that will be served."""

from __future__ import annotations

from collections.abc import Sequence

from components.core.events import EventBus, StageProgress
from components.interfaces import Backend, Generation


def answers(
    backend: Backend, prompts: Sequence[Sequence[int]], tokens: int, batch: int, name: str, bus: EventBus
) -> list[Generation]:
    """Answers in the order of the prompts; generated in batches of similar length, which wastes least on padding."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: dict[int, Generation] = {}
    for start in range(0, len(order), batch):
        numbers = order[start : start + batch]
        found.update(zip(numbers, backend.generate([prompts[i] for i in numbers], tokens), strict=True))
        bus.emit(StageProgress(stage="benchmark", name=name, done=len(found), total=len(order)))
    return [found[i] for i in range(len(order))]
