"""Weights & Biases. Offline unless a key is configured: runs below `wandb/`, no network, no account, no question.

    services: {tracking: {tracker: [mlflow, wandb]}}
    services: {tracking: {tracker: [mlflow, {type: wandb, entity: us, api_key: env:WANDB_API_KEY}]}}

`wandb sync wandb/offline-run-*` uploads what was recorded offline.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from components.core.component import StrictConfig
from components.core.errors import require
from components.core.health import Health
from components.core.kinds import register
from components.core.secret import Secret
from components.interfaces import Tracker
from components.trackers._library import check_mode, copied, hooks_kept, library_health

STEP = "global_step"
"""W&B's own step only goes up; a figure of the whole run, or one that is late, would be dropped without a word."""
FINISH_TIMEOUT_S = 300.0


@register("tracker", "wandb")
class WandbTracker(Tracker):
    """Runs, metrics and files in Weights & Biases, on its servers or in a folder."""

    class Config(StrictConfig):
        root: Path = Path(".")
        project: str = "postmill"
        entity: str | None = Field(None, description="user or team; the one of the key by default")
        mode: Literal["online", "offline"] | None = Field(None, description="online where there is a key, by default")
        api_key: Secret | None = Field(None, description="env:WANDB_API_KEY")
        system_metrics: bool = Field(True, description="load of processor, memory and GPU, and what the machine is")

        @model_validator(mode="after")
        def _has_key(self) -> Self:
            check_mode(self.mode, self.api_key, "WANDB_API_KEY")
            return self

    config: Config

    def start(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it would go to their servers, offline too
        os.environ.setdefault("WANDB_CACHE_DIR", str(self.config.root.absolute() / "wandb" / "cache"))  # else at home
        wandb = require("wandb", "wandb")
        self.config.root.mkdir(parents=True, exist_ok=True)
        self._tags = dict(tags)
        with hooks_kept():
            self._run = wandb.init(
                project=self.config.project,
                entity=self.config.entity,
                name=name,
                dir=str(self.config.root),
                mode="online" if self._key() else "offline",
                config={**params, "tags": self._tags},
                reinit="create_new",  # a run that a plugin has open in this process stays its own
                settings=wandb.Settings(**self._settings()),
            )
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)
        return str(self._run.id)

    def tag(self, tags: Mapping[str, str]) -> None:
        # W&B's tags are words without a value, so ours are a part of the configuration
        self._tags |= tags
        self._run.config.update({"tags": dict(self._tags)}, allow_val_change=True)

    def metrics(self, values: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        for step, figures in values:
            self._run.log({**{name: float(value) for name, value in figures.items()}, STEP: step})

    def file(self, path: Path, folder: str = "") -> None:
        # a copy: W&B would keep a link, and some of our files are gone when the run is uploaded
        kept = copied(path, Path(self._run.dir) / folder)
        self._run.save(str(kept), base_path=self._run.dir, policy="now", glob=False)

    def finish(self, status: Literal["FINISHED", "FAILED"]) -> None:
        import wandb

        self._run.finish(exit_code=0 if status == "FINISHED" else 1)
        if wandb.run is None:  # its service would stay until this process ends; nobody else uses it
            wandb.teardown()

    def health(self) -> Health:
        """Whether the library is there and the folder can be written, or the key is set; no server is asked."""
        key = None if self.config.mode == "offline" else self.config.api_key
        return library_health("wandb", "wandb", self.config.root / "wandb", key)

    def _key(self) -> str | None:
        """The key of an online run."""
        online = self.config.mode != "offline" and self.config.api_key is not None
        return self.config.api_key.reveal() if online and self.config.api_key else None

    def _settings(self) -> dict[str, Any]:
        return {
            "api_key": self._key(),
            "silent": True,
            "console": "off",
            "disable_git": True,  # the commit is a tag already
            "disable_code": True,
            "finish_timeout": FINISH_TIMEOUT_S,
            "finish_timeout_raises": True,
            "x_disable_stats": not self.config.system_metrics,
            "x_disable_machine_info": not self.config.system_metrics,
        }
