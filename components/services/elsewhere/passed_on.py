"""Events of another process: written down line by line, and passed on to the bus of whoever waits for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path

from components.core.events import Event, EventBus

PAUSE_S = 0.1


@contextmanager
def events_written(path: Path, bus: EventBus) -> Iterator[None]:
    """Write every event of the bus into the file while the block runs."""
    with path.open("a", encoding="utf-8", buffering=1) as lines:
        off = bus.on_any(lambda event: lines.write(_line(event)))
        try:
            yield
        finally:
            off()


@contextmanager
def events_passed_on(path: Path, bus: EventBus) -> Iterator[None]:
    """Read events as they are written, on a thread, until the block has ended and everything is read."""
    path.touch()
    done = threading.Event()
    # with its context: who listens may ask in which flow run it does
    reader = threading.Thread(target=copy_context().run, args=(_follow, path, bus, done), daemon=True)
    reader.start()
    try:
        yield
    finally:
        done.set()
        reader.join()


def _line(event: Event) -> str:
    return json.dumps({"topic": event.topic, "time": event.time, "data": event.data}, default=str) + "\n"


def _follow(path: Path, bus: EventBus, done: threading.Event) -> None:
    # those of plugins too: what a plugin's component tells there is heard here
    classes: dict[str, type[Event]] = {cls.topic: cls for cls in Event.__subclasses__()}
    with path.open("r", encoding="utf-8") as lines:
        kept = ""
        while True:
            ended = done.is_set()
            kept += lines.read()
            *whole, kept = kept.split("\n")
            for line in whole:
                told = json.loads(line)
                bus.emit(classes[told["topic"]](time=told["time"], **told["data"]))
            if ended:
                return
            done.wait(PAUSE_S)
