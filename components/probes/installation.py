"""Whether Python and the installed packages are what Postmill asks for. Reads metadata, imports none of them."""

from __future__ import annotations

import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from components.core.component import StrictConfig
from components.core.health import Health
from components.core.kinds import register
from components.interfaces import Probe
from components.probes._system import fits, installed

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "postmill"
REPORTED = ("torch", "transformers", "mlflow", "prefect", "onnxruntime")
LISTED = 5
"""So many differences are written out."""


@register("probe", "python")
class PythonProbe(Probe):
    """The interpreter: version, 64 bit, virtual environment."""

    def ask(self) -> Health:
        found, wanted = platform.python_version(), _requires_python()
        bits = 64 if sys.maxsize > 2**32 else 32
        isolated = sys.prefix != sys.base_prefix
        metrics = {"version": found, "wanted": wanted, "bits": bits, "virtual_environment": isolated}
        if not fits(found, wanted):
            remedy = f"make a virtual environment with Python {wanted} and install Postmill there"
            return Health("failed", f"Python {found} is not {wanted}; {remedy}", metrics)
        if bits != 64:
            return Health("failed", "this Python is a 32 bit build, torch needs 64 bit; install that one", metrics)
        place = "in a virtual environment" if isolated else "not in a virtual environment"
        return Health("ok", f"Python {found}, {bits} bit, {place}", metrics)


def _requires_python() -> str:
    try:
        return metadata.metadata(DISTRIBUTION)["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        return ""


@register("probe", "versions")
class VersionsProbe(Probe):
    """Every runtime requirement is installed, in a version that fits."""

    def ask(self) -> Health:
        metrics = {name: installed(name) for name in REPORTED}
        if installed(DISTRIBUTION) is None:
            remedy = "run `pip install -e .` in its folder"
            return Health("failed", f"'{DISTRIBUTION}' is not installed for this Python; {remedy}", metrics)
        wanted = _with_extras(_requirements(DISTRIBUTION))
        bad = [each for each in wanted if not fits(installed(each.name), str(each.specifier))]
        if not bad:
            return Health("ok", f"all {len(wanted)} requirements are installed in versions that fit", metrics)
        found = "; ".join(f"{each.name} {installed(each.name) or 'is absent'}, wanted {_pin(each)}" for each in bad)
        command = shlex.join(["pip", "install", *map(_pin, bad)])
        return Health("failed", f"{found}; run `{command}`", metrics)


def _requirements(distribution: str, extra: str = "") -> list[Requirement]:
    """What a distribution asks for on this machine, or what one of its extras adds to that."""
    from packaging.requirements import Requirement

    def applies(each: Requirement, extra: str) -> bool:
        return each.marker is None or each.marker.evaluate({"extra": extra})

    every = [Requirement(line) for line in metadata.requires(distribution) or ()]
    return [each for each in every if applies(each, extra) and not (extra and applies(each, ""))]


def _with_extras(wanted: list[Requirement]) -> list[Requirement]:
    """`sqlalchemy[asyncio]` asks for greenlet too."""
    present = [each for each in wanted if installed(each.name)]
    return wanted + [more for each in present for extra in each.extras for more in _requirements(each.name, extra)]


def _pin(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


@register("probe", "tested_set")
class TestedSetProbe(Probe):
    """The installed versions are the ones that were tested together."""

    class Config(StrictConfig):
        file: Path = Path("constraints.txt")

    config: Config

    def ask(self) -> Health:
        file = self.config.file
        if not file.is_file():
            return Health("ok", f"no {file.name} here, nothing to compare with", {"compared": 0})
        pins = [each for each in _pins(file) if installed(each.name)]
        others = [each for each in pins if not fits(installed(each.name), str(each.specifier))]
        metrics = {"compared": len(pins), "differing": {each.name: installed(each.name) for each in others}}
        if not others:
            return Health("ok", f"all {len(pins)} installed packages of {file.name} are the tested versions", metrics)
        listed = ", ".join(f"{each.name} {installed(each.name)} ({each.specifier})" for each in others[:LISTED])
        rest = f" and {len(others) - LISTED} more" if len(others) > LISTED else ""
        remedy = f"run `pip install -c {file} -e .`"
        return Health("degraded", f"not the set tested together: {listed}{rest}; {remedy}", metrics)


def _pins(file: Path) -> list[Requirement]:
    from packaging.requirements import Requirement

    lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]
