"""Joules that this machine used, where it counts them: processor packages (RAPL) and NVIDIA's GPUs (NVML).

    pip install nvidia-ml-py                       # the counter of GPUs
    chmod a+r /sys/class/powercap/*/energy_uj      # as root: the counter of processors is not for everyone

Counters are the whole machine's: what else runs meanwhile is in the figure. A machine without any has no figure, which
is not the same as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Counter:
    """A counter that only grows, in joules, and begins again at `wrap`."""

    name: str
    read: Callable[[], float]
    wrap: float = float("inf")

    def used(self, before: float, after: float) -> float:
        return after - before if after >= before else after - before + self.wrap


def counters(powercap: Path = POWERCAP) -> list[Counter]:
    """Every counter that can be read here."""
    return [*_packages(powercap), *_gpus()]


def read_all(found: Sequence[Counter]) -> list[float]:
    return [counter.read() for counter in found]


def used(found: Sequence[Counter], before: Sequence[float], after: Sequence[float]) -> float:
    """Joules of all counters between two readings."""
    return sum(counter.used(*pair) for counter, pair in zip(found, zip(before, after, strict=True), strict=True))


def _packages(powercap: Path) -> list[Counter]:
    """Whole processors; their parts (cores, memory controller) are in them already."""
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text(encoding="utf-8").strip()
            _microjoules(zone / "energy_uj")
            wrap = _microjoules(zone / "max_energy_range_uj")
        except OSError:  # not for us to read: then there is no counter
            continue
        if name.startswith("package"):
            found.append(Counter(name, lambda file=zone / "energy_uj": _microjoules(file), wrap))  # type: ignore[misc]
    return found


def _microjoules(file: Path) -> float:
    return int(file.read_text(encoding="utf-8")) / 1e6


def _gpus() -> list[Counter]:
    if find_spec("pynvml") is None:
        return []
    nvml: Any = import_module("pynvml")
    try:
        nvml.nvmlInit()
        devices = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]
        for device in devices:
            nvml.nvmlDeviceGetTotalEnergyConsumption(device)
    except nvml.NVMLError:  # no driver, no GPU, or one that does not count
        return []
    read = nvml.nvmlDeviceGetTotalEnergyConsumption
    return [Counter(f"gpu-{n}", lambda device=device: read(device) / 1e3) for n, device in enumerate(devices)]  # type: ignore[misc]
