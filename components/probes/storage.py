"""What holds a run: memory, the disk below the root, the tracking database. Reads only."""

from __future__ import annotations

import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from pydantic import PositiveFloat

from components.core.component import StrictConfig
from components.core.health import Health
from components.core.kinds import register
from components.core.machine import GB, disk_state, human_bytes
from components.interfaces import Probe
from components.probes._system import cgroup, container_limit, read

NETWORK = frozenset(("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs"))
WAL_HEADER = b"\x02\x02"
"""Bytes 18 and 19 of a database that is in WAL mode."""


@register("probe", "memory")
class MemoryProbe(Probe):
    """Enough memory is free to train and to export."""

    class Config(StrictConfig):
        min_gb: PositiveFloat = 4

    config: Config

    def ask(self) -> Health:
        total, free = _memory()
        metrics = {"total": total, "available": free}
        detail = f"{human_bytes(free)} of {human_bytes(total)} available"
        if free < self.config.min_gb * GB:
            remedy = f"close programs or use a smaller model; {self.config.min_gb:g} GB is little for training"
            return Health("degraded", f"{detail}; {remedy}", metrics)
        return Health("ok", detail, metrics)


def _memory() -> tuple[int, int]:
    """Total and available bytes, of the container where it is the smaller."""
    import psutil

    memory = psutil.virtual_memory()
    limit, used = container_limit("memory.max"), container_limit("memory.current")
    if limit is None or used is None or limit >= memory.total:
        return memory.total, memory.available
    # files that were read stay in memory until it is needed
    cache = re.search(r"^inactive_file (\d+)$", cgroup("memory.stat"), re.MULTILINE)
    return int(limit), min(memory.available, int(limit - used) + (int(cache[1]) if cache else 0))


@register("probe", "disk")
class DiskProbe(Probe):
    """The root can be written to, has space, and lies on a file system whose locks work."""

    class Config(StrictConfig):
        root: Path = Path(".")

    config: Config

    def ask(self) -> Health:
        root = self.config.root.resolve()
        state, kind = disk_state(root), _file_system(root, read("/proc/mounts"))
        metrics = {**state.metrics, "file_system": kind}
        if state.status == "ok" and kind in NETWORK:
            remedy = "set POSTMILL_ROOT to a local disk"
            return Health("degraded", f"'{root}' is on {kind}, where SQLite's locks are not safe; {remedy}", metrics)
        return Health(state.status, state.detail, metrics)


def _file_system(folder: Path, mounts: str) -> str:
    """The type of the mount that holds a folder; of several on one place the last counts."""
    place, kind = Path("/"), ""
    for fields in (line.split() for line in mounts.splitlines()):
        # a space in a path is written \040
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[1]))
        if folder.is_relative_to(point) and point.is_relative_to(place):
            place, kind = point, fields[2]
    return kind


@register("probe", "database")
class DatabaseProbe(Probe):
    """The tracking database opens, is intact, and lets a reader in while a run writes."""

    class Config(StrictConfig):
        root: Path = Path(".")
        timeout_s: PositiveFloat = 5

    config: Config

    def ask(self) -> Health:
        file = self.config.root.absolute() / "mlruns" / "mlflow.db"
        if not file.exists() or file.stat().st_size == 0:
            return Health("ok", "no database yet; the first run makes it", {"bytes": 0})
        answer, waits = self._answer(file), not _in_wal_mode(file)
        metrics = {"bytes": file.stat().st_size, "quick_check": answer, "journal_mode": "other" if waits else "wal"}
        if "locked" in answer:
            remedy = "wait for the run that holds it, or close the program that has it open"
            return Health("degraded", f"'{file}' is locked; {remedy}", metrics)
        if answer not in ("ok", "interrupted"):
            remedy = f"restore a copy, or save what can be read with `sqlite3 '{file}' .recover`"
            return Health("failed", f"'{file}' is damaged or cannot be read ({answer}); {remedy}", metrics)
        if waits:
            remedy = f"run `sqlite3 '{file}' 'PRAGMA journal_mode=WAL'` while nothing uses it"
            return Health("degraded", f"the database is not in WAL mode, so runs and readers wait; {remedy}", metrics)
        depth = "is intact" if answer == "ok" else f"opens (too large to check whole in {self.config.timeout_s:g} s)"
        return Health("ok", f"'{file}' {depth}", metrics)

    def _answer(self, file: Path) -> str:
        """`ok`, or what is wrong. An idle database is opened as unchangeable, or SQLite would put files beside it."""
        log = file.with_name(f"{file.name}-wal")
        idle = not log.exists() and _in_wal_mode(file)
        answer = self._quick_check(file, "immutable=1" if idle else "mode=ro")
        if idle and answer != "ok" and log.exists():  # a run began meanwhile
            return self._quick_check(file, "mode=ro")
        return answer

    def _quick_check(self, file: Path, mode: str) -> str:
        deadline = time.monotonic() + self.config.timeout_s
        try:
            with closing(sqlite3.connect(f"{file.as_uri()}?{mode}", uri=True, timeout=1)) as connection:
                connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
                return str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        except sqlite3.DatabaseError as error:
            return str(error)


def _in_wal_mode(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(20)[18:] == WAL_HEADER
