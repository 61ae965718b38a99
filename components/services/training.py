"""Runs the training steps of a recipe: `TrainingService(workspace).train(recipe.train, model, dataset, seed)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from components.core.artifacts import Artifact
from components.core.errors import StepSkipped
from components.core.events import TrainingFinished, TrainingStarted
from components.core.kinds import service
from components.core.recipe import Spec
from components.interfaces import StepContext
from components.services.optional import optional
from components.services.workspace import Workspace


@service("training")
class TrainingService:
    """Trains models, one artifact a step."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def train(self, steps: Sequence[Spec], model: Artifact, dataset: Artifact, seed: int) -> Artifact:
        """The last step's artifact. Each step starts from what the one before it gave; skipped ones are passed over."""
        for spec in steps:
            with suppress(StepSkipped), optional(spec, self.workspace.bus, "train", spec.type):
                model = self._step(spec, model, dataset, seed)
        return model

    def _step(self, spec: Spec, model: Artifact, dataset: Artifact, seed: int) -> Artifact:
        def make(out: Path) -> Mapping[str, Any]:
            bus = self.workspace.bus
            bus.emit(TrainingStarted(trainer=spec.type))
            facts = spec.build().train(model, dataset, out, StepContext(seed, bus))
            bus.emit(TrainingFinished(trainer=spec.type, figures=facts))
            return dict(facts)

        kind = spec.component.produces_kind(spec.config)
        config = {**spec.identity(), "seed": seed}
        parents = {"model": model, "dataset": dataset}
        return self.workspace.stage("train", spec.type, spec.parts(), config, parents, kind, make, lambda: model.size)
