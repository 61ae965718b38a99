"""Comet. Offline unless a key is configured: one zip a run below `comet/`, no network, no account, no question.

    services: {tracking: {tracker: [mlflow, comet]}}
    services: {tracking: {tracker: [mlflow, {type: comet, workspace: us, api_key: env:COMET_API_KEY}]}}

`comet upload comet/*.zip` uploads what was recorded offline.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from components.core.component import StrictConfig
from components.core.errors import PostmillError, require
from components.core.health import Health
from components.core.kinds import register
from components.core.secret import Secret
from components.interfaces import Tracker
from components.trackers._library import check_mode, hooks_kept, library_health

ENVIRONMENT = {
    "COMET_DISABLE_AUTO_LOGGING": "1",  # else its import patches torch, MLflow and others
    "COMET_ERROR_TRACKING_ENABLE": "false",  # it would go to their servers, offline too
    "COMET_LOGGING_CONSOLE": "ERROR",
}
SWITCHED_OFF = (
    "log_code",
    "log_graph",
    "auto_param_logging",
    "auto_metric_logging",
    "auto_output_logging",
    "parse_args",
    "log_git_metadata",
    "log_git_patch",
)
SYSTEM = ("details", "gpu", "cpu", "host", "network", "disk")


@register("tracker", "comet")
class CometTracker(Tracker):
    """Runs, metrics and files in Comet, on its servers or in a zip."""

    class Config(StrictConfig):
        root: Path = Path(".")
        project: str = "postmill"
        workspace: str | None = Field(None, description="user or team; the one of the key by default")
        mode: Literal["online", "offline"] | None = Field(None, description="online where there is a key, by default")
        api_key: Secret | None = Field(None, description="env:COMET_API_KEY")
        system_metrics: bool = Field(True, description="of online runs: load of processor, memory and GPU, the machine")

        @model_validator(mode="after")
        def _has_key(self) -> Self:
            check_mode(self.mode, self.api_key, "COMET_API_KEY")
            return self

    config: Config

    def start(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        comet = _library()
        options: dict[str, Any] = dict.fromkeys(SWITCHED_OFF, False)
        online = self.config.api_key is not None and self.config.mode != "offline"
        # not offline: Comet resolves its own address and asks the cloud's metadata service to find out where it is
        options |= {f"log_env_{name}": self.config.system_metrics and online for name in SYSTEM}
        options |= {"project_name": self.config.project, "workspace": self.config.workspace, "display_summary_level": 0}
        if self.config.api_key is not None and online:
            self._run = comet.Experiment(api_key=self.config.api_key.reveal(), **options)
        else:
            self._folder().mkdir(parents=True, exist_ok=True)
            self._run = comet.OfflineExperiment(offline_directory=str(self._folder()), **options)
        if not self._run.alive:  # Comet logs such an error and goes on without recording anything
            raise PostmillError("Comet opened no experiment: check the key, the workspace and the connection")
        self._run.set_name(name)
        self._run.log_parameters({key: str(value) for key, value in params.items()})
        self.tag(tags)
        return str(self._run.get_key())

    def tag(self, tags: Mapping[str, str]) -> None:
        # Comet's tags are words without a value, so ours are "others"
        self._run.log_others(dict(tags))

    def metrics(self, values: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        for step, figures in values:
            self._run.log_metrics({name: float(value) for name, value in figures.items()}, step=step)

    def file(self, path: Path, folder: str = "") -> None:
        name = f"{folder}/{path.name}" if folder else path.name
        if self._run.log_asset(str(path), file_name=name) is None:  # Comet logs such an error and goes on
            raise PostmillError(f"Comet took no copy of '{path}'")

    def finish(self, status: Literal["FINISHED", "FAILED"]) -> None:
        self._run.log_other("status", status)
        self._run.end()
        zipped = self._folder() / f"{self._run.get_key()}.zip"
        if hasattr(self._run, "offline_directory") and not zipped.is_file():
            raise PostmillError(f"Comet did not write '{zipped}'")

    def health(self) -> Health:
        """Whether the library is there and the folder can be written, or the key is set; no server is asked."""
        key = None if self.config.mode == "offline" else self.config.api_key
        return library_health("comet_ml", "comet", self._folder(), key)

    def _folder(self) -> Path:
        return self.config.root / "comet"


def _library() -> Any:
    """Comet's module, imported so that it leaves the rest of the process as it is."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with hooks_kept():
        return require("comet_ml", "comet")
