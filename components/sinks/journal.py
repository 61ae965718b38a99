"""The journal of a run: every event as one line of JSON, so that nothing about a run is lost with its terminal.

tail -f logs/triage-*.jsonl | jq -c '[.event, .stage, .name]'
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable
from io import TextIOWrapper
from threading import Lock

from components.core.events import ComponentMoved, Event, RunStarted
from components.core.health import Health
from components.core.kinds import register
from components.core.secret import masked_data
from components.interfaces import Sink

_numbers = itertools.count(1)


@register("sink", "journal")
class Journal(Sink):
    """One JSON Lines file a run, in the settings' `monitoring.folder`."""

    _file: TextIOWrapper | None = None
    _off: Callable[[], None] = staticmethod(lambda: None)
    _lock = Lock()  # events come from several threads

    def setup(self) -> None:
        self._off = self.bus.on_any(self._write)

    def close(self) -> None:
        self._off()
        with self._lock:
            if self._file:
                self._file.close()
            self._file = None

    def health(self) -> Health:
        return Health("ok", f"writes to {self._file.name}" if self._file else "waits for a run")

    def _write(self, event: Event) -> None:
        if self._file is None and isinstance(event, ComponentMoved):
            return  # the sinks themselves are starting, which is not worth a file
        line = json.dumps(
            {"time": round(event.time, 3), "event": event.topic, **masked_data(event.data)}, ensure_ascii=False
        )
        with self._lock:
            if self._file is None or isinstance(event, RunStarted):
                self._open(event.recipe if isinstance(event, RunStarted) else "process")
            assert self._file is not None
            # a line at a time: whoever follows the file, or finds it after a crash, sees whole events
            self._file.write(line + "\n")

    def _open(self, name: str) -> None:
        if self._file:
            self._file.close()
        self.folder.mkdir(parents=True, exist_ok=True)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        path = self.folder / f"{name}-{stamp}-{os.getpid()}-{next(_numbers)}.jsonl"
        # what a run says of data and models is for its owner
        self._file = open(  # noqa: SIM115  closed in close()
            path, "a", buffering=1, encoding="utf-8", errors="backslashreplace", opener=_private
        )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
