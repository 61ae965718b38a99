"""What NVIDIA's own program says of the GPUs here, and what the installed torch could do with them."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from pydantic import PositiveFloat

from components.core.component import StrictConfig
from components.core.health import Health
from components.core.kinds import register
from components.interfaces import Probe
from components.probes._system import last_line, read, run


@register("probe", "gpu")
class GpuProbe(Probe):
    """NVIDIA GPUs, and whether the installed torch is built for them. None is fine."""

    class Config(StrictConfig):
        timeout_s: PositiveFloat = 10

    config: Config

    def ask(self) -> Health:
        program = shutil.which("nvidia-smi")
        if program is None:
            return Health("ok", "no GPU; everything runs on the CPU", {"gpus": []})
        query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
        harmless = "reinstall the NVIDIA driver; if there is no GPU, this is harmless"
        try:
            answer = run(query, self.config.timeout_s)
        except (subprocess.TimeoutExpired, OSError) as error:
            return Health("degraded", f"nvidia-smi gives no answer ({type(error).__name__}); {harmless}", {"gpus": []})
        gpus = [_gpu(line) for line in answer.stdout.splitlines() if line.count(",") >= 2]
        if answer.returncode or not gpus:
            cause = last_line(answer.stdout + answer.stderr) or f"code {answer.returncode}"
            return Health("degraded", f"nvidia-smi finds no GPU ({cause}); {harmless}", {"gpus": []})
        return _with_torch(gpus)


def _gpu(line: str) -> dict[str, str]:
    name, memory, driver = (part.strip() for part in line.rsplit(",", 2))
    return {"name": name, "memory_mib": memory, "driver": driver}


def _with_torch(gpus: list[dict[str, str]]) -> Health:
    names = ", ".join(f"{gpu['name']} ({gpu['memory_mib']} MiB, driver {gpu['driver']})" for gpu in gpus)
    if _torch_is_cpu_only():
        remedy = "install a CUDA build, with the command that pytorch.org/get-started gives for this driver"
        return Health("degraded", f"{names} is idle, as the installed torch is a CPU build; {remedy}", {"gpus": gpus})
    return Health("ok", names, {"gpus": gpus})


def _torch_is_cpu_only() -> bool:
    """Read from torch's version file: importing torch takes seconds."""
    spec = importlib.util.find_spec("torch")
    text = read(Path(spec.origin).with_name("version.py")) if spec and spec.origin else ""
    builds = re.findall(r"^(?:cuda|hip)\b[^=\n]*=\s*(\S+)", text, re.MULTILINE)
    return bool(builds) and set(builds) == {"None"}
