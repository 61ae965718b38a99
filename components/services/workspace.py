"""Where a run lives: the store of artifacts, the tracking database, and the event bus, below one root directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.core.artifacts import Artifact, Identity, Store
from components.core.errors import PostmillError
from components.core.events import EventBus
from components.core.machine import free_disk, human_bytes, machine
from components.core.provenance import code_digest, library_versions

DISK_MARGIN = 1.5
"""A stage starts only with this many times its estimated output free on disk."""


@dataclass(frozen=True)
class Workspace:
    """One root directory, one store, one bus. Services are built on it."""

    root: Path
    bus: EventBus = field(default_factory=EventBus)

    @property
    def store(self) -> Store:
        return Store(self.root / "artifacts")

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    def stage(
        self,
        stage: str,
        name: str,
        component: type,
        config: Mapping[str, Any],
        parents: Mapping[str, Artifact],
        kind: str,
        make: Any,
        needs_bytes: Callable[[], int] = lambda: 0,
    ) -> Artifact:
        """Return the stage's artifact from the store, or run `make(directory)` and commit what it wrote.

        The one place where work is cached, timed, announced and refused for lack of disk.
        """
        identity = Identity(
            stage=stage,
            config=dict(config),
            parents={role: parent.digest for role, parent in parents.items()},
            code=code_digest(component),
            versions=_versions(component),
        )
        found = self.store.find(stage, identity.key())
        if found is not None:
            self.bus.emit("stage.cached", stage=stage, name=name, key=found.key)
            return found
        self._require_disk(stage, name, needs_bytes())
        self.bus.emit("stage.started", stage=stage, name=name)
        try:
            artifact = self.store.build(identity, kind, parents, make)
        except BaseException as error:
            self.bus.emit("stage.failed", stage=stage, name=name, error=f"{type(error).__name__}: {error}")
            raise
        self.bus.emit("stage.finished", stage=stage, name=name, key=artifact.key, size=artifact.size)
        return artifact

    def _require_disk(self, stage: str, name: str, needs_bytes: int) -> None:
        free, wanted = free_disk(self.store.root), int(needs_bytes * DISK_MARGIN)
        if free < wanted:
            raise PostmillError(
                f"{stage} {name} needs about {human_bytes(wanted)} of disk in '{self.store.root}', "
                f"{human_bytes(free)} are free; free some, or set POSTMILL_ROOT to another disk"
            )


def _versions(component: Any) -> dict[str, str]:
    versions = library_versions(component.libraries)
    if component.depends_on_machine:
        here = machine()
        versions["machine"] = f"{here.processor}, {here.cores} cores, {here.dtype()}"
    return versions


_current: ContextVar[Workspace] = ContextVar("postmill_workspace")


def current() -> Workspace:
    """The workspace of the run that this code belongs to."""
    return _current.get()


@contextmanager
def use(workspace: Workspace) -> Iterator[Workspace]:
    """Make a workspace the current one for the code below."""
    token = _current.set(workspace)
    try:
        yield workspace
    finally:
        _current.reset(token)


def default_root() -> Path:
    """`POSTMILL_ROOT`, or the working directory."""
    return Path(os.environ.get("POSTMILL_ROOT", ".")).absolute()
