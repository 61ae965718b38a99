"""Runs the training steps of a recipe, one artifact a step.

    training = TrainingService(workspace, DataService(workspace))
    trained = training.train(recipe.train, model, dataset, recipe.seed)
    training.evaluate(trained, dataset)              # {"loss": ..., "perplexity": ..., "tokens": ...}

A run that was killed goes on from its last checkpoint when the same steps are trained again; `resume` insists on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from components.core.artifacts import Artifact, Identity
from components.core.errors import StepSkipped, TrainingError
from components.core.events import TrainingFinished, TrainingStarted
from components.core.kinds import registry, service
from components.core.recipe import Spec, default_spec
from components.interfaces import StepContext
from components.services._launch import launch
from components.services.data import DataService
from components.services.model import ModelService
from components.services.optional import optional
from components.services.workspace import Workspace, stage_identity
from components.training.checkpoints import forget

CHECKPOINTS = "checkpoints"


@service("training")
class TrainingService:
    """Trains models, one artifact a step."""

    def __init__(
        self, workspace: Workspace, data: DataService | None = None, models: ModelService | None = None
    ) -> None:
        self.workspace, self.data = workspace, data or DataService(workspace)
        self.models = models or ModelService(workspace)

    def train(self, steps: Sequence[Spec], model: Artifact, dataset: Artifact, seed: int) -> Artifact:
        """The last step's artifact. Each step starts from what the one before it gave; skipped ones are passed over."""
        for spec in steps:
            with suppress(StepSkipped), optional(spec, self.workspace.bus, "train", spec.type):
                model = self._step(spec, self._whole(model, seed), self._rows(spec, model, dataset), seed)
        return model

    def resume(self, steps: Sequence[Spec], model: Artifact, dataset: Artifact, seed: int) -> Artifact:
        """Like `train`, for a run that was killed: a TrainingError if there is no checkpoint of it to go on from."""
        for spec in steps:
            whole, rows = self._whole(model, seed), self._rows(spec, model, dataset)
            identity = self._identity(spec, self._parents(spec, whole, rows), seed)
            done = self.workspace.store.find("train", identity.key())
            if done is None and not list(self.checkpoints(spec, identity).glob("step-*")):
                raise TrainingError(f"there is no checkpoint of train step '{spec.type}' to go on from; train it anew")
            model = self._step(spec, whole, rows, seed)
        return model

    def evaluate(self, model: Artifact, dataset: Artifact, split: str = "eval") -> dict[str, float]:
        """Loss and perplexity of a model or adapter on the trained tokens of a split."""
        from components.training.evaluation import evaluate

        base = self.workspace.store.get(model.parents["model"]) if model.kind == "adapter" else None
        return evaluate(model, base, dataset, split)

    # ------------------------------------------------------------ one step

    def _step(self, spec: Spec, model: Artifact, dataset: Artifact, seed: int) -> Artifact:
        parents = self._parents(spec, model, dataset)
        identity = self._identity(spec, parents, seed)
        scratch = self.checkpoints(spec, identity)

        def make(out: Path) -> Mapping[str, Any]:
            bus = self.workspace.bus
            bus.emit(TrainingStarted(trainer=spec.type))
            known = {**_readable(identity), "model": model.digest}
            context = StepContext(seed, bus, scratch, known, _further(parents))
            several = spec.config.launcher.world > 1 if hasattr(spec.config, "launcher") else False
            run = launch if several else _here
            facts = dict(run(spec, model, dataset, out, context))
            bus.emit(TrainingFinished(trainer=spec.type, figures=facts))
            return {"trainer": spec.type, **facts}

        kind = spec.component.produces_kind(spec.config)
        trained = self.workspace.stage(
            "train", spec.type, spec.parts(), identity.config, parents, kind, make, lambda: model.size
        )
        forget(scratch)
        return trained

    def checkpoints(self, spec: Spec, identity: Identity) -> Path:
        """Where the checkpoints of a step are: the folder that the recipe names, or one for these very inputs."""
        named = spec.config.checkpoint.folder if hasattr(spec.config, "checkpoint") else None
        return (self.workspace.root / named) if named else self.workspace.root / CHECKPOINTS / identity.key()

    def _identity(self, spec: Spec, parents: Mapping[str, Artifact], seed: int) -> Identity:
        config = {**spec.identity(), "seed": seed}
        return stage_identity("train", spec.parts(), config, parents)

    def _parents(self, spec: Spec, model: Artifact, dataset: Artifact) -> dict[str, Artifact]:
        """What the result depends on: the model and the rows it is trained on, and the models its trainer asks for."""
        wanted = spec.component.inputs(spec.config).items()
        return {"model": model, "dataset": dataset, **{role: self.models.fetch(source) for role, source in wanted}}

    def _rows(self, spec: Spec, model: Artifact, dataset: Artifact) -> Artifact:
        """The rows of a step: those of the recipe, or its own."""
        section = getattr(spec.config, "data", None)
        return self.data.validate(section, model) if section else dataset

    def _whole(self, model: Artifact, seed: int) -> Artifact:
        """An adapter is folded into its base before the next step trains on top of it."""
        if model.kind != "adapter":
            return model
        merge = default_spec("pass", "merge_adapter")
        base = self.workspace.store.get(model.parents["model"])
        step = registry.get("pass", "merge_adapter")(merge.config)

        def make(out: Path) -> Mapping[str, Any]:
            facts: Mapping[str, Any] = step.apply(model, {"model": base}, out, StepContext(seed, self.workspace.bus))
            return facts

        inputs = {"source": model, "model": base}
        config = {**merge.identity(), "seed": seed}
        return self.workspace.stage(
            "optimize", "merge for the next step", merge.parts(), config, inputs, "model", make, lambda: base.size
        )


def _here(spec: Spec, model: Artifact, dataset: Artifact, out: Path, context: StepContext) -> Mapping[str, Any]:
    found: Mapping[str, Any] = spec.build().train(model, dataset, out, context)
    return found


def _further(parents: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs beside the model and the rows."""
    return {role: parent for role, parent in parents.items() if role not in ("model", "dataset")}


def _readable(identity: Identity) -> dict[str, Any]:
    """What two runs must agree in to share checkpoints, in words that a person can compare."""
    return {
        **_further(identity.parents),
        "train": identity.config,
        "rows": identity.parents["dataset"],
        "code": identity.code,
        "versions": identity.versions,
    }
