"""What an exporter is asked for: a plain record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ExportJob:
    """What an exporter is asked for. `options`: of its own, as the recipe's `extra` has them.

    For one that rounds weights: `block` of them share a scale, `method` says how, `head` in which precision (auto: as
    the others), `accuracy` is that of the runtime's kernel. `shared`: whether embedding and head are one table in the
    file; None leaves it to the exporter.
    """

    source: Path
    out: Path
    precision: str = "fp32"
    block: int = 32
    method: str = "default"
    head: str = "auto"
    accuracy: int = 4
    shared: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
