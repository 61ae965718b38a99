"""Runs chains of optimization passes: `OptimizationService(workspace).variant("int4", chain, trained, seed)`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from components.core.artifacts import Artifact
from components.core.chains import chain_problems, missing_packages
from components.core.component import StrictConfig
from components.core.config import validation_problems
from components.core.errors import ConfigError, MissingExtraError, PostmillError, StepSkipped
from components.core.events import PassFinished, PassStarted
from components.core.kinds import service
from components.core.machine import free_memory, human_bytes
from components.core.recipe import OfKind, Spec
from components.interfaces import Pass, StepContext
from components.services.model import ModelService
from components.services.optional import optional
from components.services.workspace import Workspace, stage_identity
from components.training.checkpoints import CHECKPOINTS, forget


def _left_out(spec: Spec) -> suppress:
    """A pass that is switched off is passed over; one that failed takes its variant with it."""
    return suppress(*([] if spec.enabled else [StepSkipped]))


class _Chain(StrictConfig):
    steps: Annotated[list[Annotated[Spec, OfKind("pass")]], Field(min_length=1)]


def _parsed(steps: Sequence[str | Mapping[str, Any] | Spec]) -> list[Spec]:
    try:
        return _Chain.model_validate({"steps": [{"type": s} if isinstance(s, str) else s for s in steps]}).steps
    except ValidationError as error:
        problems = validation_problems(error, _Chain)
        raise ConfigError([f"{'.'.join(map(str, at))}: {text}" for at, text in problems]) from error


def effects_on(artifact: Artifact) -> frozenset[str]:
    """What earlier passes did to it that a later one may mind."""
    return frozenset(artifact.meta.get("effects", ()))


def parameters_of(artifact: Artifact) -> int:
    """Number of weights, counted by who made it; else what its bytes are in float32."""
    return int(artifact.meta.get("parameters") or artifact.size // 4)


@service("optimization")
class OptimizationService:
    """Applies passes, one artifact each; chains that begin alike share the work."""

    def __init__(self, workspace: Workspace, models: ModelService | None = None) -> None:
        self.workspace, self.models = workspace, models or ModelService(workspace)

    def require(self, chains: Mapping[str, Sequence[Spec]], base: Artifact) -> None:
        """Packages and memory that the chains will need, asked for before any work begins."""
        missing = list(missing_packages(chains))
        if missing:
            raise MissingExtraError("; ".join(missing))
        parameters, there = parameters_of(base), free_memory()
        for name, chain in chains.items():
            for spec in chain:
                needed = spec.build().estimated_memory(parameters) if spec.enabled else 0
                if needed > there:
                    raise PostmillError(
                        f"optimize.{name}: pass '{spec.type}' needs about {human_bytes(needed)} of memory for this "
                        f"model, {human_bytes(there)} are free; close other programs, or take a smaller model"
                    )

    def variant(
        self, name: str, chain: Sequence[Spec], source: Artifact, seed: int, dataset: Artifact | None = None
    ) -> Artifact:
        """The artifact at the end of the chain. Raises StepSkipped if a pass fails that is not required.

        `dataset`: validated rows, for passes that calibrate or heal.
        """
        for spec in chain:
            with _left_out(spec), optional(spec, self.workspace.bus, "optimize", f"{name}/{spec.type}"):
                source = self._apply(name, spec, source, seed, dataset)
        return source

    def named(
        self,
        steps: Sequence[str | Mapping[str, Any] | Spec],
        source: Artifact,
        seed: int = 17,
        dataset: Artifact | None = None,
    ) -> Artifact:
        """The artifact after these passes, by name or as in a recipe; one that is unknown, unfit or fails raises."""
        chain = _parsed(steps)
        name = "+".join(spec.type for spec in chain)
        problems = [text for _, text in chain_problems(chain, source.kind, effects_on(source))]
        problems += [
            f"pass '{spec.type}' needs rows to calibrate or heal with; give a dataset"
            for spec in chain
            if dataset is None and spec.enabled and spec.component.needs_rows(spec.config)
        ]
        if problems:
            raise ConfigError(problems)
        self.require({name: chain}, source)
        return self.variant(name, chain, source, seed, dataset)

    def parents(self, artifact: Artifact) -> dict[str, Artifact]:
        """The inputs of an artifact that are needed to open it (an adapter's base model)."""
        if artifact.kind != "adapter":
            return {}
        return {"model": self.workspace.store.get(artifact.parents["model"])}

    def _apply(self, name: str, spec: Spec, source: Artifact, seed: int, dataset: Artifact | None) -> Artifact:
        inputs = self.parents(source)
        rows = dataset if spec.component.needs_rows(spec.config) else None
        step: Pass = spec.build()
        parameters = sum(parameters_of(artifact) for artifact in (source, *inputs.values()))
        further = {role: self.models.fetch(wanted) for role, wanted in spec.component.inputs(spec.config).items()}
        parents = {"source": source, **inputs, **further, **({"dataset": rows} if rows else {})}
        identity = stage_identity("optimize", spec.parts(), {**spec.identity(), "seed": seed}, parents)
        scratch = self.workspace.root / CHECKPOINTS / identity.key()

        def make(out: Path) -> Mapping[str, Any]:
            bus, started = self.workspace.bus, time.perf_counter()
            bus.emit(PassStarted(variant=name, type=spec.type))
            known = identity.model_dump()
            facts = step.apply(source, inputs, out, StepContext(seed, bus, scratch, known, further, rows))
            size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
            seconds = round(time.perf_counter() - started, 2)
            effects = sorted(effects_on(source) | spec.component.effects(spec.config))
            measured = {"bytes_before": source.size, "bytes_after": size, "seconds": seconds}
            facts = {"parameters": parameters, **facts, "effects": effects} | measured
            bus.emit(PassFinished(variant=name, type=spec.type, figures=facts))
            return facts

        made = self.workspace.stage(
            "optimize",
            f"{name}/{spec.type}",
            spec.parts(),
            identity.config,
            parents,
            spec.component.produces,
            make,
            lambda: step.estimated_bytes(parameters),
        )
        forget(scratch)
        return made
