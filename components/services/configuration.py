"""A configuration that follows its files, for processes that live long. A run never uses this: it freezes its recipe.

    live = LiveConfig(lambda: read_recipe(path), bus)
    live.current                   # the last valid one
    with live: ...                 # follows the files on a thread; ConfigChanged, ConfigRejected on the bus

An invalid file keeps the old configuration and says why; a valid one takes its place in one assignment.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event as Flag
from threading import RLock, Thread
from typing import Any, Self

from components.core.documents import Document
from components.core.errors import ConfigError
from components.core.events import ConfigChanged, ConfigRejected, EventBus
from components.core.health import Health
from components.core.recipe import Recipe

STEP_MS = 50
"""How often the watcher's thread looks whether it should stop."""


@dataclass
class ConfigMetrics:
    """Counters of a live configuration (E35): of `attempts`, `loads` were valid and `errors` were refused."""

    attempts: int = 0
    loads: int = 0
    updates: int = 0
    errors: int = 0
    load_seconds: float = 0.0
    """The last attempt: reading, layering and validating."""

    def figures(self) -> dict[str, float]:
        """All of them at this moment, with the share of attempts that were refused."""
        return asdict(self) | {"error_rate": self.errors / self.attempts if self.attempts else 0.0}


class LiveConfig:
    """The current recipe of a long-lived process."""

    def __init__(self, load: Callable[[], tuple[Recipe, Document]], bus: EventBus) -> None:
        self._load, self._bus = load, bus
        self.metrics = ConfigMetrics()
        self.problems: tuple[str, ...] = ()
        self.current, self.files = self._read()
        self._stop, self._lock = Flag(), RLock()
        self._thread: Thread | None = None

    def reload(self) -> bool:
        """Load again; True if the configuration changed. Never raises for a bad file: the old one stays."""
        with self._lock:  # or the slower of two threads puts back what it read first
            try:
                new, files = self._read()
            except ConfigError as error:
                if self.problems != tuple(error.problems):  # said once, however often somebody looks
                    self.problems = tuple(error.problems)
                    self._bus.emit(ConfigRejected(problems=self.problems))
                return False
            self.problems = ()
            changes = differences(self.current.dump(), new.dump())
            self.files = files
            if not changes:
                return False
            self.current = new
            self.metrics.updates += 1
            self._bus.emit(ConfigChanged(changes=changes))
            return True

    def watch(self) -> None:
        """Follow the files until `close`, or Ctrl-C."""
        from watchfiles import watch

        while not self._stop.is_set():
            folders = self._folders()
            changes = watch(
                *folders,
                watch_filter=None,
                stop_event=self._stop,
                rust_timeout=STEP_MS,
                yield_on_timeout=True,
                recursive=False,
            )
            with suppress(FileNotFoundError):  # a folder went just now; its parent is watched next
                for turn, changed in enumerate(changes):
                    if changed or turn == 0:  # the first: whatever happened before the watch stood
                        self.reload()
                    if folders != self._folders():
                        break

    def _folders(self) -> set[Path]:
        """What to watch: folders, because editors write a new file and rename it, and one that is gone may return."""
        files = {place for file in self.files for place in (file.absolute(), file.resolve())}
        return {next(folder for folder in file.parents if folder.is_dir()) for file in files}

    def health(self) -> Health:
        """Degraded while the files on disk are refused, failed when nobody follows them any more."""
        figures = self.metrics.figures()
        if self._thread and not self._thread.is_alive():
            return Health("failed", "the thread that follows the files has ended; see the log", figures)
        return Health("degraded" if self.problems else "ok", "; ".join(self.problems), figures)

    def close(self) -> None:
        """Stop following the files."""
        self._stop.set()
        if self._thread:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        self._stop.clear()
        self._thread = Thread(target=self.watch, name="postmill-config", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _read(self) -> tuple[Recipe, list[Path]]:
        started = time.perf_counter()
        self.metrics.attempts += 1
        try:
            recipe, document = self._load()
        except ConfigError:
            self.metrics.errors += 1
            raise
        finally:
            self.metrics.load_seconds = time.perf_counter() - started
        self.metrics.loads += 1
        return recipe, document.files


def differences(old: Any, new: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (old, new) for every leaf that is not the same; None where a key is missing."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys: Any = list(dict.fromkeys([*old, *new]))
    elif isinstance(old, list) and isinstance(new, list):
        old, new = dict(enumerate(old)), dict(enumerate(new))
        keys = range(max(len(old), len(new)))
    else:
        return {} if old == new else {prefix.rstrip("."): (old, new)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in keys:
        found |= differences(old.get(key), new.get(key), f"{prefix}{key}.")
    return found
