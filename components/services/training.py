"""Runs the training steps of a recipe, one artifact a step.

    training = TrainingService(workspace, DataService(workspace))
    trained = training.train(recipe.train, model, dataset, recipe.seed)
    training.evaluate(trained, dataset)              # {"loss": ..., "perplexity": ..., "tokens": ...}

A run that was killed goes on from its last checkpoint when the same steps are trained again; `resume` insists on it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from components.core.artifacts import Artifact, Identity
from components.core.errors import StepSkipped, TrainingError
from components.core.events import TrainingFinished, TrainingStarted
from components.core.kinds import registry, service
from components.core.recipe import Spec, default_spec
from components.interfaces import StepContext
from components.services.data import DataService
from components.services.elsewhere.launch import launch
from components.services.model import ModelService
from components.services.optional import optional
from components.services.workspace import Workspace, stage_identity
from components.training.checkpoints import CHECKPOINTS, forget, nearest

MEETING = ("address", "port", "machine_rank")
SHARED_S = 60.0
"""Seconds that other machines wait for the first one to commit what all of them trained."""


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
        return self._each(steps, model, dataset, seed, anew=True)

    def resume(self, steps: Sequence[Spec], model: Artifact, dataset: Artifact, seed: int) -> Artifact:
        """Like `train`, for a run that was killed: a TrainingError if there is no checkpoint of it to go on from."""
        return self._each(steps, model, dataset, seed, anew=False)

    def evaluate(self, model: Artifact, dataset: Artifact, split: str = "eval") -> dict[str, float]:
        """Loss and perplexity of a model or adapter on the trained tokens of a split."""
        from components.training.evaluation import evaluate

        base = self.workspace.store.get(model.parents["model"]) if model.kind == "adapter" else None
        return evaluate(model, base, dataset, split)

    # ------------------------------------------------------------ one step

    def _each(self, steps: Sequence[Spec], model: Artifact, dataset: Artifact, seed: int, anew: bool) -> Artifact:
        base = model
        for spec in steps:
            with suppress(StepSkipped), optional(spec, self.workspace.bus, "train", spec.type):
                whole, rows = self._whole(model, seed), self._rows(spec, base, dataset)
                anew = anew or self._goes_on(spec, whole, rows, seed)
                model = self._step(spec, whole, rows, seed)
        return model

    def _goes_on(self, spec: Spec, model: Artifact, dataset: Artifact, seed: int) -> bool:
        """Whether the step was killed, so that later ones begin; False if it is done. A TrainingError otherwise."""
        identity = self._identity(spec, self._parents(spec, model, dataset), seed)
        if self.workspace.store.find("train", identity.key()) is not None:
            return False
        place = self.checkpoints(spec, identity)
        if any(place.glob("step-*")):
            return True
        known = {**_readable(identity), "model": model.digest}
        near = nearest(self.workspace.root / CHECKPOINTS, known)
        raise TrainingError(f"there is no checkpoint of train step '{spec.type}' to go on from; train it anew{near}")

    def _step(self, spec: Spec, model: Artifact, dataset: Artifact, seed: int) -> Artifact:
        parents = self._parents(spec, model, dataset)
        identity = self._identity(spec, parents, seed)
        scratch, trained_here = self.checkpoints(spec, identity), False
        if _launcher(spec) and spec.config.launcher.machine_rank:
            return self._help_out(spec, parents, identity, seed)

        def make(out: Path) -> Mapping[str, Any]:
            nonlocal trained_here
            bus, trained_here = self.workspace.bus, True
            bus.emit(TrainingStarted(trainer=spec.type))
            known = {**_readable(identity), "model": model.digest}
            context = StepContext(seed, bus, scratch, known, _further(parents))
            run = launch if _launcher(spec) else _here
            facts = dict(run(spec, model, dataset, out, context))
            bus.emit(TrainingFinished(trainer=spec.type, figures=facts))
            return {"trainer": spec.type, **facts}

        kind = spec.component.produces_kind(spec.config)
        trained = self.workspace.stage(
            "train", spec.type, spec.parts(), identity.config, parents, kind, make, lambda: model.size
        )
        if trained_here:  # the result is in the store; what another run keeps there is its own
            forget(scratch)
        return trained

    def _help_out(self, spec: Spec, parents: Mapping[str, Artifact], identity: Identity, seed: int) -> Artifact:
        """The part of a machine that is not the first: train with the others, then find what the first one saved."""
        known = {**_readable(identity), "model": parents["model"].digest}
        context = StepContext(seed, self.workspace.bus, self.checkpoints(spec, identity), known, _further(parents))
        with TemporaryDirectory(prefix="postmill-") as folder:
            launch(spec, parents["model"], parents["dataset"], Path(folder), context)
        waited_until = time.monotonic() + SHARED_S
        while (found := self.workspace.store.find("train", identity.key())) is None:
            if time.monotonic() > waited_until:
                raise TrainingError(
                    "the first machine saved the result in its own store; let all machines share one workspace root "
                    "(POSTMILL_ROOT on a network disk)"
                )
            time.sleep(0.5)
        return found

    def checkpoints(self, spec: Spec, identity: Identity) -> Path:
        """Where the checkpoints of a step are: the folder that the recipe names, or one for these very inputs."""
        named = spec.config.checkpoint.folder if hasattr(spec.config, "checkpoint") else None
        return (self.workspace.root / named) if named else self.workspace.root / CHECKPOINTS / identity.key()

    def _identity(self, spec: Spec, parents: Mapping[str, Artifact], seed: int) -> Identity:
        config = {**spec.identity(), "seed": seed}
        if "launcher" in config:  # where the machines find each other does not shape the result
            config["launcher"] = {k: v for k, v in config["launcher"].items() if k not in MEETING}
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


def _launcher(spec: Spec) -> bool:
    """Whether the step is trained in processes of its own."""
    return hasattr(spec.config, "launcher") and spec.config.launcher.world > 1


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
