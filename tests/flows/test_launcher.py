"""Training in two processes over gloo: the same curve as in one, exact resume, and one dead process stops them all."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from components.core.errors import TrainingError, TrainingInterrupted
from components.core.events import CheckpointSaved, EventBus, TrainStep
from components.core.recipe import OfKind
from components.services.training import TrainingService
from components.services.workspace import Workspace

STEPS = 6
CURVE = 2e-5
"""Largest difference of a loss: two processes add in another order. Seen: 1e-6."""


def step(processes: int, **changes: Any) -> Any:
    plain = {
        "type": "sft",
        "max_steps": STEPS,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "dtype": "float32",
        "lora": {"r": 4},
        "checkpoint": {"every": 2},
        "launcher": {"processes": processes},
    }
    return OfKind("trainer").parse(plain | changes)


def service(root: Path) -> tuple[TrainingService, EventBus]:
    workspace = Workspace(root)
    return TrainingService(workspace), workspace.bus


def workers() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    alive = [process for process in found if process.status() != psutil.STATUS_ZOMBIE]
    return [process for process in alive if "components.services.elsewhere.worker" in process.cmdline()[-2:]]


def test_two_processes_give_the_curve_of_one(lab: Any, tmp_path: Path) -> None:
    """Losses, gradient norms and tokens agree with those of one process, and events come through (E19)."""
    training, bus = service(tmp_path)
    told: list[TrainStep] = []
    bus.on(TrainStep, told.append)
    one = training.train([step(1)], lab.base, lab.dataset, 17)
    two = training.train([step(2)], lab.base, lab.dataset, 17)
    assert two.meta["losses"] == pytest.approx(one.meta["losses"], abs=CURVE)
    assert two.meta["grad_norms"] == pytest.approx(one.meta["grad_norms"], abs=1e-3)
    assert [event.step for event in told] == [*range(1, STEPS + 1)] * 2
    assert two.kind == "adapter"
    assert not list((tmp_path / "checkpoints").glob("*/step-*"))


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_one_dead_process_stops_all_and_resume_is_exact(lab: Any, tmp_path: Path) -> None:
    """A killed process ends the run with the last checkpoint named; the next run ends as if nothing had happened."""
    whole = service(tmp_path / "whole")[0].train([step(2)], lab.base, lab.dataset, 17)
    training, bus = service(tmp_path / "killed")

    def kill(event: CheckpointSaved) -> None:
        if event.step == 4:
            workers()[-1].send_signal(signal.SIGKILL)

    off = bus.on(CheckpointSaved, kill)
    with pytest.raises(TrainingError, match=r"one of 2 processes died .*the checkpoint of step 4 is intact"):
        training.train([step(2, max_steps=STEPS)], lab.base, lab.dataset, 17)
    off()
    assert not workers()
    again = training.resume([step(2)], lab.base, lab.dataset, 17)
    assert again.meta["resumed_from"] == [4]
    assert again.meta["losses"] == whole.meta["losses"]
    assert again.digest == whole.digest


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_sigterm_stops_all_after_the_same_step(lab: Any, tmp_path: Path) -> None:
    """SIGTERM to the run makes all processes save and stop; it goes on from there."""
    training, bus = service(tmp_path)
    bus.on(TrainStep, lambda event: os.kill(os.getpid(), signal.SIGTERM) if event.step == 3 else None)
    many = {"max_steps": 200}
    with pytest.raises(TrainingInterrupted, match=r"stopped by SIGTERM after step \d+ of 200"):
        training.train([step(2, **many)], lab.base, lab.dataset, 17)
    saved = sorted((tmp_path / "checkpoints").glob("*/step-*"))
    assert saved
    assert threading.active_count() < 20
    deadline = time.monotonic() + 10
    while workers() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not workers()


def test_there_is_nothing_to_resume(lab: Any, tmp_path: Path) -> None:
    """`resume` without a checkpoint says so instead of training anew."""
    with pytest.raises(TrainingError, match="no checkpoint of train step 'sft' to go on from"):
        service(tmp_path)[0].resume([step(1)], lab.base, lab.dataset, 17)
