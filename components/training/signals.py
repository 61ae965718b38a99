"""SIGTERM and Ctrl+C while training: finish the step, save, stop. The second one stops at once.

One that comes too late for that, while the result is being saved, is passed on when it is.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CAUGHT = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Set by the first signal; asked at the end of each step."""

    name = ""
    heeded = False
    """Whether training stopped because of it, with a checkpoint."""

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.name:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name


@contextmanager
def stop_request(wanted: bool = True) -> Iterator[StopRequest]:
    """Listen for the time of the block. Only a main thread can; elsewhere signals keep their meaning."""
    request = StopRequest()
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request._receive) for number in CAUGHT}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if request.name and not request.heeded:
        signal.raise_signal(signal.Signals[request.name])
