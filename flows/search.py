"""The search inside of the pipeline: ask for some chains, try them at the same time, tell, and ask again.

Chains are asked for in batches, so that what a trial is compared with does not hang on which thread was faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from components.core.artifacts import Artifact
from components.core.recipe import Recipe
from components.interfaces import Subject
from components.services.application import current
from components.services.search import SearchService, variants
from components.services.trials import Trial
from tasks.search import attempt, report


@dataclass(frozen=True)
class Found:
    """Winners by the name of their variant, and the report; both empty without a search."""

    variants: dict[str, Artifact] = field(default_factory=dict)
    report: Artifact | None = None


def search(plan: Recipe, subjects: list[Subject], dataset: Artifact, known: Mapping[str, Artifact]) -> Found:
    """Search for variants of the last subject, other ones than those that are `known`."""
    asked = plan.optimize.search
    if asked is None:
        return Found()
    service, trials = current().get(SearchService), list[Trial]()
    study = service.study(asked, plan.seed)
    while batch := study.batch():
        running = [attempt.task.submit(plan, trial, subjects, dataset, list(trials)) for trial in batch]  # type: ignore[attr-defined]
        for future in running:
            trial = future.result()
            study.tell(trial)
            service.tell(trial)
            trials.append(trial)
    there = {artifact.digest for artifact in known.values()}
    fresh = {name: artifact for name, artifact in variants(asked, trials).items() if artifact.digest not in there}
    return Found(fresh, report(plan, trials, subjects[-1].artifact))
