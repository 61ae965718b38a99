"""Timings are worth nothing while something else computes: who may work beside others, and who works alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

from components.core.recipe import Spec

TIMINGS = ("ms", "s", "tokens/s", "joules")
"""Units of figures that other work on the same cores would change."""


def timed(benchmark: Spec) -> bool:
    """Whether a benchmark measures time."""
    return any(metric.unit in TIMINGS for metric in benchmark.component.reports(benchmark.config))


class Turns:
    """Lets many in at once, or one alone."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._inside = 0
        self._alone = False

    @contextmanager
    def taken(self, alone: bool) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not (alone and self._inside))
            self._inside, self._alone = self._inside + 1, alone
        try:
            yield
        finally:
            with self._changed:
                self._inside, self._alone = self._inside - 1, False
                self._changed.notify_all()
