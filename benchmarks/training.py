"""How fast, how frugal and how safe training is, beside plain TRL and LLaMA-Factory on the same rows.

    make bench-training                               # everything; about a quarter of an hour on two free cores
    make bench-training ARGS="--quick"                # few steps, one round: to see that it works
    make bench-training ARGS="--only kills overhead"  # these parts; the others' figures stay as they were

Every measurement is a fresh process with as many threads as there are cores, in turn with its counterpart (ours,
theirs, ours, theirs, ...), and the median of the ratios counts. Speed is that of the steps: start-up stands apart.
Tokens are those of the rows, without padding; every side trains on every row exactly once.

sft       ours, plain TRL with its defaults, LLaMA-Factory with its defaults; losses, memory, use of the processor
dpo       ours and plain TRL with its defaults
overhead  our layer over the same trainer bare
kills     SIGKILL, and the same command again: the same weights?
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import _data_llamafactory_setup as llamafactory
from benchmarks._parts import Measured, run_parts
from benchmarks._training_bench import BATCH, LORA, Bench, first_lines, prepare, tidy
from benchmarks._training_kills import measure_kills
from benchmarks._training_speed import TRIAGE, measure_dpo, measure_sft
from benchmarks.report import Figure


def sft(bench: Bench, options: argparse.Namespace) -> Measured:
    """Supervised fine-tuning."""
    other = llamafactory.find(options.llamafactory, install=not options.quick)
    if not other.python:
        print(f"without LLaMA-Factory: {other.why_not}")
    steps, rounds = (3, 1) if options.quick else (20, 2)
    figures, notes = measure_sft(bench, steps, rounds, other)
    version = llamafactory.VERSION if other.python else f"not installed: {other.why_not}"
    return figures, {**notes, "rounds": rounds, "llamafactory": version}


def dpo(bench: Bench, options: argparse.Namespace) -> Measured:
    """Preferences."""
    steps, rounds = (2, 1) if options.quick else (5, 3)
    figures, notes = measure_dpo(bench, steps, rounds)
    return figures, {**notes, "rounds": rounds}


def overhead(bench: Bench, options: argparse.Namespace) -> Measured:
    """Short steps, one row each, so that what is added to a step weighs most; long enough for a checkpoint."""
    steps, rounds = (6, 1) if options.quick else (52, 2)
    rows = first_lines(TRIAGE / "train.jsonl", steps, bench.folder / "overhead.jsonl")
    step = {"type": "sft", "batch_size": 1, "max_steps": steps, "learning_rate": 2.0e-3, "lora": LORA}
    recipe = bench.recipe("overhead", rows, step)
    place = bench.place("overhead")
    found = bench.work("overhead", "_training_overhead", recipe, bench.model_root, place, rounds)
    bench.runs.update(found)

    def seconds(run: dict[str, Any]) -> float:
        return float(run["train_s"])

    def worked(run: dict[str, Any]) -> float:
        return float(run["train_cpu_s"])

    added = {kind: (bench.ratio(kind, "bare", seconds) - 1) * 100 for kind in ("service", "tracked")}
    around = [run["service_s"] - run["train_s"] for run in found["service"]]
    busy = {kind: f"by processor time {(bench.ratio(kind, 'bare', worked) - 1) * 100:.2f}" for kind in added}
    bare = f"{bench.middle('bare', seconds) / steps * 1000:,.0f} ms a bare step"
    return {
        "overhead of our layer": Figure(added["service"], "%", "<= 3", f"{busy['service']}; {bare}"),
        "overhead with tracking": Figure(added["tracked"], "%", "<= 3", f"{busy['tracked']}; MLflow"),
        "around the steps": Figure(sorted(around)[len(around) // 2], "s", "", "loading, saving and committing"),
    }, {"steps": steps, "rounds": rounds, "runs": found}


def kills(bench: Bench, options: argparse.Namespace) -> Measured:
    """SIGKILL and resume."""
    count = options.kills or (2 if options.quick else 20)
    return measure_kills(bench, count, options.seed or time.time_ns() % 2**32)


PARTS: dict[str, Callable[[Bench, argparse.Namespace], Measured]] = {
    "sft": sft,
    "dpo": dpo,
    "overhead": overhead,
    "kills": kills,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps, one round; results/training-quick.json")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="run these parts")
    parser.add_argument("--kills", type=int, help="how many (20)")
    parser.add_argument("--seed", type=int, help="of the moments of the kills")
    parser.add_argument("--llamafactory", type=Path, metavar="PYTHON", help="a Python that has LLaMA-Factory")
    parser.add_argument("--keep", action="store_true", help="keep the files")
    options = parser.parse_args()
    name = "training-quick" if options.quick else "training"
    folder = Path(tempfile.mkdtemp(prefix="postmill-bench-training-"))
    try:
        bench = prepare(folder)
        parts = {part: partial(measure, bench, options) for part, measure in PARTS.items()}
        status = run_parts(name, parts, options.only, {"cores": bench.cores, "batch": BATCH})
    finally:
        if options.keep:
            print(f"kept: {folder}")
        else:
            tidy(folder)
    sys.exit(status)


if __name__ == "__main__":
    main()
