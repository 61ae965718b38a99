"""What every probe promises, asked in a process of its own: there, what it imports and writes can be seen."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.core.health import ORDER
from components.core.kinds import registry
from tests.conftest import ROOT
from tests.contract.common import check_component, named

ASK_ALL = """
import json, os, sys, time
from pathlib import Path
from components.core.kinds import registry

root, writes = Path(sys.argv[1]), []

def watch(event, arguments):
    if event == "open" and arguments[0] != os.devnull and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        writes.append(str(arguments[0]))
    if event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.truncate"):
        writes.append(event)

names = registry.names("probe")
sys.addaudithook(watch)
answers = {}
for name in names:
    cls, before, started = registry.get("probe", name), len(writes), time.monotonic()
    health = cls(cls.Config(root=root) if "root" in cls.Config.model_fields else None).ask()
    answers[name] = {
        "status": health.status,
        "detail": health.detail,
        "metrics": health.metrics,
        "seconds": time.monotonic() - started,
        "writes": writes[before:],
        "heavy": sorted({"torch", "mlflow", "prefect", "transformers", "onnxruntime"} & set(sys.modules)),
    }
print(json.dumps(answers, allow_nan=False))
"""


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and the time of its last change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with an idle tracking database in WAL mode, the case where a careless reader leaves files behind."""
    folder = tmp_path_factory.mktemp("probed")
    (folder / "mlruns").mkdir()
    connection = sqlite3.connect(folder / "mlruns" / "mlflow.db")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE runs (name TEXT)")
    connection.close()
    return folder


@pytest.fixture(scope="module")
def answers(root: Path) -> dict[str, Any]:
    """What all probes say on that root, and what they did meanwhile."""
    before = listing(root)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(root), "TMPDIR": str(root)}
    child = subprocess.run(
        [sys.executable, "-B", "-c", ASK_ALL, str(root)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=80,
    )
    assert child.returncode == 0, child.stderr
    found: dict[str, Any] = json.loads(child.stdout)
    assert listing(root) == before
    return found


def test_every_probe_was_asked(answers: dict[str, Any]) -> None:
    """The answers below are those of all registered probes."""
    assert sorted(answers) == registry.names("probe")


@named("probe")
def test_component(name: str) -> None:
    """Every probe is described, strictly configured, and needs no configuration (A27)."""
    check_component("probe", name)
    registry.create("probe", name)


@named("probe")
def test_answers(name: str, answers: dict[str, Any]) -> None:
    """Every probe answers with a known status and one line that says what was found (A6, A43)."""
    assert answers[name]["status"] in ORDER
    assert answers[name]["detail"]
    assert "\n" not in answers[name]["detail"]


@named("probe")
def test_figures_are_for_machines(name: str, answers: dict[str, Any]) -> None:
    """Every probe's figures are a JSON object; a value that is none would have stopped the process that asked (A6)."""
    assert answers[name]["metrics"]
    assert isinstance(answers[name]["metrics"], dict)


@named("probe")
def test_quick(name: str, answers: dict[str, Any]) -> None:
    """No probe takes longer than it takes to start torch on a busy machine (A6)."""
    assert answers[name]["seconds"] < (30 if name == "torch" else 5)


@named("probe")
def test_writes_nothing(name: str, answers: dict[str, Any]) -> None:
    """Asking changes nothing on disk (A6)."""
    assert answers[name]["writes"] == []


@named("probe")
def test_imports_nothing_heavy(name: str, answers: dict[str, Any]) -> None:
    """Asking loads neither torch nor MLflow nor Prefect into the process, so that a broken one is a finding (E31)."""
    assert answers[name]["heavy"] == []
