"""The steps of the pipeline as Prefect tasks: each asks the run for one service, calls it, and returns a reference.

Caching across runs belongs to the store. Prefect persists the references (JSON) for resuming one run:
`prefect flow-run retry`. A step that is left out ends in the state "Skipped" with its reason, and returns None.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from prefect import task
from prefect.client.schemas.objects import State
from prefect.states import Completed

from components.core.artifacts import Artifact
from components.core.errors import PostmillError, StepSkipped
from components.core.recipe import Recipe, Spec
from components.core.secret import masked
from components.interfaces import Subject
from components.services.application import current
from components.services.data import DataService
from components.services.judging import JudgingService
from components.services.model import ModelService
from components.services.optimization import OptimizationService
from components.services.runner import RunnerService
from components.services.training import TrainingService

F = Callable[..., Any]
RETRIED = (ConnectionError, TimeoutError)
STORED: dict[str, Any] = {"persist_result": True, "result_serializer": "json"}


def without_secrets(error: Exception) -> Exception:
    """What Prefect may keep: the error itself, or a masked one if it, or what led to it, tells a secret."""
    said = "".join([repr(error), *traceback.format_exception(error)])
    if masked(said) == said:
        return error
    kind = ConnectionError if isinstance(error, RETRIED) else PostmillError
    return kind(masked(f"{type(error).__name__}: {error}"))


@contextmanager
def errors_without_secrets() -> Iterator[None]:
    """What escapes from here is what Prefect may keep."""
    try:
        yield
    except StepSkipped:
        raise
    except Exception as error:
        kept = without_secrets(error)
        if kept is error:
            raise
        raise kept from None


def step(**options: Any) -> Callable[[F], F]:
    """A Prefect task with results as JSON, for which being skipped is a good end."""

    def decorate(function: F) -> F:
        @wraps(function)
        def body(*args: Any, **kwargs: Any) -> Any:
            try:
                with errors_without_secrets():
                    return function(*args, **kwargs)
            except StepSkipped as reason:
                return Completed(name="Skipped", message=masked(str(reason)))

        prefect_task = task(**STORED, **options)(body)

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = prefect_task(*args, **kwargs)
            return None if isinstance(result, State) else result

        call.task = prefect_task  # type: ignore[attr-defined]
        return call

    return decorate


@step(name="validate data", task_run_name="validate data of {recipe.name}")
def validate(recipe: Recipe, base: Artifact) -> Artifact:
    """Rows that passed the contract, as tokens of the base model."""
    service = current().get(DataService)
    dataset = service.validate(recipe.data, base)
    service.require(recipe, dataset, base)
    current().get(OptimizationService).require(recipe.optimize, base)
    return dataset


@step(
    name="fetch model",
    task_run_name="fetch model of {recipe.name}",
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_jitter_factor=0.3,
    retry_condition_fn=lambda _t, _r, s: _is_network(s),
)
def fetch_model(recipe: Recipe) -> Artifact:
    """The base model."""
    return current().get(ModelService).fetch(recipe.model)


@step(name="train", task_run_name="train {recipe.name}")
def train(recipe: Recipe, base: Artifact, dataset: Artifact) -> Artifact:
    """The trained model or adapter."""
    return current().get(TrainingService).train(recipe.train, base, dataset, recipe.seed)


@step(name="optimize", task_run_name="optimize {name}")
def optimize(recipe: Recipe, name: str, trained: Artifact, dataset: Artifact) -> Artifact:
    """One variant of the trained model; None if it is skipped."""
    return current().get(RunnerService).variant(recipe, name, trained, dataset)


@step(name="benchmark", task_run_name="benchmark {spec.type}")
def benchmark(recipe: Recipe, spec: Spec, subjects: list[Subject], dataset: Artifact) -> list[Artifact]:
    """One benchmark on all subjects; None if it is skipped."""
    return current().get(RunnerService).benchmark(recipe, spec, subjects, dataset)


@step(name="judge", task_run_name="judge {recipe.name}")
def judge(recipe: Recipe, measured: list[Artifact], variants: list[str]) -> Artifact:
    """The verdict of the gates."""
    return current().get(JudgingService).judge(recipe, measured, variants)


def _is_network(state: Any) -> bool:
    """Retry what may pass by itself, never a mistake in the recipe."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, RETRIED)
