"""What a block of code costs in time, memory and processors, and what this machine has to offer.

with performance_monitor() as used:
    ...
print(used.seconds, used.memory.peak, used.cpu)
print(device_info().gpus)
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from components.core.machine import machine, peak_rss, resident


@dataclass(eq=False)
class Memory:
    """Bytes in use when a block began and when it ended, and the most in between."""

    before: int
    after: int = 0
    peak: int = 0


@dataclass
class Performance:
    """What a block cost; complete when it has ended. `gpu_memory` is what torch holds on all GPUs together."""

    memory: Memory
    gpu_memory: Memory
    seconds: float = 0.0
    cpu: float = 0.0
    """Share of all cores that were busy with this program, and with programs that it started and that ended."""


class _Meter:
    """Peaks of blocks that may lie inside each other. There is one record, which can only begin anew for all of them:
    before it does, every open block takes it down."""

    def __init__(self, now: Callable[[], int], record: Callable[[], int], restart: Callable[[], None]) -> None:
        self._now, self._record, self._restart = now, record, restart
        self._open: list[Memory] = []
        self._lock = Lock()

    def begin(self) -> Memory:
        with self._lock:
            self._take_down()
            self._restart()
            memory = Memory(before=self._now())
            self._open.append(memory)
        return memory

    def end(self, memory: Memory) -> None:
        with self._lock:
            self._take_down()
            self._open.remove(memory)
            memory.after = self._now()

    def _take_down(self) -> None:
        record = max(self._record(), self._now())
        for memory in self._open:
            memory.peak = max(memory.peak, record)


def _restart_resident() -> None:
    with suppress(OSError):  # where the kernel refuses, a peak is that of the whole program
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _cuda() -> Any:
    """`torch.cuda` where it is in use already: asking takes neither an import nor memory on a GPU."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda if getattr(cuda, "is_initialized", lambda: False)() else None


def _on_gpus(figure: str) -> int:
    cuda = _cuda()
    return sum(getattr(cuda, figure)(number) for number in range(cuda.device_count())) if cuda else 0


def _restart_gpus() -> None:
    cuda = _cuda()
    for number in range(cuda.device_count() if cuda else 0):
        cuda.reset_peak_memory_stats(number)


_resident = _Meter(resident, peak_rss, _restart_resident)
_gpus = _Meter(lambda: _on_gpus("memory_allocated"), lambda: _on_gpus("max_memory_allocated"), _restart_gpus)


@contextmanager
def performance_monitor() -> Iterator[Performance]:
    """Measure the block; also one that fails, and one inside another."""
    used = Performance(_resident.begin(), _gpus.begin())
    started, busy = time.perf_counter(), _busy_seconds()
    try:
        yield used
    finally:
        used.seconds = time.perf_counter() - started
        used.cpu = (_busy_seconds() - busy) / used.seconds / machine().cores
        _resident.end(used.memory)
        _gpus.end(used.gpu_memory)


def _busy_seconds() -> float:
    return sum(os.times()[:4])


# ------------------------------------------------------------ what is there


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch can use. Bytes, those of other programs included."""

    name: str
    memory_used: int
    memory_total: int


@dataclass(frozen=True)
class Devices:
    """What there is to compute on. Bytes, and cores that this program may use."""

    cores: int
    memory_used: int
    memory_total: int
    gpus: tuple[Gpu, ...]


def device_info() -> Devices:
    """Cores, memory and GPUs as they are now. Imports torch."""
    import psutil
    import torch

    memory = psutil.virtual_memory()
    gpus = [_gpu(torch.cuda, number) for number in range(torch.cuda.device_count())]
    return Devices(machine().cores, memory.total - memory.available, memory.total, tuple(gpus))


def _gpu(cuda: Any, number: int) -> Gpu:
    free, total = cuda.mem_get_info(number)
    return Gpu(cuda.get_device_name(number), total - free, total)
