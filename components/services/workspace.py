"""Where a run lives: the store of artifacts, the tracking database, and the event bus, below one root directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from platform import node
from typing import Any

from components.core.artifacts import Artifact, Identity, Store
from components.core.errors import PostmillError
from components.core.events import EventBus, StageCached, StageFailed, StageFinished, StageStarted
from components.core.health import Health
from components.core.machine import disk_state, free_disk, human_bytes, machine
from components.core.monitor import Performance, performance_monitor
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

    def health(self) -> Health:
        """Whether artifacts can be written: the disk has room, and the directory lets us."""
        return disk_state(self.root)

    def stage(
        self,
        stage: str,
        name: str,
        component: type | Sequence[type],
        config: Mapping[str, Any],
        parents: Mapping[str, Artifact],
        kind: str,
        make: Any,
        needs_bytes: Callable[[], int] = lambda: 0,
    ) -> Artifact:
        """Return the stage's artifact from the store, or run `make(directory)` and commit what it wrote.

        `component`: the class, or classes, whose code and libraries shape the artifact.

        The one place where work is cached, timed, announced and refused for lack of disk.
        """
        identity = stage_identity(stage, component, config, parents)
        found = self.store.find(stage, identity.key())
        if found is not None:
            self.bus.emit(StageCached(stage=stage, name=name, key=found.key))
            return found
        self._require_disk(stage, name, needs_bytes())
        self.bus.emit(StageStarted(stage=stage, name=name))
        try:
            with performance_monitor() as used:
                artifact = self.store.build(identity, kind, parents, make)
        except BaseException as error:
            self.bus.emit(StageFailed(stage=stage, name=name, error=f"{type(error).__name__}: {error}", machine=node()))
            raise
        self.bus.emit(StageFinished(stage=stage, name=name, key=artifact.key, size=artifact.size, **_cost(used)))
        return artifact

    def _require_disk(self, stage: str, name: str, needs_bytes: int) -> None:
        free, wanted = free_disk(self.store.root), int(needs_bytes * DISK_MARGIN)
        if free < wanted:
            raise PostmillError(
                f"{stage} {name} needs about {human_bytes(wanted)} of disk in '{self.store.root}', "
                f"{human_bytes(free)} are free; free some, or set POSTMILL_ROOT to another disk"
            )


def _cost(used: Performance) -> dict[str, Any]:
    memory = {"peak_memory": used.memory.peak, "peak_gpu_memory": used.gpu_memory.peak}
    return {"seconds": used.seconds, "cpu": used.cpu, "machine": node(), **memory}


def stage_identity(
    stage: str, component: type | Sequence[type], config: Mapping[str, Any], parents: Mapping[str, Artifact]
) -> Identity:
    """What decides the key of an artifact; see `Workspace.stage`."""
    parts = [component] if isinstance(component, type) else component
    return Identity(
        stage=stage,
        config=dict(config),
        parents={role: parent.digest for role, parent in parents.items()},
        code=code_digest(*parts),
        versions={name: version for part in parts for name, version in _versions(part).items()},
    )


def _versions(component: Any) -> dict[str, str]:
    versions = library_versions(component.libraries)
    if component.depends_on_machine:
        versions["machine"] = machine().arithmetic()
    return versions
