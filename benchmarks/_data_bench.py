"""The bench that the data benchmark works on: generated files, and measurements as processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._data_rows import MEDIUM, SHORT, Kind, Words, write_chats
from components.core.recipe import load_recipe
from components.services.model import ModelService
from components.services.workspace import Workspace

KINDS = {"short": SHORT, "medium": MEDIUM}
ONE_CORE = ("POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_NUM_THREADS")
SIDES = {
    "stage": "reads JSONL, detects the form, checks every row against the default rules, renders, tokenises, marks "
    "what is trained on; writes good rows byte for byte, in their internal shape and as Arrow, quarantine, report",
    "tokenizer": "encode_batch on texts that were rendered before the clock starts; reads, checks and writes nothing",
    "llamafactory": "get_dataset, stage sft, one process, caches off: reads JSONL, aligns, renders, tokenises, makes "
    "labels and attention mask, writes Arrow twice; no rules on content, no duplicates, no quarantine, no digests",
}
"""What each side of a comparison does in the time that is counted."""


@dataclass
class Bench:
    """Where the files are, and how to run a measurement on them."""

    folder: Path
    model: Path
    words: Words
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def rows(self, name: str, kind: Kind, count: int, seed: int, planted: bool = False) -> Path:
        """A generated file."""
        path = self.folder / f"{name}.jsonl"
        write_chats(path, self.words, kind, count, seed, planted)
        return path

    def work(self, work: str, train: Path, *more: str, kind: str = "short", root: Path | None = None) -> Any:
        """What a measurement says. Its workspace is thrown away unless it is given."""
        place = root or Path(tempfile.mkdtemp(dir=self.folder))
        files = {"train": train, "eval": self.folder / f"{kind}-eval.jsonl", "warm": self.folder / f"{kind}-few.jsonl"}
        named = [part for name, path in files.items() for part in (f"--{name}", str(path))]
        command = [sys.executable, "-m", "benchmarks._data_work", work, "--model", str(self.model), *named]
        try:
            return output([*command, "--root", str(place), *more], alone="--core" in more)
        finally:
            if root is None:
                shutil.rmtree(place)

    def keep(self, name: str, result: dict[str, Any]) -> None:
        self.runs.setdefault(name, []).append(result)
        print(f"{name}: {result['seconds']:.2f} s, {result['cpu_seconds']:.2f} s of processor time", flush=True)

    def speed(self, name: str, clock: str = "seconds") -> float:
        """Rows a second that were read, good or bad. By the clock `cpu_seconds` other programs disturb less."""
        return median(row_count(run) / run[clock] for run in self.runs[name])

    def spread(self, name: str) -> str:
        speeds = [row_count(run) / run["seconds"] for run in self.runs[name]]
        return f"{min(speeds):,.0f} to {max(speeds):,.0f}"


def row_count(run: dict[str, Any]) -> int:
    """Rows that were read, good or bad."""
    rows = run["rows"]
    return sum(rows.values()) + sum(run["quarantined"].values()) if isinstance(rows, dict) else rows


def output(command: list[str], alone: bool) -> Any:
    """The last line that a program prints, as JSON. `alone`: no library may start threads."""
    settings = {**dict.fromkeys(ONE_CORE, "1"), "TOKENIZERS_PARALLELISM": "false"} if alone else {}
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{done.stderr}\n{' '.join(command)} failed")
    return json.loads(done.stdout.splitlines()[-1])


def prepare(folder: Path) -> Bench:
    """The base model of the quickstart from the store, and small files to measure and to warm up with."""
    model = ModelService(Workspace(Path.cwd())).fetch(load_recipe(Path("configs/quickstart.yaml")).model).path
    bench = Bench(folder, model, Words(model / "tokenizer.json"))
    for name, kind in KINDS.items():
        bench.rows(f"{name}-few", kind, 300, seed=2)
        bench.rows(f"{name}-eval", kind, 300, seed=3)
    return bench
