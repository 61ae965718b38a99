"""Runs chains of optimization passes: `OptimizationService(workspace).variant("int4", chain, trained, seed)`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from components.core.artifacts import MANIFEST, Artifact
from components.core.chains import chain_problems
from components.core.condition import numbers
from components.core.errors import ConfigError, MissingExtraError, PostmillError, StepNotBegun
from components.core.events import PassFinished, PassStarted
from components.core.kinds import service
from components.core.machine import free_memory, human_bytes
from components.core.recipe import Spec
from components.core.search import Variants
from components.interfaces import Pass, StepContext, Subject
from components.services.model import ModelService
from components.services.optimized import Step, specs
from components.services.optional import optional
from components.services.workspace import Workspace, stage_identity
from components.training.checkpoints import CHECKPOINTS, forget

STAGE = "optimize"


def effects_on(artifact: Artifact) -> frozenset[str]:
    """What earlier passes did to it that a later one may mind."""
    return frozenset(artifact.meta.get("effects", ()))


def figures_of(artifact: Artifact) -> dict[str, float]:
    """The numbers that the pass recorded which made it; none of what no pass has made."""
    return dict(numbers(artifact.meta)) if artifact.stage == STAGE else {}


def parameters_of(artifact: Artifact) -> int:
    """Number of weights, counted by who made it; else what its bytes are in float32."""
    return int(artifact.meta.get("parameters") or artifact.size // 4)


@service("optimization")
class OptimizationService:
    """Applies passes, one artifact each; chains that begin alike share the work."""

    def __init__(self, workspace: Workspace, models: ModelService | None = None) -> None:
        self.workspace, self.models = workspace, models or ModelService(workspace)

    def require(self, variants: Variants, base: Artifact) -> None:
        """Packages and memory that all chains and a search will need, asked for before any work begins."""
        missing = list(variants.missing_packages())
        if missing:
            raise MissingExtraError("; ".join(missing))
        parameters, there = self._parameters(base), free_memory()
        for name, chain in variants.all_chains().items():
            for spec in filter(lambda each: each.enabled, chain):
                limits = spec.when.below if spec.when else {}  # what is above them it never meets
                needed = spec.build().estimated_memory(int(min(parameters, limits.get("parameters", parameters))))
                if needed > there:
                    raise PostmillError(
                        f"optimize.{name}: pass '{spec.type}' needs about {human_bytes(needed)} of memory for this "
                        f"model, {human_bytes(there)} are free; close other programs, or take a smaller model"
                    )

    def variant(
        self, name: str, chain: Sequence[Spec], source: Artifact, seed: int, dataset: Artifact | None = None
    ) -> Artifact:
        """The artifact at the end of the chain. Raises StepSkipped if a pass fails that is not required, and with it
        its variant; one that is switched off, or whose condition is not met, is passed over.

        `dataset`: validated rows, for passes that calibrate or heal.
        """
        return self._each(name, chain, source, seed, dataset)[-1]

    def _each(
        self, name: str, chain: Sequence[Spec], source: Artifact, seed: int, dataset: Artifact | None
    ) -> list[Artifact]:
        """The source, and what every pass that ran made of it."""
        made, figures, over = [source], figures_of(source), list[str]()
        for spec in chain:
            label = f"{name}/{spec.type}"
            unmet = self._unmet(label, spec, made[-1], figures, over)
            over += [spec.type] if unmet else []
            with suppress(StepNotBegun), optional(spec, self.workspace.bus, STAGE, label, unmet):
                made.append(self._apply(name, spec, made[-1], seed, dataset))
                figures |= figures_of(made[-1])
        return made

    def named(
        self,
        steps: Sequence[Step],
        source: Artifact,
        seed: int = 17,
        dataset: Artifact | None = None,
    ) -> Artifact:
        """The artifact after these passes, by name or as in a recipe; one that is unknown, unfit or fails raises."""
        return self.each_of(steps, source, seed, dataset)[-1]

    def each_of(
        self, steps: Sequence[Step], source: Artifact, seed: int = 17, dataset: Artifact | None = None
    ) -> list[Artifact]:
        """As `named`: the source, and what every pass that ran made of it, in order."""
        chain = specs(steps)
        name = "+".join(spec.type for spec in chain)
        found = chain_problems(chain, source.kind, effects_on(source), figures_of(source))
        problems = [text for _, text in found]
        problems += [
            f"pass '{spec.type}' needs rows to calibrate or heal with; give a dataset"
            for spec in chain
            if dataset is None and spec.enabled and spec.component.needs_rows(spec.config)
        ]
        if problems:
            raise ConfigError(problems)
        self.require(Variants({name: chain}), source)
        return self._each(name, chain, source, seed, dataset)

    def subjects(self, artifacts: Mapping[str, Artifact]) -> list[Subject]:
        """What benchmarks measure: each artifact with what opens it, and with what every pass before it made."""
        return [
            Subject(name=name, artifact=artifact, parents=self.parents(artifact), passes=self._passes(artifact))
            for name, artifact in artifacts.items()
        ]

    def _passes(self, artifact: Artifact) -> list[Subject]:
        """As far back as the store holds them: a DVC cache brings the end of a chain alone."""
        found: list[Subject] = []
        here: Artifact | None = artifact
        while here is not None and here.stage == STAGE:
            name = str(here.read_json(MANIFEST)["identity"]["config"]["type"])
            found.insert(0, Subject(name=name, artifact=here, parents=self.parents(here)))
            here = self.workspace.store.find(here.parents["source"].stage, here.parents["source"].key)
        return found

    def parents(self, artifact: Artifact) -> dict[str, Artifact]:
        """The inputs of an artifact that are needed to open it (an adapter's base model)."""
        if artifact.kind != "adapter":
            return {}
        return {"model": self.workspace.store.get(artifact.parents["model"])}

    def _parameters(self, source: Artifact) -> int:
        """Of an adapter, those of its base too."""
        return sum(parameters_of(artifact) for artifact in (source, *self.parents(source).values()))

    def _unmet(
        self, label: str, spec: Spec, source: Artifact, figures: Mapping[str, float], over: Sequence[str]
    ) -> str:
        """Why the condition of the pass is not met; empty if it is, or if there is none. `over`: passes before it that
        were passed over, and recorded nothing."""
        if spec.when is None or not spec.enabled:
            return ""
        of_artifact: dict[str, float] = {"bytes": source.size, "parameters": self._parameters(source)}
        known = of_artifact | {name: value for name, value in figures.items() if name not in of_artifact}
        problem = spec.when.unknown(known)
        if problem and over:
            return f"its condition ('when') is not met: the pass {problem}, and {', '.join(over)} did not run"
        if problem:
            raise ConfigError(f"{STAGE}.{label}: the pass {problem}")
        return spec.when.unmet(known)

    def _apply(self, name: str, spec: Spec, source: Artifact, seed: int, dataset: Artifact | None) -> Artifact:
        inputs = self.parents(source)
        rows = dataset if spec.component.needs_rows(spec.config) else None
        step: Pass = spec.build()
        parameters = self._parameters(source)
        further = {role: self.models.fetch(wanted) for role, wanted in spec.component.inputs(spec.config).items()}
        parents = {"source": source, **inputs, **further, **({"dataset": rows} if rows else {})}
        identity = stage_identity(STAGE, spec.parts(), {**spec.identity(), "seed": seed}, parents)
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
            STAGE,
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
