"""What this machine can do at most: matrix products per second, measured, and the energy it takes, where counted.

A utilisation against a data sheet tells little on a machine that shares its cores; one against products measured in
the same process does.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

SIZE = 1024
SECONDS = 0.1
COUNTERS = Path("/sys/class/powercap")


@cache
def peak_flops(device: str, dtype: str, threads: int) -> float:
    """Operations per second of square matrix products; `threads` are those in use now, and part of the cache's key."""
    import torch

    size = SIZE if device == "cpu" else 8 * SIZE
    left = torch.randn(size, size, device=device, generator=torch.Generator(device).manual_seed(0))
    left = left.to(getattr(torch, dtype))
    best = 0.0
    for _ in range(3):
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < SECONDS / 3 or count == 0:
            left @ left
            count += 1
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, count * 2 * size**3 / (time.perf_counter() - started))
    return best


def energy_joules() -> float | None:
    """Reading of the machine's energy counters, J: Intel's RAPL packages and NVIDIA's GPUs; None where neither can be
    read. Two readings make a difference; counters wrap around."""
    found = [float(file.read_text()) / 1e6 for file in _rapl()]
    found += _gpus()
    return sum(found) if found else None


def _rapl() -> list[Path]:
    files = [folder / "energy_uj" for folder in sorted(COUNTERS.glob("intel-rapl:[0-9]"))]
    try:
        for file in files:
            file.read_text()
    except OSError:  # readable by root only, since it gives away what others compute (CVE-2020-8694)
        return []
    return files


def _gpus() -> list[float]:
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(at) for at in range(pynvml.nvmlDeviceGetCount())]
        return [pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3 for handle in handles]
    except pynvml.NVMLError:
        return []
