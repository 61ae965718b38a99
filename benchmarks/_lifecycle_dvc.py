"""`dvc repro` of the small model's recipe: the first time, and again with nothing changed."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks._lifecycle_bench import ROOT, Bench, surroundings
from benchmarks._parts import Measured
from benchmarks.report import Figure

IDENTITY = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")


def measure_dvc(bench: Bench, rounds: int) -> Measured:
    """A project of its own, with the recipe in it, in git and DVC."""
    project = bench.place("dvc-project")
    shutil.copy(bench.recipe("dvc"), project / "small.yaml")
    _call(project, "git", "init", "--quiet")
    _call(project, "dvc", "init", "--quiet")
    _call(project, sys.executable, "-m", "flows.cli", "dvc", "init", "small.yaml")
    _call(project, "git", "add", ".")
    _call(project, "git", *IDENTITY, "commit", "--quiet", "-m", "recipe")
    first = _call(project, "dvc", "repro")
    again = [_call(project, "dvc", "repro") for _ in range(rounds)]
    figures = {
        "dvc repro, the first time": Figure(first, "s", ""),
        "dvc repro, nothing changed": Figure(statistics.median(again), "s", "<= 10"),
    }
    return figures, {"rounds": rounds, "again": again}


def _call(project: Path, *command: str) -> float:
    found = shutil.which(command[0], path=f"{Path(sys.executable).parent}:{surroundings(project)['PATH']}")
    path = f"{Path(sys.executable).parent}:{surroundings(project)['PATH']}"
    started = time.perf_counter()
    done = subprocess.run(
        [found or command[0], *command[1:]],
        cwd=project,
        env=surroundings(project, PATH=path, DVC_NO_ANALYTICS="true", PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
    return time.perf_counter() - started
