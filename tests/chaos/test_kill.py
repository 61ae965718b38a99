"""Kill a run at random moments: nothing half-written is ever visible, and the next run completes.

The moments come from a seed that is printed; `CHAOS_SEED=...` repeats a run, `CHAOS_KILLS=...` sets how often.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from components.core.artifacts import MANIFEST, Store, hash_directory
from components.trackers.mlflow import connect
from tests import tiny
from tests.conftest import ROOT

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
LONGEST_S = 35.0


def torn(root: Path) -> list[str]:
    """Visible artifacts whose files are not those of their manifest."""
    bad = []
    for place in sorted((root / "artifacts").glob("*/*")):
        if place.name.startswith(".") or not place.is_dir():
            continue
        try:
            manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
            whole = hash_directory(place) == manifest["files"]
        except (OSError, ValueError, KeyError):
            whole = False
        if not whole:
            bad.append(f"{place.parent.name}/{place.name}")
    return bad


def command(root: Path, recipe: Path) -> subprocess.Popen[str]:
    """`postmill run` in a process group of its own."""
    environment = os.environ | {"POSTMILL_ROOT": str(root), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", str(recipe)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def servers(root: Path) -> list[psutil.Process]:
    """Embedded servers that belong to this root."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "prefect.server.api.server" in " ".join(process.info["cmdline"] or ()):
            try:
                if process.environ().get("PREFECT_HOME") == str(root / ".prefect"):
                    found.append(process)
            except psutil.Error:
                continue
    return found


def kill_after(root: Path, recipe: Path, seconds: float) -> bool:
    """Start a run and kill the program alone, as the kernel does when memory is short; whether it still ran."""
    process = command(root, recipe)
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        return True
    finally:
        if process.stdout:
            process.stdout.close()


def complete(root: Path, recipe: Path) -> str:
    """Run to the end; returns what was printed."""
    process = command(root, recipe)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The tiny recipe below a root of its own."""
    model = tiny.write_model(tmp_path / "model")
    return tiny.write_recipe(tmp_path / "tiny.yaml", tiny.recipe(tmp_path, model))


def test_the_verifier_sees_damage(tmp_path: Path) -> None:
    """Negative control: half an artifact, a changed file and a cut manifest are all seen; a whole one is not."""
    from tests.unit.test_artifacts import build, cut_manifest, damage_bit, no_manifest

    store = Store(tmp_path / "artifacts")
    whole = build(store)
    harms = [build(store, config={"a": n}) for n in (2, 3, 4)]
    for harm, artifact in zip((damage_bit, cut_manifest, no_manifest), harms, strict=True):
        harm(artifact.path)
    (tmp_path / "artifacts" / "train" / ".staging-killed").mkdir()
    assert torn(tmp_path) == sorted(f"train/{artifact.key}" for artifact in harms)
    assert f"train/{whole.key}" not in torn(tmp_path)


def test_killed_runs_leave_nothing_broken(tmp_path: Path, recipe: Path) -> None:
    """After kills at random moments every visible artifact is whole, and a run completes with one version (C53)."""
    seed = int(os.environ.get("CHAOS_SEED", time.time_ns() % 2**32))
    kills = int(os.environ.get("CHAOS_KILLS", 5))
    print(f"CHAOS_SEED={seed} CHAOS_KILLS={kills}")
    moments, killed = random.Random(seed), 0
    for _ in range(kills):
        killed += kill_after(tmp_path, recipe, moments.uniform(3, LONGEST_S))
        assert torn(tmp_path) == [], f"CHAOS_SEED={seed}"
    assert killed, "no run was killed: make LONGEST_S shorter"
    output = complete(tmp_path, recipe)
    assert torn(tmp_path) == []
    assert "tiny version 1" in output
    client = connect(tmp_path)
    assert len(client.search_model_versions("name='tiny'")) == 1
    assert str(client.get_model_version_by_alias("tiny", "staging").version) == "1"
    assert not list((tmp_path / "artifacts").glob("*/.*-*")), "leftovers of killed builders remain"


def test_no_server_is_left_over(tmp_path: Path, recipe: Path) -> None:
    """A killed run's embedded server is stopped by the next run, which stops its own. What the killed one left
    "running" in Prefect and in MLflow is marked (C50)."""
    if not kill_after(tmp_path, recipe, 20):
        pytest.skip("the run was over before it could be killed")
    orphans = servers(tmp_path)
    assert "marked crashed" in complete(tmp_path, recipe)
    with sqlite3.connect(tmp_path / ".prefect" / "prefect.db") as database:
        states = [state for (state,) in database.execute("SELECT state_type FROM flow_run ORDER BY created")]
    assert states == ["CRASHED", "COMPLETED"]
    tracked = connect(tmp_path).search_runs(["1"], "attributes.run_name = 'tiny'")
    assert sorted(run.info.status for run in tracked) in (["FINISHED", "KILLED"], ["FAILED", "FINISHED"])
    deadline = time.monotonic() + 20
    while servers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not any(orphan.is_running() for orphan in orphans)
    assert servers(tmp_path) == []


def test_two_runs_at_once(tmp_path: Path, recipe: Path) -> None:
    """Of two runs of one recipe at the same time one is refused, by the number of the other, which ends well (A50)."""
    both = [command(tmp_path, recipe) for _ in range(2)]
    outputs = [process.communicate(timeout=400)[0] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 1], "\n---\n".join(outputs)
    winner = both[codes.index(0)]
    assert str(winner.pid) in outputs[codes.index(1)]
    assert torn(tmp_path) == []
    assert len(connect(tmp_path).search_model_versions("name='tiny'")) == 1


def test_sigterm_stops_cleanly(tmp_path: Path, recipe: Path) -> None:
    """SIGTERM ends a run with code 143, and its server with it."""
    process = command(tmp_path, recipe)
    deadline = time.monotonic() + 60
    while not (tmp_path / "artifacts").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode in (143, -signal.SIGTERM)
    time.sleep(2)
    assert servers(tmp_path) == []
    assert torn(tmp_path) == []
