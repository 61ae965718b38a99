"""What a stage of `dvc.yaml` works with, and which stages a recipe has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core.artifacts import Artifact
from components.core.errors import ConfigError
from components.core.recipe import Recipe
from components.core.search import SEARCH
from components.interfaces import Subject
from components.services.optimization import OptimizationService
from components.services.outputs import Made

OPTIMIZE = "optimize@"
"""DVC's name of the stage of a variant, with the variant behind it."""
SEARCHED = f"{OPTIMIZE}{SEARCH}"


@dataclass(frozen=True)
class Step:
    """What a stage works with: the recipe, the services of its run, what earlier stages made, and where figures go."""

    name: str
    plan: Recipe
    run: Any
    inputs: dict[str, Made]
    folder: Path

    @property
    def base(self) -> Artifact:
        return self.inputs["data"].artifacts["base"]

    @property
    def dataset(self) -> Artifact:
        """With what changed since the recipe was locked, which a manifest does not know."""
        made = self.inputs["data"]
        found = made.artifacts["dataset"]
        return found.model_copy(update={"meta": {**found.meta, "changed": made.facts["changed"]}})

    @property
    def trained(self) -> Artifact:
        return self.inputs["train"].artifacts["trained"]

    @property
    def measured(self) -> list[Artifact]:
        return list(self.inputs["benchmark"].artifacts.values()) if "benchmark" in self.inputs else []

    @property
    def verdict(self) -> Artifact | None:
        return self.inputs["judge"].artifacts["verdict"] if "judge" in self.inputs else None

    @property
    def search(self) -> Artifact | None:
        """The report of a search."""
        return self.inputs.get(SEARCHED, Made({})).artifacts.get(SEARCH)

    @property
    def skipped(self) -> dict[str, str]:
        """Steps of earlier stages that were left out, and why."""
        return {name: why for made in self.inputs.values() for name, why in made.facts["skipped"].items()}

    def subjects(self) -> list[Subject]:
        """Everything that is measured: base, trained, and the variants in the order of the recipe."""
        passes: OptimizationService = self.run.get(OptimizationService)
        return passes.subjects({"base": self.base, "trained": self.trained, **self._variants()})

    def _variants(self) -> dict[str, Artifact]:
        made = [self.inputs[name].artifacts for name in self.inputs if name.startswith(OPTIMIZE) and name != SEARCHED]
        found = {name: artifact for artifacts in made for name, artifact in artifacts.items()}
        there = {artifact.digest for artifact in found.values()}
        searched = self.inputs.get(SEARCHED, Made({})).artifacts
        return found | {name: a for name, a in searched.items() if name != SEARCH and a.digest not in there}


def stages(plan: Recipe) -> dict[str, list[str]]:
    """The stages of a recipe by DVC's names, each with those that it reads from; a ConfigError if DVC cannot run it."""
    if plan.has_champion:
        raise ConfigError(
            "a gate compares with the champion, a version in the registry, and DVC would not know which one that was; "
            "run this recipe with: postmill run, or compare with 'base'"
        )
    searched = [SEARCHED] if plan.optimize.search else []
    variants = [*(f"{OPTIMIZE}{name}" for name in plan.optimize), *searched]
    found = {"data": [], "train": ["data"]} | {name: ["data", "train"] for name in variants}
    last = ["data", "train", *searched]
    if plan.benchmark:
        found["benchmark"] = ["data", "train", *variants]
        last.append("benchmark")
    if plan.judged:
        found["judge"] = ["benchmark"]
        last.append("judge")
    return found | {"report": last}
