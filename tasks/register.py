"""Attach the evidence to the run and, if a variant was accepted, put it into the model registry."""

from __future__ import annotations

from components.core.artifacts import Artifact
from components.core.recipe import Recipe
from components.interfaces import Subject
from components.services.application import current
from components.services.recording import Outcome, RecordingService
from tasks.steps import step


@step(name="find champion", task_run_name="find champion of {recipe.name}")
def _champion(recipe: Recipe) -> Subject | None:
    return current().get(RecordingService).champion(recipe)


def champion(recipe: Recipe) -> list[Subject]:
    """The version in production, where a gate compares with it and there is one."""
    found = _champion(recipe) if recipe.has_champion else None
    return [found] if found else []


@step(name="record evidence", task_run_name="record evidence of {recipe.name}")
def record(
    recipe: Recipe,
    dataset: Artifact,
    trained: Artifact,
    subjects: list[Subject],
    measured: list[Artifact],
    verdict: Artifact | None,
    skipped: dict[str, str],
    search: Artifact | None = None,
) -> None:
    """Everything the verdict rests on, and the page of the run."""
    service = current().get(RecordingService)
    service.record(recipe, dataset, trained, subjects, measured, verdict, skipped, search)


@step(name="register", task_run_name="register {recipe.name}")
def register(
    recipe: Recipe, subjects: list[Subject], dataset: Artifact, measured: list[Artifact], verdict: Artifact | None
) -> Outcome:
    """The chosen variant as a registered version."""
    return current().get(RecordingService).register(recipe, subjects, dataset, measured, verdict)
