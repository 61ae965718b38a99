"""Runs chains of optimization passes: `OptimizationService(workspace).variant("int4", chain, trained, seed)`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.config import validation_problems
from components.core.errors import ConfigError, StepSkipped
from components.core.events import PassFinished, PassStarted
from components.core.kinds import service
from components.core.recipe import OfKind, Spec
from components.interfaces import Pass, StepContext
from components.services.optional import optional
from components.services.workspace import Workspace


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


@service("optimization")
class OptimizationService:
    """Applies passes, one artifact each; chains that begin alike share the work."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def variant(self, name: str, chain: Sequence[Spec], source: Artifact, seed: int) -> Artifact:
        """The artifact at the end of the chain. Raises StepSkipped if a pass fails that is not required."""
        for spec in chain:
            with _left_out(spec), optional(spec, self.workspace.bus, "optimize", f"{name}/{spec.type}"):
                source = self._apply(name, spec, source, seed)
        return source

    def named(self, steps: Sequence[str | Mapping[str, Any] | Spec], source: Artifact, seed: int = 17) -> Artifact:
        """The artifact after these passes, by name or as in a recipe; one that is unknown, unfit or fails raises."""
        chain, kind = _parsed(steps), source.kind
        for spec in chain:
            if kind not in spec.component.consumes:
                raise ConfigError(f"pass '{spec.type}' takes {' or '.join(spec.component.consumes)}, found {kind}")
            kind = spec.component.produces
        return self.variant("+".join(spec.type for spec in chain), chain, source, seed)

    def parents(self, artifact: Artifact) -> dict[str, Artifact]:
        """The inputs of an artifact that are needed to open it (an adapter's base model)."""
        if artifact.kind != "adapter":
            return {}
        return {"model": self.workspace.store.get(artifact.parents["model"])}

    def _apply(self, name: str, spec: Spec, source: Artifact, seed: int) -> Artifact:
        inputs = self.parents(source)
        step: Pass = spec.build()
        parameters = sum(artifact.size for artifact in (source, *inputs.values())) // 4

        def make(out: Path) -> Mapping[str, Any]:
            bus, started = self.workspace.bus, time.perf_counter()
            bus.emit(PassStarted(variant=name, type=spec.type))
            facts = step.apply(source, inputs, out, StepContext(seed, bus))
            size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
            seconds = round(time.perf_counter() - started, 2)
            facts = {**facts, "bytes_before": source.size, "bytes_after": size, "seconds": seconds}
            bus.emit(PassFinished(variant=name, type=spec.type, figures=facts))
            return facts

        return self.workspace.stage(
            "optimize",
            f"{name}/{spec.type}",
            spec.parts(),
            {**spec.identity(), "seed": seed},
            {"source": source, **inputs},
            spec.component.produces,
            make,
            lambda: step.estimated_bytes(parameters),
        )
