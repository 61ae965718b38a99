"""Training that is killed and started again: does it end with the same weights, byte for byte?

A child trains a small model with a checkpoint every other step. It gets SIGKILL once, at a random moment of its life
or in the middle of saving a checkpoint, and is started again with the same command. The sha256 of its adapter is held
against that of a run nobody disturbed.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._training_bench import BATCH, LORA, Bench, Failed, first_lines
from benchmarks._training_speed import TRIAGE
from benchmarks.report import Figure
from components.core.artifacts import hash_file

STAGING = ".saving-*"
STEPS = 24
EVERY = 2
SHAPE = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 6}
STEP = {"type": "sft", "max_steps": STEPS, "batch_size": BATCH, "learning_rate": 2.0e-3}
KEPT = {"checkpoint": {"every": EVERY}}
ATTEMPTS = 6
LONGEST_S = 300.0


@dataclass(frozen=True)
class Trial:
    """What became of a run that was killed once."""

    seed: int
    saving: bool
    """Whether it was killed with a half-written checkpoint on disk."""
    after_s: float
    checkpoints: int
    """Whole checkpoints that it left."""
    steps_after: int
    """Optimizer steps of the second start."""
    sha256: str


@dataclass(frozen=True)
class Case:
    """How to start the child, and what an undisturbed one does."""

    bench: Bench
    recipe: Path
    models: Path
    seconds: float = 0.0

    def start(self, root: Path) -> subprocess.Popen[str]:
        words = [self.recipe, self.models, root]
        command = [sys.executable, "-m", "benchmarks._training_ours", *map(str, words)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env=self.bench.environment(threads=1), text=True, **streams)  # type: ignore[call-overload, no-any-return]

    def finish(self, root: Path) -> dict[str, Any]:
        """Run to the end; the child's report."""
        process = self.start(root)
        out, errors = process.communicate(timeout=LONGEST_S)
        if process.returncode:
            raise Failed(f"{errors[-4000:]}\na run that was to be finished in {root} failed")
        report: dict[str, Any] = json.loads(out.splitlines()[-1])
        return report


def measure_kills(bench: Bench, kills: int, seed: int) -> tuple[dict[str, Figure], dict[str, object]]:
    """Two undisturbed runs, then the kills, two children at a time."""
    case = prepare_case(bench)
    with ThreadPoolExecutor(2) as pool:
        whole = list(pool.map(case.finish, [bench.folder / f"whole-{number}" for number in range(2)]))
        wanted = {weights(report) for report in whole}
        case = Case(bench, case.recipe, case.models, max(report["whole_s"] for report in whole))
        trials = list(pool.map(lambda number: tried(case, seed + number, number % 2 == 0), range(kills)))
    same = sum({trial.sha256} == wanted for trial in trials)
    inside = sum(trial.saving for trial in trials)
    figures = {
        "kills, same weights at the end": Figure(
            same, f"of {kills}", f">= {kills}", f"{len(wanted)} sha256 undisturbed"
        ),
        "kills inside saving": Figure(inside, f"of {kills}", f">= {kills // 4}", "a half-written checkpoint lay there"),
        "kills, steps after the resume": Figure(
            sum(t.steps_after for t in trials) / kills, f"of {STEPS}", "", f"a checkpoint every {EVERY} steps"
        ),
    }
    return figures, {
        "seed": seed,
        "undisturbed": sorted(wanted),
        "seconds undisturbed": case.seconds,
        "trials": [vars(trial) for trial in trials],
    }


def prepare_case(bench: Bench) -> Case:
    """A random model with the tokenizer of the real one, and rows of the sample task."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    place = bench.folder / "random-model"
    shutil.copytree(bench.model.path, place, ignore=shutil.ignore_patterns("*.safetensors", "manifest.json"))
    config = AutoConfig.from_pretrained(place, **SHAPE, num_key_value_heads=3, head_dim=32)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(place)
    rows = first_lines(TRIAGE / "train.jsonl", 60, bench.folder / "kills.jsonl")
    step = {**STEP, **KEPT, "lora": {**LORA, "dropout": 0.1}}
    recipe = bench.recipe("kills", rows, step, model={"type": "pretrained", "name": str(place)})
    return Case(bench, recipe, bench.folder / "models")


def tried(case: Case, seed: int, while_saving: bool) -> Trial:
    """Kill once, run again to the end. A child that was over before it could be killed does not count."""
    chance = random.Random(seed)
    for attempt in range(ATTEMPTS):
        root = case.bench.folder / f"killed-{seed}-{attempt}"
        process, started = case.start(root), time.perf_counter()
        struck = strike_saving(process, root, chance) if while_saving else strike(process, chance, case.seconds)
        after = time.perf_counter() - started
        process.communicate()
        inside = bool(staged(root))
        if struck and process.returncode == -signal.SIGKILL and inside >= while_saving:
            left = len(list((root / "checkpoints").rglob("step-*/manifest.json")))
            report = case.finish(root)
            trial = Trial(seed, inside, round(after, 3), left, report["steps"], weights(report))
            shutil.rmtree(root)
            print(
                f"kill {seed}: {'inside saving' if inside else 'elsewhere'} after {after:.1f} s, {left} left",
                flush=True,
            )
            return trial
        shutil.rmtree(root, ignore_errors=True)
    raise Failed(f"the child could not be killed {'inside saving ' * while_saving}in {ATTEMPTS} attempts")


def strike(process: subprocess.Popen[str], chance: random.Random, seconds: float) -> bool:
    """SIGKILL at any moment of the child's life."""
    try:
        process.wait(chance.uniform(0.1, 1.0) * seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return True
    return False


def strike_saving(process: subprocess.Popen[str], root: Path, chance: random.Random) -> bool:
    """SIGKILL while a checkpoint is being written: one of the first, a few milliseconds after its folder appears."""
    wanted, seen = chance.randrange(1, STEPS // EVERY), set[Path]()
    while process.poll() is None:
        fresh = set(staged(root)) - seen
        seen |= fresh
        if fresh and len(seen) >= wanted:
            time.sleep(chance.uniform(0, 0.01))
            process.kill()
            return True
        time.sleep(0.0005)
    return False


def staged(root: Path) -> list[Path]:
    """Folders of checkpoints that are not committed."""
    try:
        return list((root / "checkpoints").rglob(STAGING))
    except OSError:  # removed while it was looked at
        return []


def weights(report: dict[str, Any]) -> str:
    """sha256 of the adapter that a run left."""
    return hash_file(Path(report["adapter"]) / "adapter_model.safetensors")
