"""Worker threads stay on a core each while they are timed, so that none of them loses its caches by moving.

    with pinned() as pins:
        pins.warm(lambda: backend.generate(prompts, 8))   # who computes is seen while it warms up
        ...                                               # timed

A backend's pools are its own and give no names to their threads, so those that computed most are taken. The thread that
asks is left alone: threads that a library starts for every answer inherit its cores, and would share one. The cores
that are bound leave it one of its own. Linux alone tells who computed (`/proc/self/task/*/schedstat`); elsewhere
nothing is bound, and `Pins.count` says so.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
TASKS = Path("/proc/self/task")
HELPED = 0.1
"""Share of the time that a thread must have run to count as one that helped."""


class Pins:
    """Which threads are bound, and how many cores there are to bind them to."""

    def __init__(self) -> None:
        self.cores = sorted(os.sched_getaffinity(0))
        self.bound: set[int] = set()

    @property
    def count(self) -> int:
        """Threads that are bound."""
        return len(self.bound)

    def warm(self, work: Callable[[], T]) -> T:
        """Do the work, and bind the threads that helped with it to one core each, the first core excepted."""
        before, me, started = _worked(), threading.get_native_id(), time.perf_counter_ns()
        result = work()
        least = HELPED * (time.perf_counter_ns() - started)
        after, free = _worked(), self.cores[1:]
        spent = {thread: after[thread] - ns for thread, ns in before.items() if thread in after and thread != me}
        busiest = sorted((thread for thread in spent if spent[thread] > least), key=lambda thread: -spent[thread])
        for core, thread in zip(free, sorted(busiest[: len(free)]), strict=False):
            _bind(thread, {core})
            self.bound.add(thread)
        return result

    def release(self) -> None:
        for thread in self.bound:
            _bind(thread, set(self.cores))


@contextmanager
def pinned() -> Iterator[Pins]:
    """Bind threads inside of the block; all may run everywhere again after it."""
    pins = Pins()
    try:
        yield pins
    finally:
        pins.release()


def _bind(thread: int, cores: set[int]) -> None:
    with suppress(ProcessLookupError):  # it ended
        os.sched_setaffinity(thread, cores)


def _worked() -> dict[int, int]:
    """Nanoseconds that each thread of this process has run; empty where the kernel does not tell."""
    found = {}
    for task in TASKS.glob("*/schedstat"):
        with suppress(OSError):  # it ended
            found[int(task.parent.name)] = int(task.read_text().split()[0])
    return found
