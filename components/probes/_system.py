"""What several probes read: small files of the kernel, other programs' answers, versions from metadata."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def read(path: str | Path) -> str:
    """The text of a file, empty where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def cgroup(name: str) -> str:
    """What the kernel says of this process's container."""
    return read(CGROUP / name)


def container_limit(name: str) -> float | None:
    """A limit that the container sets (cgroup v2): bytes, or processors for `cpu.max`; None where there is none."""
    value, _, period = cgroup(name).strip().partition(" ")
    if not value.isdigit():
        return None
    return int(value) / int(period or 1)


def run(command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a program and keep what it says; raises TimeoutExpired, after the program was ended."""
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=timeout_s, stdin=subprocess.DEVNULL
    )


def last_line(text: str) -> str:
    """The last line that says something: of a traceback, the error."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def installed(distribution: str) -> str | None:
    """The installed version, read from metadata: nothing is imported."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def fits(version: str | None, specifier: str) -> bool:
    """Whether a version satisfies `">=2.0,<2.1"`; an absent one satisfies nothing."""
    from packaging.specifiers import SpecifierSet

    return version is not None and SpecifierSet(specifier).contains(version, prereleases=True)
