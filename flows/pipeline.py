"""The whole story: validated data -> training -> compression -> benchmark -> gate -> registry.

postmill run configs/quickstart.yaml

What a recipe leaves out after training is not done; without variants that are measured there is no verdict.
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from components.core.recipe import parse_recipe
from components.interfaces import Subject
from components.services.application import application
from components.services.optimization import OptimizationService
from components.services.tracking import RunTracking
from flows.search import search
from tasks import events  # noqa: F401  registers the sink that tells Prefect
from tasks.register import Outcome, champion, record, register
from tasks.steps import benchmark, errors_without_secrets, fetch_model, judge, optimize, train, validate


@flow(name="pipeline", flow_run_name="{recipe[name]}", persist_result=True, result_serializer="json")
def pipeline(recipe: dict[str, Any]) -> Outcome:
    """Run a recipe (as plain data) from rows to a registered model."""
    with errors_without_secrets(), application() as app:
        plan = parse_recipe(recipe)
        with app.run(plan) as run:
            tracking = run.get(RunTracking)
            base = fetch_model(plan)
            dataset = validate(plan, base)
            trained = train(plan, base, dataset)
            made = {name: optimize(plan, name, trained, dataset) for name in plan.optimize}
            variants = {name: artifact for name, artifact in made.items() if artifact is not None}

            parents = run.get(OptimizationService).parents(trained)
            subjects = [Subject(name="base", artifact=base), Subject(name="trained", artifact=trained, parents=parents)]
            subjects += champion(plan)
            found = search(plan, subjects, dataset, variants)
            variants |= found.variants
            subjects += [Subject(name=name, artifact=artifact) for name, artifact in variants.items()]

            measured = [each for spec in plan.benchmark for each in benchmark(plan, spec, subjects, dataset) or ()]
            verdict = judge(plan, measured, list(variants)) if plan.judged else None
            record(plan, dataset, trained, subjects, measured, verdict, tracking.notes(), found.report)
            outcome: Outcome = register(plan, tracking.run_id, subjects, dataset, measured, verdict)
            return outcome
