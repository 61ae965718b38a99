"""The whole story: validated data -> training -> compression -> benchmark -> gate -> registry.

postmill run configs/quickstart.yaml
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from prefect import flow

from components.core.recipe import parse_recipe
from components.interfaces import Subject
from components.services.optimization import OptimizationService
from components.services.tracking import RunTracking
from components.services.workspace import Workspace, current, default_root, use
from tasks.register import Outcome, record, register
from tasks.steps import benchmark, fetch_model, judge, optimize, train, validate


@flow(name="pipeline", flow_run_name="{recipe[name]}", persist_result=True, result_serializer="json")
def pipeline(recipe: dict[str, Any]) -> Outcome:
    """Run a recipe (as plain data) from rows to a registered model."""
    plan = parse_recipe(recipe)
    with _workspace() as workspace, RunTracking(workspace, plan) as run:
        dataset = validate(plan)
        base = fetch_model(plan)
        trained = train(plan, base, dataset)
        variants = {name: optimize(plan, name, trained) for name in plan.optimize}

        parents = OptimizationService(workspace).parents(trained)
        subjects = [Subject(name="base", artifact=base), Subject(name="trained", artifact=trained, parents=parents)]
        subjects += [Subject(name=name, artifact=artifact) for name, artifact in variants.items()]

        measured = [artifact for spec in plan.benchmark for artifact in benchmark(plan, spec, subjects, dataset)]
        verdict = judge(plan, measured)
        record(plan, dataset, measured, verdict)
        outcome: Outcome = register(plan, run.run_id, subjects, dataset, measured, verdict)
        return outcome


def _workspace() -> Any:
    """The caller's workspace (the CLI has put its progress display on its bus), or one of our own."""
    try:
        return nullcontext(current())
    except LookupError:
        return use(Workspace(default_root()))
