"""The disk below the root: one answer for the workspace and for the probe. Threads that arithmetic is worth."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.core import machine as machine_module
from components.core.machine import GB, compute_threads, disk_state
from components.probes.storage import DiskProbe
from components.services.workspace import Workspace


def answers(root: Path) -> list[Any]:
    """What everybody who is asked about the disk says."""
    probe = DiskProbe(DiskProbe.Config(root=root))
    return [disk_state(root), Workspace(root).health(), probe.ask()]


@pytest.mark.parametrize(
    ("free", "status"), [(0, "failed"), (GB - 1, "failed"), (GB, "degraded"), (5 * GB - 1, "degraded"), (5 * GB, "ok")]
)
def test_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    """A full disk is failed and a nearly full one degraded, with the remedy, whoever asks (A6)."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    for health in answers(tmp_path):
        assert health.status == status
        assert ("set POSTMILL_ROOT" in health.detail) == (status != "ok")
        assert (health.metrics["root"], health.metrics["free"]) == (str(tmp_path), free)


def test_folders_that_are_still_to_be_made(tmp_path: Path) -> None:
    """A root below folders that do not exist yet is as writable as the nearest one that does (A6)."""
    for health in answers(tmp_path / "a" / "b" / "c"):
        assert "not a folder" not in health.detail
        assert health.metrics["free"] > 0
    assert not list(tmp_path.iterdir())


def test_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the way, and a folder of somebody else, are failures that name it (A6)."""
    (tmp_path / "file").write_text("")
    for health in answers(tmp_path / "file" / "root"):
        assert health.status == "failed"
        assert f"'{tmp_path / 'file'}' is not a folder that can be written to" in health.detail
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert {health.status for health in answers(tmp_path)} == {"failed"}


def test_threads_are_cores_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processors that are halves of one core count once; who sets OMP_NUM_THREADS is heeded."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    siblings = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}
    monkeypatch.setattr(machine_module, "_read", lambda path: siblings[int(path.split("/")[5].removeprefix("cpu"))])
    assert compute_threads() == 2
    monkeypatch.setattr(machine_module, "_read", lambda path: "")
    assert compute_threads() == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert compute_threads() == 3
