"""SIGKILL between every pair of stages of a run and inside every stage, then the same command again.

The run kills itself where its environment tells it to: at the n-th event of a kind. The run after it must do nothing
over again that was finished, and end with one registered version.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks._lifecycle_bench import ROOT, Bench, postmill, surroundings
from benchmarks._parts import Measured
from benchmarks.report import Figure
from components.trackers.mlflow import connect

# a run that counts its events and kills itself at the one it is told
SUICIDAL = """
import os, signal, sys
from components.core import events
emit, kind, left, recipe = events.EventBus.emit, sys.argv[1], [int(sys.argv[2])], sys.argv[3]
def counted(bus, event):
    emit(bus, event)
    if type(event).__name__ == kind and bus.parent is None:  # a run's bus passes on to that of the process
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
events.EventBus.emit = counted
sys.argv = ["postmill", "run", recipe]
from flows.cli import main
main()
"""
BETWEEN, INSIDE = "StageFinished", "StageStarted"


def measure_kills(bench: Bench, most: int | None) -> Measured:
    """One root a kill; `most`: only so many of each kind."""
    recipe = bench.recipe("killed")
    whole = bench.place("kills-whole")
    postmill(whole, "run", str(recipe))
    stages = _stages(whole)
    wrong: list[str] = []
    kills = 0
    for kind in (BETWEEN, INSIDE):
        for number in range(len(stages))[:most]:
            root = bench.place(f"kill-{kind}-{number}")
            if not _killed(root, recipe, kind, number):
                continue
            kills += 1
            wrong += _problems(root, recipe, f"{kind} {number}", stages)
    figures = {
        "kills between and inside stages": Figure(kills, "count", f">= {len(stages) if most is None else 1}"),
        "runs after a kill that did not end with one version": Figure(len(wrong), "count", "<= 0"),
    }
    return figures, {"stages": stages, "wrong": wrong}


def _stages(root: Path) -> list[str]:
    """The stages that a whole run makes, in order, from its journal."""
    (journal,) = (root / "logs").glob("*.jsonl")
    events = map(json.loads, journal.read_text(encoding="utf-8").splitlines())
    return [f"{event['stage']} {event['name']}" for event in events if event["event"] == "stage.finished"]


def _killed(root: Path, recipe: Path, kind: str, number: int) -> bool:
    done = subprocess.run(
        [sys.executable, "-c", SUICIDAL, kind, str(number), str(recipe)],
        cwd=ROOT,
        env=surroundings(root),
        stdout=subprocess.DEVNULL,  # not a pipe: the embedded server outlives the kill, and would keep it open
        stderr=subprocess.DEVNULL,
    )
    return done.returncode == -9


def _problems(root: Path, recipe: Path, where: str, stages: list[str]) -> list[str]:
    """What is wrong after the same command again."""
    finished = {json.loads(path.read_text())["key"] for path in (root / "artifacts").glob("*/*/manifest.json")}
    before = len(finished)
    postmill(root, "run", str(recipe))
    newest = max((root / "logs").glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    made = [json.loads(line) for line in newest.read_text(encoding="utf-8").splitlines()]
    again = [event for event in made if event["event"] == "stage.finished" and event["key"] in finished]
    versions = connect(root).search_model_versions("name='killed'")
    problems = [f"{where}: made {event['stage']} again" for event in again]
    total = sum(event["event"] in ("stage.finished", "stage.cached") for event in made)
    if total < len(stages):
        problems.append(f"{where}: {total} of {len(stages)} stages after {before} were finished")
    return problems + ([f"{where}: {len(versions)} versions"] if len(versions) != 1 else [])
