"""What every runner can do: say how much works at the same time, and where that is.

A runner that works elsewhere runs one function on one folder, in another process, and waits for it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from pydantic import Field, PositiveInt, model_validator

from components.core.component import Component, StrictConfig
from components.core.errors import ConfigError, PostmillError

Work = Callable[[str], None]
"""Reads its job in a folder and leaves the result there. It is imported by name where it runs."""


class WorkerLost(PostmillError):
    """A worker died in the middle of its work, which may well succeed on another one."""


class WorkersConfig(StrictConfig):
    """Of processes on this machine."""

    workers: PositiveInt = Field(2, description="how many work at the same time")


class ClusterConfig(StrictConfig):
    """Of a cluster that is there, or of one that is started on this machine for the run."""

    workers: PositiveInt | None = Field(None, description="started for the run, 2 by default; a cluster has its own")
    address: str | None = Field(None, description="of a cluster that is there; null: one is started for the run")

    @model_validator(mode="after")
    def _one_of_both(self) -> ClusterConfig:
        if self.address is not None and self.workers is not None:
            raise ConfigError("a cluster that is there has its own workers; take 'workers' out, or 'address'")
        return self


class Runner(Component):
    """Where variants, benchmarks and trials of a search are made."""

    config: Any

    @property
    def size(self) -> int:
        """How many can work at the same time."""
        return int(self.config.workers or 2)


class Workers(Runner):
    """Processes that work for a run; started when they are first needed."""

    def check(self) -> None:
        """Find before any work what would stop it: a package that is missing, a cluster that does not answer."""

    @abstractmethod
    def run(self, work: Work, folder: str) -> None:
        """Wait until `work(folder)` was done elsewhere; WorkerLost if its process died."""

    @abstractmethod
    def stop(self) -> None:
        """End what is running and give everything back; harmless when nothing was started."""
