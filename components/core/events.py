"""Typed events on one bus: stages and trainers publish, the progress display and the trackers subscribe.

A handler that fails never breaks the stage that emitted; the failure is kept in `bus.failures` and logged.

Try it: `bus.on(handler); bus.emit("train.step", step=3, loss=0.41)`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from blinker import Namespace

log = logging.getLogger(__name__)

EVENTS: Mapping[str, str] = {
    "run.started": "a pipeline run begins: recipe, plan",
    "run.finished": "a pipeline run ended: status",
    "stage.started": "a stage begins real work: stage, name",
    "stage.cached": "a stage found its artifact in the store: stage, name",
    "stage.finished": "a stage committed its artifact: stage, name, seconds",
    "stage.failed": "a stage raised: stage, name, error",
    "stage.progress": "a long stage moved on: stage, name, done, total",
    "train.step": "one optimizer step: step, total, loss, tokens_per_s",
    "train.summary": "training ended: figures of the whole run",
    "benchmark.measured": "a benchmark finished on a subject: benchmark, subject, metrics",
    "gate.judged": "the gate decided: verdict",
    "evidence.written": "the evidence folder of a run is complete: folder, chosen",
    "model.registered": "a model version exists in the registry: model, version, alias",
    "data.validated": "rows were checked: rows, quarantined",
}
"""Every event, and what it carries. Emitting another name is an error."""


@dataclass(frozen=True)
class Event:
    """Something that happened: a name of `EVENTS`, plain data, and when (seconds since the epoch)."""

    name: str
    data: Mapping[str, Any]
    time: float = field(default_factory=time.time)


Handler = Callable[[Event], None]


class EventBus:
    """A small facade over blinker signals; handlers are kept alive and isolated from each other."""

    def __init__(self) -> None:
        self._signals = Namespace()
        self.failures: list[tuple[Event, BaseException]] = []

    def on(self, handler: Handler, name: str = "*") -> Callable[[], None]:
        """Call `handler` for every event called `name` ("*": all of them). Returns a function that undoes this."""
        signal = self._signals.signal(self._checked(name))

        def receive(_sender: object, event: Event) -> None:
            self._isolated(handler, event)

        # weak=False: blinker would drop closures and lambdas at once
        signal.connect(receive, weak=False)

        def off() -> None:
            signal.disconnect(receive)

        return off

    def emit(self, name: str, /, **data: Any) -> Event:
        """Tell every handler of `name`, then every handler of all events."""
        if name == "*":
            raise ValueError("unknown event '*': it stands for all events when subscribing")
        event = Event(self._checked(name), data)
        self._signals.signal(name).send(self, event=event)
        self._signals.signal("*").send(self, event=event)
        return event

    def _isolated(self, handler: Handler, event: Event) -> None:
        try:
            handler(event)
        except Exception as error:
            self.failures.append((event, error))
            log.warning("handler %r failed on event %s: %s", handler, event.name, error, exc_info=error)

    @staticmethod
    def _checked(name: str) -> str:
        if name != "*" and name not in EVENTS:
            raise ValueError(f"unknown event '{name}'; add it to components.core.events.EVENTS")
        return name
