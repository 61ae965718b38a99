"""A recipe of the quickstart's task, run as far as its scores: which variants keep what training brought.

task = Task(bench, "prune_depth.yaml")
task.variants["shallow"].path, task.score("shallow") / task.score("trained")
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from benchmarks._training_bench import Bench
from components.core.artifacts import Artifact
from components.core.recipe import load_recipe
from components.services.benchmarking import BenchmarkService, scoreboard
from components.services.data import DataService
from components.services.model import ModelService
from components.services.optimization import OptimizationService
from components.services.training import TrainingService
from components.services.workspace import Workspace

ROOT = "task"
METRIC = "exact_match"


class Task:
    """The models of one recipe below `configs/`, and their scores; recipes that begin alike share what they made."""

    def __init__(self, bench: Bench, recipe: str) -> None:
        self.recipe = load_recipe(Path("configs") / recipe)
        self.workspace = Workspace(bench.folder / ROOT)
        print(f"{recipe}: {', '.join(self.recipe.optimize)}", flush=True)

    @cached_property
    def base(self) -> Artifact:
        return ModelService(self.workspace).fetch(self.recipe.model)

    @cached_property
    def rows(self) -> Artifact:
        return DataService(self.workspace).validate(self.recipe.data, self.base)

    @cached_property
    def trained(self) -> Artifact:
        return TrainingService(self.workspace).train(self.recipe.train, self.base, self.rows, self.recipe.seed)

    @cached_property
    def variants(self) -> dict[str, Artifact]:
        """By name, the artifact at the end of each chain."""
        service = OptimizationService(self.workspace)
        chains = self.recipe.optimize
        return {n: service.variant(n, chains[n], self.trained, self.recipe.seed, self.rows) for n in chains}

    @cached_property
    def figures(self) -> dict[str, dict[str, float]]:
        """What the recipe's benchmarks say of the base model, the trained one and every variant."""
        artifacts = {"base": self.base, "trained": self.trained, **self.variants}
        subjects = OptimizationService(self.workspace).subjects(artifacts)
        specs = [spec for spec in self.recipe.benchmark if spec.type != "latency"]  # speeds are taken in turns
        measured = BenchmarkService(self.workspace).measure(specs, subjects, self.rows, self.recipe.seed)
        board = scoreboard(measured)
        return {name: board.metrics(name) for name in board.subjects()}

    def score(self, name: str) -> float:
        return self.figures[name][METRIC]

    def kept(self, name: str) -> float:
        """Share of what training brought (variant less base over trained less base)."""
        base = self.score("base")
        return (self.score(name) - base) / (self.score("trained") - base)
