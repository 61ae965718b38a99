"""Helpers that several kinds share: open whatever backend runs an artifact, and choose rows to measure on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from components.core.errors import ConfigError
from components.core.events import EventBus, ModelLoaded
from components.core.kinds import registry
from components.interfaces import Backend, EvalRows, Subject


def backend_for(kind: str) -> Any:
    """The backend class that runs artifacts of this kind."""
    return registry.get("backend", _backend_name(kind))


def _backend_name(kind: str) -> str:
    broken: list[str] = []
    for name in registry.names("backend"):
        reason = registry.broken("backend", name)
        if reason:
            broken.append(reason)
        elif kind in registry.get("backend", name).serves:
            return name
    raise ConfigError([f"no backend runs artifacts of kind '{kind}'", *broken])


@contextmanager
def opened(subject: Subject, *, bus: EventBus | None = None, **options: Any) -> Iterator[Backend]:
    """A subject's weights, loaded by the backend that serves its kind. Options a backend does not have are left out.

    A bus is told that the model is loaded, and how long it took.
    """
    kind = subject.artifact.kind
    name, cls = _backend_name(kind), backend_for(kind)
    known = {key: value for key, value in options.items() if key in cls.Config.model_fields}
    with cls(cls.Config(**known)) as backend:
        started = time.perf_counter()
        backend.open(subject.artifact, subject.parents)
        if bus is not None:
            seconds = time.perf_counter() - started
            bus.emit(ModelLoaded(subject=subject.name, kind=kind, backend=name, seconds=seconds))
        yield backend


def choose_rows(rows: EvalRows, count: int, seed: int) -> EvalRows:
    """`count` rows by seeded hash of their id: the same ones for every subject, stable when rows are added."""
    ranked = sorted(range(len(rows.ids)), key=lambda i: hashlib.sha256(f"{seed}:{rows.ids[i]}".encode()).digest())
    chosen = sorted(ranked[:count])
    ids = [rows.ids[i] for i in chosen]
    if rows.texts:
        return EvalRows([], ids, [rows.texts[i] for i in chosen])
    return EvalRows([rows.conversations[i] for i in chosen], ids)
