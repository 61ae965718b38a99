"""The bench that the training benchmark works on: rows, recipes, and measurements as processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from components.core.artifacts import Artifact
from components.core.recipe import load_recipe
from components.services.data import DataService
from components.services.model import ModelService
from components.services.workspace import Workspace

QUICKSTART = Path("configs/quickstart.yaml")
LORA = {"r": 16, "alpha": 32, "target_modules": "all-linear"}
BATCH = 4
LEFT_OUT = ("optimize", "benchmark", "gate", "register")


class Failed(Exception):
    """A measurement could not be made."""


@dataclass(frozen=True)
class Bench:
    """Where the files are, and how to run a measurement on them."""

    folder: Path
    model: Artifact
    model_root: Path
    cores: int
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def work(self, name: str, module: str, *words: object, python: Path | None = None, keep: bool = True) -> Any:
        """What a program of this package prints last, as JSON. Every measurement is a fresh process."""
        command = [str(python or sys.executable), "-m", f"benchmarks.{module}", *map(str, words)]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"{done.stderr[-4000:]}\n{' '.join(command)} failed")
        found = json.loads(done.stdout.splitlines()[-1])
        if keep:
            self.runs.setdefault(name, []).append(found)
            print(f"{name}: {_line(found)}", flush=True)
        return found

    def environment(self, threads: int | None = None) -> dict[str, str]:
        """As many threads on every side, caches of their own, no hub."""
        count = str(threads or os.environ.get("OMP_NUM_THREADS") or self.cores)
        own = {"OMP_NUM_THREADS": count, "HF_HUB_OFFLINE": "1", "HF_HOME": str(self.folder / "hf"), "TQDM_DISABLE": "1"}
        return {**os.environ, **own, "CUDA_VISIBLE_DEVICES": ""}

    def place(self, name: str) -> Path:
        """A folder that does not exist yet."""
        number = 0
        while (place := self.folder / f"{name}-{number}").exists():
            number += 1
        return place

    def recipe(self, name: str, train: Path, step: dict[str, Any], **changes: Any) -> Path:
        """The quickstart's recipe with other rows and this training step."""
        plain = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
        plain |= {"name": name, "train": [step], **changes}
        plain["data"] = {**plain["data"], "train": {"type": "jsonl", "path": str(train)}} | changes.get("data", {})
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")
        return path

    def dataset(self, recipe: Path) -> Artifact:
        """A recipe's rows as the data stage hands them on."""
        return DataService(Workspace(self.folder / "data")).validate(load_recipe(recipe).data, self.model)

    def ratio(self, above: str, below: str, value: Callable[[dict[str, Any]], float]) -> float:
        """Median over rounds: a run of one kind against the run of the other that stood next to it."""
        pairs = zip(self.runs[above], self.runs[below], strict=True)
        return median(value(mine) / value(theirs) for mine, theirs in pairs)

    def middle(self, name: str, value: Callable[[dict[str, Any]], float]) -> float:
        return median(value(run) for run in self.runs[name])

    def spread(self, name: str, value: Callable[[dict[str, Any]], float]) -> str:
        values = [value(run) for run in self.runs[name]]
        return f"{min(values):,.4g} to {max(values):,.4g}"


def prepare(folder: Path) -> Bench:
    """The base model of the quickstart from the store of this clone."""
    root = Path.cwd()
    model = ModelService(Workspace(root)).fetch(load_recipe(QUICKSTART).model)
    return Bench(folder, model, root, len(os.sched_getaffinity(0)))


def first_lines(source: Path, count: int, target: Path) -> Path:
    """A file of the first rows of another."""
    with source.open(encoding="utf-8") as lines:
        rows = [line for line, _ in zip(lines, range(count), strict=False)]
    if len(rows) < count:
        raise Failed(f"{source} has {len(rows)} rows, the benchmark wants {count}; run: make data")
    target.write_text("".join(rows), encoding="utf-8")
    return target


def order_of(seen: Iterable[list[int]], truth: list[list[int]]) -> list[int]:
    """Which rows a trainer saw, by their tokens; padding stands at the end. -1: a row that is none of ours."""
    known = sorted(enumerate(truth), key=lambda item: -len(item[1]))
    return [next((number for number, ids in known if row[: len(ids)] == ids), -1) for row in seen]


def in_order(rows: Any, order: list[int], target: Path) -> Path:
    """Tokenised rows (`input_ids`, `labels`) in this order, as JSON Lines."""
    chosen = (rows[number] for number in order)
    kept = [{key: list(row[key]) for key in ("input_ids", "labels")} for row in chosen]
    target.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    return target


def tidy(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _line(found: dict[str, Any]) -> str:
    """One run, in short."""
    if "step_seconds" not in found:
        return ""
    return (
        f"{found['steps']} steps in {found['seconds']:.1f} s, {found['cpu_seconds']:.1f} s of processor time, "
        f"{found['peak_mb']:,.0f} MB, loss {found['losses'][0]:.3f} to {found['losses'][-1]:.3f}"
    )
