"""Training after pruning, by whatever trainer a recipe names: `heal: {type: distillation, max_steps: 200}`.

    figures = heal(spec, source, pruned, out, context)

The trainer sees the pruned directory as a model like any other; a teacher that it does not name is the unpruned model.
Adapters are folded into the pruned weights afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from components.core.artifacts import Artifact, hash_directory, hash_json
from components.core.errors import ConfigError, TrainingError
from components.core.kinds import registry
from components.core.recipe import Spec, default_spec
from components.interfaces import StepContext

KEEP_ZEROS = "keep_zeros"


def healing_problem(spec: Spec) -> str | None:
    """Why a trainer cannot heal; None if it can."""
    if not spec.component.continues:
        return f"trainer '{spec.type}' begins with weights of its own, so nothing would be left of the pruned ones"
    if (kind := spec.component.produces_kind(spec.config)) not in ("model", "adapter"):
        return f"trainer '{spec.type}' makes a {kind}, no language model"
    if getattr(spec.config, "data", None):
        return "data: a pass heals on the rows of the recipe; take it out"
    if hasattr(spec.config, "launcher") and spec.config.launcher.world > 1:
        return "launcher: a pass heals in one process; take it out"
    if hasattr(spec.config, "checkpoint") and spec.config.checkpoint.folder:
        return "checkpoint.folder: a pass has a folder of its own for checkpoints; take it out"
    return None


def checked(spec: Spec | None) -> Spec | None:
    """The spec, if it can heal; a ConfigError otherwise."""
    if spec is not None and (problem := healing_problem(spec)):
        raise ConfigError(problem)
    return spec


def loose_artifact(path: Path, meta: Mapping[str, Any]) -> Artifact:
    """A model directory that is in no store, as trainers take models."""
    digest = hash_json(hash_directory(path))
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Artifact(
        path=path, kind="model", stage="loose", key=digest[:32], digest=digest, parents={}, meta=dict(meta), size=size
    )


def heal(
    spec: Spec, source: Artifact, pruned: Path, out: Path, context: StepContext, sparse: bool = False
) -> dict[str, Any]:
    """Train the model in `pruned` on the rows of the context and write it to `out`; returns the trainer's figures.

    `sparse`: weights that are zero stay zero.
    """
    if context.dataset is None:
        raise TrainingError(f"heal ({spec.type}) trains on rows, and was given no data set")
    model = loose_artifact(pruned, {"name": source.meta.get("name", "")})
    further = {"teacher": source, **context.inputs}
    inner = replace(context, inputs=further, identity={**context.identity, "pruned": model.digest})
    trainer = (_keeping_zeros(spec) if sparse else spec).build()
    if spec.component.produces_kind(spec.config) == "model":
        return dict(trainer.train(model, context.dataset, out, inner))
    with TemporaryDirectory(prefix="postmill-heal-") as folder:
        figures = dict(trainer.train(model, context.dataset, Path(folder), inner))
        adapter = loose_artifact(Path(folder), {}).model_copy(update={"kind": "adapter"})
        registry.create("pass", "merge_adapter").apply(adapter, {"model": model}, out, inner)
    return figures


def _keeping_zeros(spec: Spec) -> Spec:
    callbacks = [*getattr(spec.config, "callbacks", []), default_spec("callback", KEEP_ZEROS)]
    return spec.model_copy(update={"config": spec.config.model_copy(update={"callbacks": callbacks})})
