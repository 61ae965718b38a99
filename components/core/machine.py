"""What this machine has: cores, memory, disk, and whether its processor multiplies in bfloat16."""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from components.core.health import Health

GB = 1000**3
UNITS = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class Machine:
    """Facts that decide defaults. Bytes, and processors usable by this process."""

    processor: str
    cores: int
    memory: int
    bf16: bool

    def arithmetic(self) -> str:
        """What decides how sums are rounded here: the processor, threads, the fast dtype, GPUs that may be used."""
        threads = os.environ.get("OMP_NUM_THREADS") or str(self.cores)
        return ", ".join([self.processor, f"{self.cores} cores", f"{threads} threads", self.dtype(), *_gpus()])

    def dtype(self) -> str:
        """The dtype that is fast here for training and batched generation: bf16 with hardware support, else fp32."""
        return "bfloat16" if self.bf16 else "float32"


@cache
def machine() -> Machine:
    """Probe once; reads `/proc` only, no ML library."""
    cpuinfo = _read("/proc/cpuinfo")
    model = next((line.partition(":")[2].strip() for line in cpuinfo.splitlines() if "model name" in line), "")
    flags = next((line.split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])
    return Machine(
        processor=model or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        bf16="avx512_bf16" in flags or "amx_bf16" in flags,
    )


def compute_threads() -> int:
    """Threads that arithmetic is worth here: `OMP_NUM_THREADS`, or the cores that this process may use, of which
    the kernel says which are halves of one."""
    if told := os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]:
        return int(told)
    place = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return len({_read(place.format(cpu)).strip() or str(cpu) for cpu in os.sched_getaffinity(0)})


def _gpus() -> list[str]:
    """Names of NVIDIA's GPUs, unless this process is told to use none."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return []
    texts = [_read(str(file)) for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    lines = [line for text in texts for line in text.splitlines()]
    return [line.partition(":")[2].strip() for line in lines if line.startswith("Model")]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def free_memory() -> int:
    """Bytes that a process could take now without anything being swapped out."""
    import psutil

    return int(psutil.virtual_memory().available)


def free_disk(path: Path) -> int:
    """Free bytes on the file system that will hold `path`."""
    return shutil.disk_usage(_existing(path)).free


def disk_state(path: Path) -> Health:
    """Whether `path`, or the folder that it will be made in, can be written to and has room."""
    path = path.absolute()
    folder, elsewhere = _existing(path), "or set POSTMILL_ROOT to another folder"
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return Health("failed", f"'{folder}' is not a folder that can be written to; make it one, {elsewhere}")
    free = free_disk(folder)
    detail, figures = f"{human_bytes(free)} free at '{path}'", {"root": str(path), "free": free}
    if free < 5 * GB:
        return Health("failed" if free < GB else "degraded", f"{detail}; free some, {elsewhere}", figures)
    return Health("ok", f"{detail}, writable", figures)


def _existing(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    while not os.path.exists(path):  # unlike Path.exists, False where we may not look
        path = path.parent
    return path


def peak_rss() -> int:
    """Largest resident set of this program, bytes, since it began or since a `performance_monitor` did.

    Not getrusage: that one inherits the parent's peak.
    """
    return _status("VmHWM")


def resident() -> int:
    """Resident set of this program now, bytes."""
    return _status("VmRSS")


def _status(name: str) -> int:
    line = next(line for line in _read("/proc/self/status").splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def human_bytes(count: float) -> str:
    """`1536` -> `"1.5 kB"`, powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def bytes_of(value: Any) -> Any:
    """`"2GB"` -> 2000000000.0; anything else is left for pydantic to judge."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*", value) if isinstance(value, str) else None
    if not match:
        return value
    if match[2].upper() not in UNITS:
        raise ValueError(f"unknown unit '{match[2]}'; known: {', '.join(unit for unit in UNITS if unit)}")
    return float(match[1]) * UNITS[match[2].upper()]


Quantity = Annotated[float, BeforeValidator(bytes_of, json_schema_input_type=float | str)]
"""A number in a configuration, which may be written as a size with its unit."""
Bytes = Annotated[float, Field(gt=0), BeforeValidator(bytes_of, json_schema_input_type=float | str)]
"""A size in a configuration: a number, or text with a unit."""
