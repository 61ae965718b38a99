"""Kill training processes at random moments, some of them while they save: the end is the same to the last bit.

The moments come from a seed that is printed; `CHAOS_SEED=...` repeats a run, `CHAOS_KILLS=...` sets how often.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import tiny
from tests.conftest import ROOT

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]
PROGRAM = """
import sys
from pathlib import Path
from components.core.recipe import parse_recipe
from components.services.data import DataService
from components.services.model import ModelService
from components.services.training import TrainingService
from components.services.workspace import Workspace
from tests import tiny
root, shared = Path(sys.argv[1]), Path(sys.argv[2])
plain = tiny.recipe(shared, shared / "model")
plain["train"][0] |= {"max_steps": 40, "accumulate": 2, "checkpoint": {"every": 1},
                      "lora": {"r": 4, "alpha": 8, "dropout": 0.1}}
plan, workspace = parse_recipe(plain), Workspace(root)
base = ModelService(workspace).fetch(plan.model)
dataset = DataService(workspace).validate(plan.data, base)
(root / "trained").write_text(TrainingService(workspace).train(plan.train, base, dataset, plan.seed).digest)
"""


def start(root: Path, shared: Path) -> subprocess.Popen[bytes]:
    root.mkdir(exist_ok=True)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": (root / "errors.txt").open("wb")}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(root), str(shared)], env=environment, **quiet)  # type: ignore[call-overload,no-any-return]


def saving(root: Path) -> bool:
    """Whether a checkpoint is being written right now."""
    return any((root / "checkpoints").glob("*/.saving-*"))


def kill(root: Path, shared: Path, moment: random.Random, while_saving: bool) -> bool:
    """Start, wait for training, and kill; False if it ended before."""
    process = start(root, shared)
    while process.poll() is None and not any((root / "checkpoints").glob("*/identity.json")):
        time.sleep(0.01)
    until = time.monotonic() + moment.uniform(0.0, 2.5)
    while process.poll() is None and (time.monotonic() < until or (while_saving and not saving(root))):
        time.sleep(0.0005)
    ended = process.poll() is not None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return not ended


def test_killed_training_ends_with_the_same_bytes(tmp_path: Path, one_thread: None) -> None:
    """After any number of SIGKILLs the artifact is the one of an undisturbed run (B16, F6)."""
    seed, kills = int(os.environ.get("CHAOS_SEED", time.time_ns() % 10**6)), int(os.environ.get("CHAOS_KILLS", "6"))
    print(f"CHAOS_SEED={seed}")
    moment, shared = random.Random(seed), tmp_path / "shared"
    tiny.write_model(shared / "model")
    whole = start(tmp_path / "whole", shared)
    assert whole.wait(200) == 0, (tmp_path / "whole" / "errors.txt").read_text()
    done = [kill(tmp_path / "killed", shared, moment, while_saving=number % 2 == 1) for number in range(kills)]
    assert any(done)
    last = start(tmp_path / "killed", shared)
    assert last.wait(200) == 0, (tmp_path / "killed" / "errors.txt").read_text()
    assert (tmp_path / "killed" / "trained").read_text() == (tmp_path / "whole" / "trained").read_text()
    assert not list((tmp_path / "killed" / "checkpoints").glob("*/step-*"))
