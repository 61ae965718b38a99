"""What looks after models that are served, as Prefect tasks: measured again, and new rows compared with old ones."""

from __future__ import annotations

from components.core.artifacts import Artifact
from components.core.recipe import DataSection, Recipe
from components.services.application import current
from components.services.data import DataService
from components.services.drift import Drift, DriftService, Limits
from components.services.production import Checkup, ProductionService, Tolerance
from tasks.steps import step


@step(name="measure again", task_run_name="measure {reference} again")
def checkup(recipe: Recipe, reference: str, dataset: Artifact, tolerance: Tolerance) -> Checkup:
    """A registered version on the recipe's benchmarks, beside the figures of its registration."""
    service = current().get(ProductionService)
    return service.checkup(reference, recipe.benchmark, dataset, recipe.seed, tolerance)


@step(name="check drift", task_run_name="compare {source} with the rows of {reference}")
def drift(reference: str, section: DataSection, base: Artifact, limits: Limits, source: str) -> Drift:
    """New rows beside those that a registered version was trained on."""
    fresh = current().get(DataService).validate(section, base)
    return current().get(DriftService).check(reference, fresh, limits, source)
