"""How fast the data stage checks and tokenises rows, in how much memory, and whether it finds the faults in them.

    make bench-data                                  # everything; five million rows take about ten minutes
    make bench-data ARGS="--quick"                   # a minute, to see that it works
    make bench-data ARGS="--skip-large --llamafactory LF/bin/python"

Every measurement is a fresh process on one core, in turn with the others, several rounds; the median counts. Start-up
(libraries, tokenizer, a few rows) is timed apart. Beside ours stands what the tokenizer alone takes for the same
rendered rows, and LLaMA-Factory's preprocessing of the same file with the same tokenizer. Five million rows may use all
cores, and so may the second run on them, which is timed as a user meets it, imports included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import _data_llamafactory_setup as llamafactory
from benchmarks._data_bench import KINDS, SIDES, Bench, output, prepare
from benchmarks._data_faults import Planted, plant_chats, plant_preferences
from benchmarks._data_rows import PLANTED_EVERY, SHORT
from benchmarks.report import Figure, publish
from components.core.machine import free_disk, human_bytes

BYTES_A_ROW = 1500
"""Disk for a short row: the file, and what the stage writes of it."""


# ---------------------------------------------------------------- speed


def measure_speed(bench: Bench, rows: int, rounds: int, other: llamafactory.Installed) -> dict[str, Figure]:
    """All measurements in turn, on short and on medium rows."""
    core = str(max(os.sched_getaffinity(0)))
    for name, kind in KINDS.items():
        count = rows if name == "short" else rows // 2
        plain, near = bench.rows(name, kind, count, 1), bench.rows(f"{name}-near", kind, count, 1, planted=True)
        for _ in range(rounds):
            bench.keep(f"{name} tokenizer", bench.work("tokenizer", plain, "--core", core, kind=name))
            bench.keep(f"{name} stage", bench.work("validate", plain, "--core", core, kind=name))
            bench.keep(f"{name} near", bench.work("validate", near, "--core", core, "--near", kind=name))
            if other.python:
                few = str(bench.folder / f"{name}-few.jsonl")
                command = [*other.command(), str(bench.model), str(plain), few, core]
                bench.keep(f"{name} llamafactory", output(command, alone=True))
    return {key: figure for name in KINDS for key, figure in speed_figures(bench, name).items()}


def speed_figures(bench: Bench, name: str) -> dict[str, Figure]:
    """What the rounds on one kind of rows come to."""
    stage, alone, near = (bench.speed(f"{name} {what}") for what in ("stage", "tokenizer", "near"))
    last = bench.runs[f"{name} stage"][-1]
    tokens = last["tokens"] / last["rows"]["train"]
    copies = bench.runs[f"{name} near"][-1]
    goal = {"short": (">= 20000", ">= 5000")}.get(name, ("", ""))
    figures = {
        "rows": Figure(stage, "rows/s/core", goal[0], bench.spread(f"{name} stage")),
        "tokens": Figure(stage * tokens, "tokens/s/core", "", f"{tokens:.1f} tokens a row"),
        "rows, tokenizer alone": Figure(alone, "rows/s/core", "", bench.spread(f"{name} tokenizer")),
        "stage against tokenizer": Figure(alone / stage, "times", "<= 1.5", "its seconds by the tokenizer's"),
        "rows, near-duplicates sought": Figure(near, "rows/s/core", goal[1], bench.spread(f"{name} near")),
        "near-duplicates found": Figure(found_share(copies), "share", ">= 0.95", "of those planted, 1 row in 100"),
    }
    if f"{name} llamafactory" in bench.runs:
        theirs = bench.speed(f"{name} llamafactory")
        figures["rows, LLaMA-Factory"] = Figure(theirs, "rows/s/core", "", bench.spread(f"{name} llamafactory"))
        figures["stage against LLaMA-Factory"] = Figure(stage / theirs, "times as fast", "", "")
    return {f"{name} {key}": figure for key, figure in figures.items()}


def found_share(run: dict[str, Any]) -> float:
    """Near-duplicates that were found by those planted."""
    planted = (run["rows"]["train"] + run["quarantined"]["train"]) // PLANTED_EVERY
    return run["rules"].get("near_duplicate", 0) / planted


# ---------------------------------------------------------------- memory, and the second run


def measure_large(bench: Bench, rows: int) -> tuple[dict[str, Figure], dict[str, object]]:
    """Many rows, a tenth of them, and the many once more."""
    wanted, free = rows * BYTES_A_ROW, free_disk(bench.folder)
    if free < wanted:
        why = f"{rows:,} rows need {human_bytes(wanted)} of disk, {human_bytes(free)} are free"
        print(f"left out: {why}")
        return {}, {"large": f"left out: {why}"}
    tenth = bench.work("whole", bench.rows("tenth", SHORT, rows // 10, 5))
    many, root = bench.rows("many", SHORT, rows, 4), bench.folder / "large"
    first = bench.work("whole", many, root=root)
    started = time.perf_counter()
    again = bench.work("whole", many, root=root)
    whole = time.perf_counter() - started
    assert again["path"] == first["path"], "the second run did not find the first one's data set"
    figures = {
        "large peak memory": Figure(
            first["peak_mb"], "MB", "<= 1500", f"{rows:,} rows, {human_bytes(many.stat().st_size)}"
        ),
        "large memory against a tenth": Figure(
            first["peak_mb"] / tenth["peak_mb"], "times", "", f"{tenth['peak_mb']:,.0f} MB for {rows // 10:,} rows"
        ),
        "large run": Figure(first["seconds"], "s", "", f"{rows / first['seconds']:,.0f} rows/s, all cores"),
        "second run": Figure(whole, "s", "<= 2", "the whole process"),
        "second run, imports": Figure(again["imports"], "s", "", ""),
        "second run, stage": Figure(again["seconds"], "s", "", f"{again['peak_mb']:,.0f} MB"),
    }
    return figures, {"large": {"first": first, "tenth": tenth, "again": again}}


# ---------------------------------------------------------------- faults


def measure_faults(bench: Bench) -> tuple[dict[str, Figure], dict[str, object]]:
    """Twelve faults of each of twelve kinds in 10,000 rows."""
    planted = plant_chats(bench.folder / "faulty-chats.jsonl", bench.words)
    pairs = plant_preferences(bench.folder / "faulty-pairs.jsonl", bench.words)
    (chats, missed), (preferences, unseen) = caught(bench, planted, "short"), caught(bench, pairs, "pairs")
    total = {name: chats[name] + preferences[name] for name in chats}
    sound = len(planted.sound) + len(pairs.sound)
    figures = {
        "faulty rows quarantined": Figure(total["caught"], "rows", ">= 144", "12 of each of 12 kinds"),
        "sound rows byte-identical": Figure(total["kept"], "rows", f">= {sound}", f"of {sound:,}"),
        "sound rows quarantined": Figure(total["wronged"], "rows", "<= 0", ""),
    }
    return figures, {"faults missed": missed + unseen}


def caught(bench: Bench, planted: Planted, of: str) -> tuple[dict[str, int], list[str]]:
    """What was planted beside what was found, and the kinds that were not; `of`: where its rows to measure on are."""
    root = bench.folder / planted.path.stem
    dataset = Path(bench.work("whole", planted.path, kind=of, root=root)["path"])
    lines = (dataset / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    quarantined = [record["line"] for record in map(json.loads, lines) if record["split"] == "train"]
    missed = [f"{kind}, line {line}" for line, kind in planted.faults.items() if line not in set(quarantined)]
    return planted.compare((dataset / "train.jsonl").read_bytes(), quarantined), missed


# ---------------------------------------------------------------- all of it


def measure(bench: Bench, options: argparse.Namespace) -> tuple[dict[str, Figure], dict[str, object]]:
    """Everything that was asked for."""
    other = llamafactory.find(options.llamafactory, install=not options.quick)
    if not other.python:
        print(f"without LLaMA-Factory: {other.why_not}")
    size, rounds = (10_000, 1) if options.quick else (100_000, 5)
    figures, notes = measure_faults(bench)
    figures |= measure_speed(bench, size, rounds, other)
    if not options.skip_large:
        found, more = measure_large(bench, options.rows or (50_000 if options.quick else 5_000_000))
        figures, notes = figures | found, notes | more
    about = {
        "quick": options.quick,
        "llamafactory": llamafactory.VERSION if other.python else f"not installed: {other.why_not}",
        "rows": size,
        "rounds": rounds,
        "sides": SIDES,
        "seconds to start": {
            n: median(run["start"] for run in runs) for n, runs in bench.runs.items() if "start" in runs[0]
        },
        "peak MB": {name: max(run["peak_mb"] for run in runs) for name, runs in bench.runs.items()},
        "rows/s of processor time": {name: bench.speed(name, "cpu_seconds") for name in bench.runs},
        "rows/s, tokenizer without places": without_places(bench),
    }
    return figures, {**about, **notes}


def without_places(bench: Bench) -> dict[str, float]:
    """`encode_batch_fast`, which does not say where in the text a token stands and so gives no loss mask."""
    runs = {name: bench.runs[f"{name} tokenizer"] for name in KINDS}
    return {name: median(run["rows"] / run["seconds_without_places"] for run in found) for name, found in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows, few rounds: about a minute")
    parser.add_argument("--rows", type=int, help="rows of the large file (5,000,000)")
    parser.add_argument("--skip-large", action="store_true", help="leave the large file out")
    parser.add_argument("--llamafactory", type=Path, metavar="PYTHON", help="a Python that has LLaMA-Factory")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="postmill-bench-data-"))
    try:
        figures, notes = measure(prepare(folder), options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if publish("data", figures, notes) else 1)


if __name__ == "__main__":
    main()
