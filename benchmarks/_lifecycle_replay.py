"""The quickstart's registered model, made again from its commit and its data: is every stage the same?"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks._lifecycle_bench import ROOT, Bench, postmill, surroundings
from benchmarks._parts import Measured
from benchmarks.report import Figure

RECIPE, MODEL = "configs/quickstart.yaml", "triage"
SHORT = ("--set", "train.0.max_steps=10", "--set", "gate=[{type: budget, max: {bytes: 300MB}}]")


def measure_replay(bench: Bench, quick: bool, root: Path | None) -> Measured:
    """`root`: where the quickstart ran already."""
    where = root or bench.place("quickstart")
    if root is None:
        postmill(where, "run", RECIPE, *(SHORT if quick else ()))
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "replay", MODEL, "1"],
        cwd=ROOT,
        env=surroundings(where),
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - started
    print(done.stdout[-3000:], done.stderr[-1000:])
    stages = re.search(r"exact: all (\d+) stages", done.stdout)
    shutil.rmtree(where / "replays", ignore_errors=True)
    figures = {
        "replay of the quickstart's model is exact": Figure(float(bool(stages)), "yes", ">= 1"),
        "stages compared": Figure(float(stages[1]) if stages else 0.0, "count", ""),
        "seconds of the replay": Figure(seconds, "s", ""),
    }
    return figures, {"recipe": RECIPE, "quick": quick}
