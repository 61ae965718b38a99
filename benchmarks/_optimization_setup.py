"""llama.cpp and Olive, each in a virtual environment of its own, so that they can be measured beside ours.

llama.cpp is compiled here for this processor (some minutes, needs a C++ compiler); Olive needs older libraries than
ours. One that cannot be installed is left out, and the benchmark says why.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Other:
    """What is installed, and how it is seen to work."""

    name: str
    version: str
    module: str
    packages: tuple[str, ...]
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


LLAMA = Other(
    name="llama-cpp-python",
    version="0.3.36",
    module="llama_cpp",
    packages=("llama-cpp-python==0.3.36",),
    options=("--no-binary", "llama-cpp-python"),
    environment={"CMAKE_ARGS": "-DGGML_NATIVE=ON"},
)
OLIVE = Other(
    name="olive-ai",
    version="0.13.0",
    module="olive",
    # newer ones of the generator lack a module that this Olive imports; it crashes on transformers 5
    packages=(
        "olive-ai==0.13.0",
        "onnxruntime-genai==0.14.1",
        "onnxruntime==1.26.0",
        "transformers<5",
        "torch",
        "optimum",
        "datasets",
        "tabulate",
    ),
)


@dataclass(frozen=True)
class Installed:
    """Its Python, or why there is none."""

    python: Path | None
    why_not: str = ""


def find(other: Other, python: Path | None, install: bool) -> Installed:
    """That of the user, or the one that an earlier run installed, or a new one."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "postmill"
    folder = cache / f"{other.name}-{other.version}"
    known = python or folder / "bin" / "python"
    if not python and not (folder / "ready").is_file():
        if not install:
            return Installed(None, "--quick installs nothing")
        if why_not := _install(other, folder, known):
            return Installed(None, why_not)
    done = subprocess.run([known, "-c", f"import {other.module}"], capture_output=True, text=True, check=False)
    return Installed(None, f"its import fails: {_last(done.stderr)}") if done.returncode else Installed(known)


def _install(other: Other, folder: Path, python: Path) -> str:
    """`pip install`; why it failed, or nothing."""
    print(f"installing {other.name} {other.version}", flush=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile"]
    commands = ([sys.executable, "-m", "venv", "--clear", str(folder)], [*pip, *other.options, *other.packages])
    for command in commands:
        surroundings = {**os.environ, **other.environment}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings)
        if done.returncode:
            return f"{' '.join(command[1:4])} failed: {_last(done.stderr)}"
    (folder / "ready").touch()
    return ""


def _last(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no message")[:300]
