"""What computes here: torch and the processor. torch is asked in a child process: its crash is a finding too."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from typing import Any

from pydantic import PositiveFloat

from components.core.component import StrictConfig
from components.core.health import Health
from components.core.kinds import register
from components.core.machine import machine
from components.interfaces import Probe
from components.probes._system import container_limit, last_line, read, run

ASK_TORCH = """
import json, re, torch
blas = re.search(r"BLAS_INFO=(\\w+)", torch.__config__.show())
print()
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda,
    "gpu_usable": torch.cuda.is_available(),
    "threads": torch.get_num_threads(),
    "blas": blas.group(1) if blas else "none",
    "mkl": torch.backends.mkl.is_available(),
    "onednn": torch.backends.mkldnn.is_available(),
}))
"""
BUSY = 1.5
"""A load average of so many times the cores disturbs measurements."""


@register("probe", "torch")
class TorchProbe(Probe):
    """torch starts, uses as many threads as there are cores, and can use the GPU it was built for."""

    class Config(StrictConfig):
        timeout_s: PositiveFloat = 60

    config: Config

    def ask(self) -> Health:
        try:
            # -P: a torch.py in the working directory is not torch; -B: nothing is written
            child = run([sys.executable, "-B", "-P", "-c", ASK_TORCH], self.config.timeout_s)
        except subprocess.TimeoutExpired:
            remedy = "see whether the disk or the machine is overloaded, then ask again"
            return Health("failed", f"torch does not start within {self.config.timeout_s:.0f} s; {remedy}")
        if child.returncode:
            cause = last_line(child.stderr) or f"the process ended with code {child.returncode}"
            return Health("failed", f"torch does not start ({cause}); run `pip install --force-reinstall torch`")
        facts = json.loads(last_line(child.stdout))
        facts |= {"cores": machine().cores, "dtype": machine().dtype()}
        problem = _torch_problem(facts)
        return Health("degraded" if problem else "ok", problem or _torch_in_words(facts), facts)


def _torch_problem(facts: dict[str, Any]) -> str:
    threads, cores = facts["threads"], facts["cores"]
    if threads > cores:
        return f"torch takes {threads} threads on {cores} usable cores, which is slower; set OMP_NUM_THREADS={cores}"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    if facts["cuda"] and not facts["gpu_usable"] and shutil.which("nvidia-smi") and not hidden:
        remedy = "update the NVIDIA driver, or install a torch built for an older CUDA"
        return f"torch is built for CUDA {facts['cuda']} and cannot use the GPU; {remedy}"
    return ""


def _torch_in_words(facts: dict[str, Any]) -> str:
    build = f"CUDA {facts['cuda']} build" if facts["cuda"] else "CPU build"
    threads = f"{facts['threads']} threads on {facts['cores']} cores"
    return f"torch {facts['version']}, {build}, {threads}, BLAS {facts['blas']}, computes in {facts['dtype']}"


@register("probe", "cpu")
class CpuProbe(Probe):
    """The processor: usable cores, the instructions that make it fast, and whether it is busy with something else."""

    def ask(self) -> Health:
        features, cores, load = _cpu_features(), machine().cores, os.getloadavg()[0]
        metrics = {"model": machine().processor, "cores": cores, "load": round(load, 2), **features}
        quota = container_limit("cpu.max")
        if platform.machine() in ("x86_64", "AMD64") and not features["avx2"]:
            remedy = "expect int4 and int8 models to be slow, or use a processor made after 2013"
            return Health("degraded", f"{machine().processor} has no AVX2; {remedy}", metrics)
        if quota and quota < cores:
            remedy = f"set OMP_NUM_THREADS={max(1, int(quota))}, or give the container more"
            return Health("degraded", f"the container may use {quota:g} of {cores} cores at a time; {remedy}", metrics)
        if load > BUSY * cores:
            detail = f"something else is running (load {load:.1f} on {cores} cores) and measurements will be noisy"
            return Health("degraded", f"{detail}; end it before you benchmark", metrics)
        fast = " ".join(name for name, there in features.items() if there) or "no special instructions"
        return Health("ok", f"{machine().processor}, {cores} usable cores, {fast}", metrics)


def _cpu_features() -> dict[str, bool]:
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", read("/proc/cpuinfo"), re.MULTILINE)
    flags = set(line[1].split()) if line else set()
    return {
        "avx2": "avx2" in flags,
        "avx512": "avx512f" in flags,
        "vnni": bool(flags & {"avx512_vnni", "avx_vnni"}),
        "amx": "amx_tile" in flags,
        "bf16": bool(flags & {"avx512_bf16", "amx_bf16", "bf16"}),
    }
