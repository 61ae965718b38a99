"""The steps of a search as Prefect tasks: a trial, which runs beside others, and the report of all."""

from __future__ import annotations

from components.core.artifacts import Artifact
from components.core.recipe import Recipe
from components.core.search import Search
from components.interfaces import Subject
from components.services.application import current
from components.services.runner import RunnerService
from components.services.search import SearchService
from components.services.trials import Trial
from tasks.steps import step


def _search(recipe: Recipe) -> Search:
    assert recipe.optimize.search is not None
    return recipe.optimize.search


@step(name="trial", task_run_name="trial {trial.number}")
def attempt(recipe: Recipe, trial: Trial, subjects: list[Subject], dataset: Artifact, finished: list[Trial]) -> Trial:
    """One chain of the search: made, and measured unless it leads nowhere."""
    return current().get(RunnerService).trial(recipe, trial, subjects, dataset, finished)


@step(name="report search", task_run_name="report search of {recipe.name}")
def report(recipe: Recipe, trials: list[Trial], trained: Artifact) -> Artifact:
    """The Pareto front as table, picture and page."""
    return current().get(SearchService).report(_search(recipe), trials, trained)
