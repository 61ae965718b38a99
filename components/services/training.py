"""Runs the training steps of a recipe: `TrainingService(workspace).train(recipe.train, model, dataset, seed)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.core.artifacts import Artifact
from components.core.recipe import Spec
from components.interfaces import StepContext
from components.services.workspace import Workspace


class TrainingService:
    """Trains models, one artifact a step."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def train(self, steps: Sequence[Spec], model: Artifact, dataset: Artifact, seed: int) -> Artifact:
        """The last step's artifact. Each step starts from what the one before it produced."""
        for spec in steps:
            model = self._step(spec, model, dataset, seed)
        return model

    def _step(self, spec: Spec, model: Artifact, dataset: Artifact, seed: int) -> Artifact:
        def make(out: Path) -> Mapping[str, Any]:
            facts = spec.build().train(model, dataset, out, StepContext(seed, self.workspace.bus))
            self.workspace.bus.emit("train.summary", **facts)
            return dict(facts)

        kind = spec.component.produces_kind(spec.config)
        config = {**spec.dump(), "seed": seed}
        parents = {"model": model, "dataset": dataset}
        return self.workspace.stage("train", spec.type, spec.component, config, parents, kind, make, lambda: model.size)
