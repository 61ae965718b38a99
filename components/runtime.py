"""Helpers that several kinds share: open whatever backend runs an artifact, and choose rows to measure on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from components.core.errors import ConfigError
from components.core.kinds import registry
from components.interfaces import Backend, EvalRows, Subject


def backend_for(kind: str) -> Any:
    """The backend class that runs artifacts of this kind."""
    for name in registry.names("backend"):
        cls = registry.get("backend", name)
        if kind in cls.serves:
            return cls
    raise ConfigError(f"no backend runs artifacts of kind '{kind}'")


@contextmanager
def opened(subject: Subject, **options: Any) -> Iterator[Backend]:
    """A subject's weights, loaded by the backend that serves its kind. Options a backend does not have are left out."""
    cls = backend_for(subject.artifact.kind)
    known = {name: value for name, value in options.items() if name in cls.Config.model_fields}
    with cls(cls.Config(**known)) as backend:
        backend.open(subject.artifact, subject.parents)
        yield backend


def choose_rows(rows: EvalRows, count: int, seed: int) -> EvalRows:
    """`count` rows by seeded hash of their id: the same ones for every subject, stable when rows are added."""
    ranked = sorted(range(len(rows.ids)), key=lambda i: hashlib.sha256(f"{seed}:{rows.ids[i]}".encode()).digest())
    chosen = sorted(ranked[:count])
    return EvalRows([rows.conversations[i] for i in chosen], [rows.ids[i] for i in chosen])
