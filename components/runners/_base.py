"""What every way to work elsewhere can do: run one function on one folder, in another process, and wait for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Self

from components.core.errors import PostmillError
from components.core.settings import Runner

Work = Callable[[str], None]
"""Reads its job in a folder and leaves the result there. It is imported by name where it runs."""


class WorkerLost(PostmillError):
    """A worker died in the middle of its work, which may well succeed on another one."""


class Workers(ABC):
    """Processes that work for a run; started when they are first needed, given back when the block ends."""

    name: ClassVar[str]

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    @property
    def size(self) -> int:
        """How many can work at the same time."""
        return self.runner.at_once

    def check(self) -> None:  # noqa: B027  not every way has something to ask for
        """Find before any work what would stop it: a package that is missing, a cluster that does not answer."""

    @abstractmethod
    def run(self, work: Work, folder: str) -> None:
        """Wait until `work(folder)` was done elsewhere; WorkerLost if its process died."""

    @abstractmethod
    def stop(self) -> None:
        """End what is running and give everything back; harmless when nothing was started."""

    def __enter__(self) -> Self:
        self.check()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
