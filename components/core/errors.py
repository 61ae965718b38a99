"""The errors Postmill raises on purpose: each names the thing, the value and the remedy.

Anything else that escapes is a bug. `exit_code` is what the command line returns to the shell.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal

LoadFault = Literal["out_of_memory", "device", "network", "corrupt", "incompatible", "missing"]
"""Why a model cannot be loaded."""


class PostmillError(Exception):
    """A problem the user can act on; printed as one message, without a traceback."""

    exit_code = 1


class ConfigError(PostmillError, ValueError):
    """One or several mistakes in a recipe, an override or a component's configuration.

    A ValueError too, so that a validator may raise it and pydantic goes on to collect the other mistakes. `at`: the
    key inside what is validated that it is about.
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[str], at: str = "") -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        self.at = at
        super().__init__("\n".join(self.problems))


class DataError(PostmillError):
    """Rows that would waste a training run: missing, malformed, empty or leaking."""


class ContractBroken(DataError):
    """Too many bad rows, or one that a rule does not allow. `kept`: where the list of them and the report are."""

    def __init__(self, message: str, kept: Path = Path()) -> None:
        super().__init__(message)
        self.kept = kept


class ArtifactError(PostmillError):
    """An artifact that is missing, incomplete or not what its manifest says."""


class UnsafeModelError(PostmillError):
    """A model directory that could run code when loaded, or that holds no safe weights."""


class ModelLoadError(PostmillError):
    """A model that cannot be fetched or loaded: `error_type` for programs, the message with its remedy for people."""

    def __init__(self, message: str, error_type: LoadFault = "incompatible") -> None:
        super().__init__(message)
        self.error_type = error_type


class TrainingError(PostmillError):
    """Training that stopped itself because going on would waste time or lie about the result.

    Its message is "what happened; what to do", and `cause` and `remedy` are the two halves.
    """

    @property
    def cause(self) -> str:
        return str(self).partition("; ")[0]

    @property
    def remedy(self) -> str:
        return str(self).partition("; ")[2]


class TrainingInterrupted(TrainingError):
    """Training was told to stop (SIGTERM, Ctrl+C), saved, and can go on from there."""

    exit_code = 143


class RegistryServiceError(PostmillError):
    """The model registry refused, is locked or cannot be reached."""


class PluginError(PostmillError):
    """A plugin that cannot be found, loaded or unloaded."""


class WiringError(ConfigError):
    """Services that cannot be put together: one is missing, they need each other, or one would be held too long."""


class StepSkipped(PostmillError):
    """A step that the recipe does not require was left out; the message is the reason."""


class StepNotBegun(StepSkipped):
    """A step that the recipe switches off, or whose condition is not met."""


class GateNotPassed(PostmillError):
    """No variant passed the gate. The evidence is recorded, nothing is registered as accepted."""

    exit_code = 3


class MissingExtraError(PostmillError):
    """An optional package is not installed."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'sft'?"` when a close name exists, else an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional `module`, or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # the package may be there, and something that it needs may not
        inner = error.name if error.name not in (None, module, module.partition(".")[0]) else None
        missing = f"'{inner}', which '{module}' needs," if inner else f"'{module}'"
        raise MissingExtraError(
            f"the package {missing} is not installed; run: pip install 'postmill[{extra}]'"
        ) from error
