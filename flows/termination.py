"""SIGTERM stops a run with code 143, whatever code it interrupts.

Prefect turns the signal into an exception in the main thread. A library that was interrupted in a bare `except:`, a
finalizer or a callback from C drops it, and the run would go on to its end. So it is said again until it is heard;
not to training, which finishes its step, saves, and would take the second one for impatience.

    with stops_on_sigterm():
        pipeline(recipe)
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_S = 2.0


@contextmanager
def stops_on_sigterm(again: float = AGAIN_S) -> Iterator[None]:
    """SIGTERM raises in the main thread, every `again` seconds until this block is left; main thread only.

    Prefect puts its own handler in place while a flow runs. The wake-up descriptor is told of a signal in any case.
    """
    signal.signal(signal.SIGTERM, _stop)
    told, tell = socket.socketpair()
    tell.setblocking(False)
    left = threading.Event()
    before = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_insist, args=(told, left, again), name="sigterm", daemon=True).start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before)
        tell.close()


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)  # runs the exit handlers, one of which stops Prefect's embedded server


def _insist(told: socket.socket, left: threading.Event, again: float) -> None:
    with told:
        while heard := told.recv(64):
            if signal.SIGTERM in heard and _raises(signal.getsignal(signal.SIGTERM)) and not left.wait(again):
                os.kill(os.getpid(), signal.SIGTERM)


def _raises(handler: object) -> bool:
    return handler is _stop or getattr(handler, "__module__", "").startswith("prefect.")
