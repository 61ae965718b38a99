"""What a row of the table of known bad combinations is, and the conditions that rows are written with."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.core.health import Status
from components.core.machine import machine
from components.probes._system import fits, installed


@dataclass(frozen=True)
class Combination:
    """Something known to be bad, met when all of its conditions hold: packages, variables (unset is ""), files."""

    what: str
    why: str
    remedy: str
    source: str
    packages: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, Callable[[str], bool]] = field(default_factory=dict)
    files: str = ""
    status: Status = "failed"

    def met(self, root: Path) -> bool:
        """Whether this machine is in that state; `files` is a pattern below `root`."""
        return (
            all(fits(installed(name), specifier) for name, specifier in self.packages.items())
            and all(is_bad(os.environ.get(name, "")) for name, is_bad in self.variables.items())
            and (not self.files or any(root.glob(self.files)))
        )


def vulnerable(name: str, fixed_in: str, why: str, source: str, status: Status = "failed") -> Combination:
    remedy = f"run `pip install '{name}>={fixed_in}'`"
    return Combination(f"{name} older than {fixed_in}", why, remedy, source, {name: f"<{fixed_in}"}, status=status)


def _number(text: str) -> float:
    """Of `"4,2"` the first; what is no number compares false with everything."""
    try:
        return float(text.partition(",")[0])
    except ValueError:
        return math.nan


def below(limit: float) -> Callable[[str], bool]:
    return lambda text: _number(text) < limit


def more_than_cores(text: str) -> bool:
    return _number(text) > machine().cores


def is_true(text: str) -> bool:
    return text.strip().lower() in ("true", "1")


def is_file_store(uri: str) -> bool:
    """Whether MLflow takes it for a folder: `file:`, or a path without a scheme."""
    return uri not in ("", "databricks", "databricks-uc", "uc") and not re.match(r"(?!file:)[A-Za-z][\w+.-]*:", uri)
