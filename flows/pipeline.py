"""The whole story: validated data -> training -> compression -> benchmark -> gate -> registry.

postmill run configs/quickstart.yaml

What a recipe leaves out after training is not done; without variants that are measured there is no verdict.
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from components.core.recipe import parse_recipe
from components.services.application import application
from components.services.cost import CostService
from components.services.optimization import OptimizationService
from components.services.recording import Outcome
from components.services.runner import RunnerService
from components.services.tracking import RunTracking
from flows.claims import claimed
from flows.search import search
from tasks import events  # noqa: F401  registers the sink that tells Prefect
from tasks.each import each
from tasks.register import champion, record, register
from tasks.steps import benchmark, errors_without_secrets, fetch_model, judge, optimize, train, validate

_ANOTHER_NAME = "or give this run another name: --set name={}-2"


@flow(name="pipeline", flow_run_name="{recipe[name]}", persist_result=True, result_serializer="json")
def pipeline(recipe: dict[str, Any]) -> Outcome:
    """Run a recipe (as plain data) from rows to a registered model."""
    with errors_without_secrets(), application() as app:
        plan = parse_recipe(recipe)
        with (
            claimed(app.workspace.root, plan.name, hint=_ANOTHER_NAME.format(plan.name)) as claim,
            app.run(plan) as run,
        ):
            tracking = run.get(RunTracking)
            run.get(CostService)  # listens from here on
            run.get(RunnerService)  # a cluster that does not answer is found before any work
            claim.tracked(tracking)
            base = fetch_model(plan)
            dataset = validate(plan, base)
            trained = train(plan, base, dataset)
            given = {"recipe": plan, "dataset": dataset}
            made = each(optimize, [{**given, "name": name, "trained": trained} for name in plan.optimize])
            variants = {name: artifact for name, artifact in zip(plan.optimize, made, strict=True) if artifact}

            passes = run.get(OptimizationService)
            subjects = [*passes.subjects({"base": base, "trained": trained}), *champion(plan)]
            found = search(plan, subjects, dataset, variants)
            variants |= found.variants
            subjects += passes.subjects(variants)

            found_by = each(benchmark, [{**given, "spec": spec, "subjects": subjects} for spec in plan.benchmark])
            measured = [artifact for artifacts in found_by for artifact in artifacts or ()]
            verdict = judge(plan, measured, list(variants)) if plan.judged else None
            record(plan, dataset, trained, subjects, measured, verdict, tracking.notes(), found.report)
            outcome: Outcome = register(plan, subjects, dataset, measured, verdict)
            return outcome
