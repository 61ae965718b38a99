"""What a block of code costs, and what the machine has."""

from __future__ import annotations

import mmap
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.core import monitor
from components.core.events import StageFinished
from components.core.machine import machine
from components.core.monitor import device_info, performance_monitor
from components.core.recipe import parse_recipe
from components.services.tracking import RunTracking
from components.services.workspace import Workspace
from components.trackers.mlflow import connect
from tests import tiny

MB = 10**6


def take(size: int) -> mmap.mmap:
    """Memory that was not there before, whatever the allocator has in reserve; every page is written."""
    held = mmap.mmap(-1, size)
    held[::4096] = b"\x01" * len(range(0, size, 4096))
    return held


def test_a_block_is_measured() -> None:
    """Seconds, memory before, after and at its peak, and the load of the processors are those of the block (E33)."""
    with performance_monitor() as used:
        held = take(50 * MB)
        del held
        kept = take(20 * MB)
        time.sleep(0.2)
    assert 0.2 < used.seconds < 5
    assert used.memory.peak - used.memory.before > 45 * MB
    assert 15 * MB < used.memory.after - used.memory.before < 40 * MB
    assert 0 <= used.cpu < 0.9
    assert used.gpu_memory.peak == 0
    del kept


def test_a_busy_block() -> None:
    """One busy core is its share of all cores (E33)."""
    with performance_monitor() as used:
        until = time.process_time() + 0.3
        while time.process_time() < until:
            pass
    assert 0 < used.cpu <= 1.1 / machine().cores


def test_a_later_peak_is_its_own() -> None:
    """A block is not blamed for what an earlier one took (E33)."""
    with performance_monitor() as first:
        held = take(80 * MB)
        del held
    with performance_monitor() as second:
        held = take(10 * MB)
        del held
    assert first.memory.peak - second.memory.peak > 50 * MB


def test_blocks_in_blocks() -> None:
    """A block that holds others has the largest peak of them, also one that was before the inner one began (E33)."""
    with performance_monitor() as outer:
        held = take(80 * MB)
        del held
        with performance_monitor() as inner:
            held = take(10 * MB)
            del held
    assert outer.memory.peak - inner.memory.peak > 50 * MB


def test_a_block_that_fails() -> None:
    """A failure goes on, and the block is measured all the same (E33)."""
    with pytest.raises(ZeroDivisionError), performance_monitor() as used:
        time.sleep(0.01 / 0)
    assert used.seconds > 0
    assert used.memory.peak >= used.memory.after > 0


class FakeCuda:
    """The part of `torch.cuda` that is asked, with two GPUs."""

    held = peak = 0
    mem_get_info = staticmethod(lambda number: (3000, 4000 + number))
    get_device_name = staticmethod(lambda number: f"GPU {number}")
    device_count = staticmethod(lambda: 2)
    is_initialized = staticmethod(lambda: True)

    def take(self, size: int) -> None:
        self.held += size
        self.peak = max(self.peak, self.held)

    def memory_allocated(self, number: int) -> int:
        return self.held if number == 0 else 0

    def max_memory_allocated(self, number: int) -> int:
        return self.peak if number == 0 else 0

    def reset_peak_memory_stats(self, number: int) -> None:
        self.peak = self.held


def test_memory_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch uses GPUs, what it holds on all of them is measured in the same way (E20, E33)."""
    cuda = FakeCuda()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    cuda.take(100)
    with performance_monitor() as outer:
        cuda.take(700)
        cuda.take(-700)
        with performance_monitor() as inner:
            cuda.take(50)
    assert (outer.gpu_memory.before, outer.gpu_memory.peak, outer.gpu_memory.after) == (100, 800, 150)
    assert inner.gpu_memory.peak == 150


def test_measuring_imports_nothing() -> None:
    """Measuring a block needs no ML library, so a stage without one stays without one (E33)."""
    import subprocess

    code = """
import sys
from components.core.monitor import performance_monitor
with performance_monitor() as used:
    pass
assert used.memory.peak > 0
print({"torch", "psutil", "pynvml"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_where_the_kernel_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the right to begin the record anew, a peak is that of the whole program: never too small (E33)."""
    held = take(80 * MB)
    del held

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError

    with performance_monitor() as before:
        held = take(80 * MB)
        del held
    monkeypatch.setattr(monitor.Path, "write_text", refuse)
    with performance_monitor() as used:
        pass
    assert used.memory.peak >= before.memory.peak


def test_what_is_there() -> None:
    """Cores, memory in use and in all, and the GPUs that torch can use (E20)."""
    import torch

    found = device_info()
    assert found.cores == machine().cores
    assert 0 < found.memory_used < found.memory_total
    assert len(found.gpus) == torch.cuda.device_count()


def test_gpus_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each GPU has its name, and the memory that it has and that is in use (E20)."""
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=FakeCuda()))
    assert device_info().gpus == (monitor.Gpu("GPU 0", 1000, 4000), monitor.Gpu("GPU 1", 1001, 4001))


def test_every_stage_is_measured(workspace: Workspace) -> None:
    """The end of a stage tells its seconds, its peak of memory and its share of the processors (E33, E34)."""
    ended: list[StageFinished] = []
    workspace.bus.on(StageFinished, ended.append)

    def make(out: Path) -> None:
        held = take(50 * MB)
        time.sleep(0.05)
        (out / "file").write_bytes(held[:1])

    workspace.stage("data", "x", [], {}, {}, "dataset", make)
    assert ended[0].seconds >= 0.05
    assert ended[0].peak_memory > 50 * MB
    assert (ended[0].peak_gpu_memory, ended[0].cpu >= 0) == (0, True)


def test_the_cost_of_a_stage_is_tracked(workspace: Workspace) -> None:
    """Seconds, peak of memory and share of the processors of every stage are figures of the run (E34)."""
    recipe = parse_recipe(tiny.recipe(workspace.root, Path("no/model")))
    cost = {"seconds": 2.5, "peak_memory": 300, "cpu": 0.5, "peak_gpu_memory": 700}
    with RunTracking(workspace, recipe) as run:
        workspace.bus.emit(StageFinished(stage="train", name="sft", key="k", size=1, **cost))
        workspace.bus.emit(StageFinished(stage="data", name="jsonl", key="k", size=1, seconds=0.5, peak_memory=9))
    found = connect(workspace.root).get_run(run.run_id).data.metrics
    trained = {"seconds": 2.5, "memory": 300, "cpu": 0.5, "gpu_memory": 700}
    assert found.items() >= {f"{name}/train.sft": value for name, value in trained.items()}.items()
    assert found["memory/data.jsonl"] == 9
    assert "gpu_memory/data.jsonl" not in found
