"""The flow that compares new rows with those that the served model was trained on.

    prefect deployment run 'drift-check/incoming' -p 'data="data/incoming.jsonl"'

Rows that moved end the run in the state "Drifted" and are told as `postmill.data.drifted`, on which an automation can
start the retraining: docs/scheduling.md.
"""

from __future__ import annotations

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import FilePath

from components.core.recipe import DataSection, Recipe
from components.services.drift import Drift, Limits
from flows.claims import claimed
from flows.data.source import source_section
from flows.nightly import HOUR_S
from flows.retrain import JSON_RESULTS, opened
from tasks import watch
from tasks.steps import fetch_model


@flow(name="drift-check", flow_run_name="drift of {data}", timeout_seconds=HOUR_S, **JSON_RESULTS)
def drift_check(
    recipe: FilePath,
    data: str,
    model: str,
    limits: Limits = Limits(),  # noqa: B008  frozen
    overrides: list[str] = [],  # noqa: B006
    environments: list[str] = [],  # noqa: B006
) -> State[Drift]:
    """Compare new rows with those a registered model was trained on: lengths, values of answers, bad and repeated rows.

    The recipe says how rows are read and checked, and its model how they are tokenised.

    Args:
        recipe: Recipe, for example configs/quickstart.yaml
        data: New rows: a file, directory, glob or address
        model: Registered model whose rows they are compared with, MODEL@alias or MODEL/version
        limits: What counts as drift
        overrides: Keys of the recipe to override, as --set takes them: train.0.max_steps=10
        environments: Overlays, environments/NAME.yaml beside the recipe
    """
    with opened(recipe, overrides, environments) as (application, plan):
        with claimed(application.workspace.root, f"drift {data}"), application.run(plan):
            found: Drift = watch.drift(model, _section(plan, data), fetch_model(plan), limits, data)
        _tell(found)
        if found.drifted:
            moved = "; ".join(f"{finding.feature} ({finding.detail})" for finding in found.drifted[:5])
            return Completed(name="Drifted", message=f"{data} is not like the rows of {model}: {moved}", data=found)
        return Completed(message=f"{data} is like the rows of {model}", data=found)


def _section(plan: Recipe, data: str) -> DataSection:
    """The new rows, read and checked as the recipe's own; however many are bad, which is a finding too."""
    contract = plan.data.contract.model_copy(update={"max_bad_fraction": 1.0})
    return source_section(data).model_copy(update={"contract": contract, "format": plan.data.format})


def _tell(found: Drift) -> None:
    rows = [
        {
            "feature": finding.feature,
            "measure": finding.measure,
            "value": f"{finding.value:.3f}",
            "limit": f"{finding.limit:.3f}",
            "what": finding.detail,
            "": "MOVED" if finding.drifted else "",
        }
        for finding in found.findings
    ]
    counts = (
        f"{found.rows[1]:,} new rows beside {found.rows[0]:,} that {found.model} version {found.version} was trained on"
    )
    create_table_artifact(table=rows, key="drift-check", description=f"{found.source}: {counts}")
