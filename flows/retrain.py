"""Flows for deployments: a recipe run again, or only its data checked, with a form of typed parameters in Prefect's UI.

    postmill schedule                                                     # serves what prefect.yaml says
    prefect deployment run 'retrain/weekly' -p 'overrides=["train.0.max_steps=10"]'

`postmill run` needs no deployment. `retrain` calls the pipeline as a plain function, so its tasks belong to this flow
run: a flow inside of a flow costs a second and shows as two runs. What stands under "Args" of a flow is what the form
says beside each field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow
from pydantic import FilePath

from components.core.artifacts import Artifact
from components.core.errors import GateNotPassed
from components.core.recipe import Recipe
from components.services.application import Application
from components.services.recording import Outcome
from flows.claims import claimed
from flows.environment import be_quiet
from flows.pipeline import pipeline
from flows.session import read, session
from tasks.steps import errors_without_secrets, fetch_model, validate

JSON_RESULTS: dict[str, Any] = {"persist_result": True, "result_serializer": "json"}


@contextmanager
def opened(
    recipe: Path, overrides: Sequence[str] = (), environments: Sequence[str] = (), allow_dirty: bool = False
) -> Iterator[tuple[Application, Recipe]]:
    """The application and the recipe of a deployed run; what it raises tells no secret."""
    be_quiet()
    given = [*overrides, *(["data.allow_dirty=true"] if allow_dirty else [])]
    with errors_without_secrets(), session(given, recipe=True) as application:
        plan, _ = read(application, recipe, given, environments)
        application.check(plan)
        yield application, plan


@flow(name="retrain", flow_run_name="retrain {recipe}", **JSON_RESULTS)
def retrain(
    recipe: FilePath,
    overrides: list[str] = [],  # noqa: B006  shown in the form, changed by nobody
    environments: list[str] = [],  # noqa: B006
    allow_dirty: bool = False,
) -> Outcome:
    """Run a recipe: train, optimize, benchmark, judge, and register what the gates accept.

    Fails if nothing is accepted, so that somebody hears of it; the model that is served stays.

    Args:
        recipe: Recipe, for example configs/quickstart.yaml
        overrides: Keys of the recipe to override, as --set takes them: train.0.max_steps=10
        environments: Overlays, environments/NAME.yaml beside the recipe
        allow_dirty: Go on though data changed since it was locked; it is recorded
    """
    with opened(recipe, overrides, environments, allow_dirty) as (_, plan):
        outcome: Outcome = pipeline.fn(plan.dump())
        if plan.judged and outcome.chosen is None:
            raise GateNotPassed(f"no variant of {plan.name} passed the gate; nothing was registered, see the report")
        return outcome


@flow(name="check-data", flow_run_name="check data of {recipe}", **JSON_RESULTS)
def check_data(
    recipe: FilePath,
    overrides: list[str] = [],  # noqa: B006
    environments: list[str] = [],  # noqa: B006
    allow_dirty: bool = False,
) -> dict[str, Any]:
    """Check the rows of a recipe against its data contract, and train nothing; gives the counts by split.

    Args:
        recipe: Recipe, for example configs/quickstart.yaml
        overrides: Keys of the recipe to override, as --set takes them: train.0.max_steps=10
        environments: Overlays, environments/NAME.yaml beside the recipe
        allow_dirty: Go on though data changed since it was locked; it is recorded
    """
    with opened(recipe, overrides, environments, allow_dirty) as (application, plan):
        with claimed(application.workspace.root, f"data of {plan.name}"), application.run(plan):
            dataset: Artifact = validate(plan, fetch_model(plan))
        return {name: dataset.meta[name] for name in ("rows", "quarantined", "rules")}
