"""The steps of the pipeline as Prefect tasks: each calls one service and returns a reference into the store.

Caching across runs belongs to the store. Prefect persists the references (JSON) for resuming one run:
`prefect flow-run retry`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from prefect import task

from components.core.artifacts import Artifact
from components.core.recipe import Recipe, Spec
from components.interfaces import Subject
from components.services.benchmarking import BenchmarkService
from components.services.data import DataService
from components.services.judging import JudgingService
from components.services.model import ModelService
from components.services.optimization import OptimizationService
from components.services.training import TrainingService
from components.services.workspace import current

step: Callable[..., Any] = partial(task, persist_result=True, result_serializer="json")


@step(name="validate data")
def validate(recipe: Recipe) -> Artifact:
    """Rows that passed the contract."""
    return DataService(current()).validate(recipe.data)


@step(name="fetch model", retries=2, retry_delay_seconds=[2, 10], retry_condition_fn=lambda _t, _r, s: _is_network(s))
def fetch_model(recipe: Recipe) -> Artifact:
    """The base model."""
    return ModelService(current()).fetch(recipe.model)


@step(name="train")
def train(recipe: Recipe, base: Artifact, dataset: Artifact) -> Artifact:
    """The trained model or adapter."""
    return TrainingService(current()).train(recipe.train, base, dataset, recipe.seed)


@step(name="optimize", task_run_name="optimize {name}")
def optimize(recipe: Recipe, name: str, trained: Artifact) -> Artifact:
    """One variant of the trained model."""
    return OptimizationService(current()).variant(name, recipe.optimize[name], trained, recipe.seed)


@step(name="benchmark", task_run_name="benchmark {spec.type}")
def benchmark(recipe: Recipe, spec: Spec, subjects: list[Subject], dataset: Artifact) -> list[Artifact]:
    """One benchmark on all subjects."""
    return BenchmarkService(current()).measure([spec], subjects, dataset, recipe.seed)


@step(name="judge")
def judge(recipe: Recipe, measured: list[Artifact]) -> Artifact:
    """The verdict of the gates."""
    return JudgingService(current()).judge(recipe, measured)


def _is_network(state: Any) -> bool:
    """Retry what may pass by itself, never a mistake in the recipe."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, ConnectionError | TimeoutError)
