"""Several trackers that are told the same. The first one gives the run its id and hears what became of the others.

What one of them refuses is still told to all others, and then raised under its name:

- one that does not start: the run does not begin, and those that had started are closed as failed;
- one that fails while the run goes on: an error of the handler (`bus.failures`), and the tag `postmill.failed.NAME`
  on the first one, so that everybody sees that the record there has holes;
- one that does not close: the same, and the run is closed as failed, as with a single tracker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from components.core.errors import PostmillError
from components.core.secret import masked
from components.interfaces import Tracker

log = logging.getLogger(__name__)
MAX_TEXT = 500
Act = Callable[[str, Tracker], object]


class Several:
    """Trackers by name, at least one. One alone raises its own errors."""

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self.trackers = dict(trackers)
        self.name, self.first = next(iter(self.trackers.items()))
        self.failed: dict[str, str] = {}
        """The first error of each tracker that had one."""

    def start(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Open a run everywhere, and return the id that the first one gives it."""
        ids: dict[str, str] = {}
        title = self.name
        try:
            for title, tracker in self.trackers.items():
                ids[title] = tracker.start(name, params, tags)
            if len(ids) > 1:
                self.tag({f"postmill.run.{title}": run for title, run in ids.items()})
        except BaseException as error:
            refusal = self._named({title: error}) if title not in ids else error
            self._give_up(list(ids), refusal)
            if refusal is error:
                raise
            raise refusal from error
        return ids[self.name]

    def tag(self, tags: Mapping[str, str]) -> None:
        self.each(lambda _, tracker: tracker.tag(tags))

    def metrics(self, values: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        self.each(lambda _, tracker: tracker.metrics(values))

    def file(self, path: Path, folder: str = "") -> None:
        self.each(lambda _, tracker: tracker.file(path, folder))

    def finish(self, status: Literal["FINISHED", "FAILED"]) -> None:
        """Close the run everywhere; the first one last, because it says what became of the others."""
        try:
            self._each(lambda _, tracker: tracker.finish(status), list(self.trackers)[1:])
        except Exception:
            status = "FAILED"
            raise
        finally:
            self._each(lambda _, tracker: self._close(tracker, status), [self.name])

    def each(self, act: Act) -> None:
        """Do it with every tracker, whatever becomes of one; then raise what was refused."""
        self._each(act, list(self.trackers))

    def _each(self, act: Act, titles: Sequence[str]) -> None:
        refused: dict[str, Exception] = {}
        for title in titles:
            try:
                act(title, self.trackers[title])
            except Exception as error:
                log.debug("tracker %s refused", title, exc_info=True)  # what is raised below has only the text
                refused[title] = error
                self.failed.setdefault(title, _text(error))
        if refused:
            raise self._named(refused)

    def _close(self, tracker: Tracker, status: Literal["FINISHED", "FAILED"]) -> None:
        """Close the first one."""
        if self.failed and len(self.trackers) > 1:
            with suppress(Exception):  # it may be the one that fails; it must be closed in any case
                tracker.tag({f"postmill.failed.{title}": text for title, text in self.failed.items()})
        tracker.finish(status)

    def _named(self, refused: Mapping[str, BaseException]) -> BaseException:
        """What is raised: the error itself where there is one tracker, else one that says which trackers failed."""
        first = next(iter(refused.values()))
        if len(self.trackers) == 1 or not isinstance(first, Exception):
            return first
        return PostmillError("; ".join(f"tracker '{title}': {_text(error)}" for title, error in refused.items()))

    def _give_up(self, started: Sequence[str], reason: BaseException) -> None:
        """Close what was opened before one refused."""
        for title in started:
            with suppress(Exception):  # the reason is what must be heard
                self.trackers[title].tag({"postmill.error": _text(reason)})
            with suppress(Exception):
                self.trackers[title].finish("FAILED")


def _text(error: BaseException) -> str:
    told = str(error) if isinstance(error, PostmillError) else f"{type(error).__name__}: {error}"
    return masked(told)[:MAX_TEXT]
