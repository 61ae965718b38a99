"""How something says whether it is well: one record, and the worst of many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["ok", "degraded", "failed"]
ORDER: tuple[Status, ...] = ("ok", "degraded", "failed")


@dataclass(frozen=True)
class Health:
    """A status, one sentence with the remedy if it is not `ok`, and figures for machines."""

    status: Status
    detail: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)


def worst(statuses: Iterable[Status]) -> Status:
    """The worst of several; `ok` for none."""
    return max(statuses, key=ORDER.index, default="ok")


def asked(probe: Callable[[], Health]) -> Health:
    """The answer of a probe; one that raises is itself the finding."""
    try:
        return probe()
    except Exception as error:
        return Health("failed", f"{type(error).__name__}: {error}")
