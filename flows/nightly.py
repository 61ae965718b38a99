"""The flow that measures the served model every night: is it still as good and as fast as when it was registered?

    prefect deployment run 'nightly-benchmark/production'

Losses end the run in the state "Failed" with the figures in its message, and are told as `postmill.registry.regressed`.
"""

from __future__ import annotations

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import FilePath

from components.services.evidence import show
from components.services.production import Change, Checkup, Tolerance
from flows.claims import claimed
from flows.retrain import JSON_RESULTS, opened
from tasks.steps import fetch_model, validate
from tasks.watch import checkup

HOUR_S = 3600


@flow(name="nightly-benchmark", flow_run_name="benchmark {model}", timeout_seconds=6 * HOUR_S, **JSON_RESULTS)
def nightly_benchmark(
    recipe: FilePath,
    model: str,
    tolerance: Tolerance = Tolerance(),  # noqa: B008  frozen
    overrides: list[str] = [],  # noqa: B006
    environments: list[str] = [],  # noqa: B006
) -> State[Checkup]:
    """Measure a registered model on the recipe's benchmarks and rows, and compare with its registration.

    Waits up to an hour for a run of the same recipe, which would slow it down.

    Args:
        recipe: Recipe, for example configs/quickstart.yaml
        model: Registered model to measure, MODEL@alias or MODEL/version
        tolerance: How much worse than registered is no news
        overrides: Keys of the recipe to override, as --set takes them: train.0.max_steps=10
        environments: Overlays, environments/NAME.yaml beside the recipe
    """
    with opened(recipe, overrides, environments) as (application, plan):
        with claimed(application.workspace.root, plan.name, HOUR_S), application.run(plan):
            found: Checkup = checkup(plan, model, validate(plan, fetch_model(plan)), tolerance)
        _tell(found, model)
        if found.losses:
            return Failed(message=f"{model} is worse than registered: {'; '.join(map(said, found.losses))}", data=found)
        return Completed(message=f"{model} is as good as registered", data=found)


def said(change: Change) -> str:
    """`exact_match 91.0% -> 84.0%`"""
    return f"{change.metric.name} {show(change.metric, change.before)} -> {show(change.metric, change.now)}"


def _tell(found: Checkup, model: str) -> None:
    rows = [
        {
            "metric": change.metric.title,
            "registered": show(change.metric, change.before),
            "now": show(change.metric, change.now),
            "worse by": f"{change.worse:.1%}",
            "allowed": f"{change.allowed:.1%}",
            "": "LOST" if change.lost else "",
        }
        for change in found.changes
    ]
    left_out = f"; left out, as they compare with other models: {', '.join(found.left_out)}" if found.left_out else ""
    create_table_artifact(
        table=rows,
        key="nightly-benchmark",
        description=f"{found.model} version {found.version}, asked as {model}{left_out}",
    )
