"""LLaMA-Factory in a virtual environment of its own, so that it can be measured beside the data stage.

It pins older libraries than ours, and takes some gigabytes with its own torch. If it cannot be installed the benchmark
goes on without it and says why.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

VERSION = "0.9.5"
TORCH = ("torch==2.11.0", "torchaudio==2.11.0")
"""They fit each other in the same version only; otherwise LLaMA-Factory installs and cannot be imported."""
SCRIPT = Path(__file__).with_name("_data_llamafactory.py")


@dataclass(frozen=True)
class Installed:
    """Its Python, or why there is none."""

    python: Path | None
    why_not: str = ""

    def command(self) -> list[str]:
        assert self.python
        return [str(self.python.absolute()), str(SCRIPT)]


def find(python: Path | None, install: bool) -> Installed:
    """That of the user, or the one that an earlier run installed, or a new one."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "postmill" / f"llamafactory-{VERSION}"
    known = python or folder / "bin" / "python"
    if not python and not (folder / "ready").is_file():
        if not install:
            return Installed(None, "--quick installs nothing")
        if why_not := _install(folder, known):
            return Installed(None, why_not)
    done = subprocess.run([known, "-c", "import llamafactory.data"], capture_output=True, text=True, check=False)
    return Installed(None, f"its import fails: {_last(done.stderr)}") if done.returncode else Installed(known)


def _install(folder: Path, python: Path) -> str:
    """`pip install llamafactory`; why it failed, or nothing."""
    print(f"installing LLaMA-Factory {VERSION}", flush=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    commands = (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [*pip, "install", "--quiet", "--no-compile", f"llamafactory=={VERSION}", *TORCH],
        # datasets 4.0 imports from it what newer ones no longer have; only pictures and films need it
        [*pip, "uninstall", "--quiet", "--yes", "torchvision"],
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{' '.join(command[1:4])} failed: {_last(done.stderr)}"
    (folder / "ready").touch()
    return ""


def _last(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no message")[:300]
