"""The flow that promotes a version once a person has looked at its evidence and said yes.

    prefect deployment run 'promote/with-approval' -p version='"4"'

The run shows the evidence and pauses. "Resume" in Prefect's UI asks for the decision, its reason and a name; all three
are written down with the promotion.
"""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.states import Completed
from pydantic import Field

from components.core.errors import RegistryServiceError
from components.services.application import Application
from components.services.evidence import REPORT
from components.services.model_registry import ModelRegistryService, RegisteredModel
from components.services.promotion import PromotionService
from flows.claims import claimed
from flows.environment import be_quiet
from flows.retrain import JSON_RESULTS
from flows.session import session
from tasks.steps import errors_without_secrets

DAY_S = 24 * 3600
POLL_S = 5


class Approval(RunInput):
    """What the one who decides fills in."""

    approve: bool = Field(description="Promote this version?")
    reason: str = Field("", description="Why, or why not; kept with the promotion", max_length=1000)
    who: str = Field(description="Your name; kept with the promotion", min_length=1, max_length=200)


@flow(name="promote", flow_run_name="promote {model}/{version} to {to}", **JSON_RESULTS)
def promote_with_approval(
    model: str,
    version: str = "staging",
    to: str = "production",
    wait_days: Annotated[float, Field(gt=0, le=90)] = 3.0,
) -> State[str]:
    """Show the evidence of a version, wait for a person's approval, then promote it.

    Ends in the state "Rejected" if the answer is no. Fails if the alias was moved by somebody else in the meantime.

    Args:
        model: Registered model, for example triage
        version: Version, or an alias that it has: 4, or staging
        to: Stage or alias to promote it to
        wait_days: Days until no answer ends the run
    """
    be_quiet()
    with errors_without_secrets(), session() as application, claimed(application.workspace.root, f"{model}@{to}"):
        candidate, before = _look(application, model, version, to)
        said = pause_flow_run(
            wait_for_input=Approval.with_initial_data(description=_question(candidate, before, to)),
            timeout=int(wait_days * DAY_S),
            poll_interval=POLL_S,
        )
        if not said.approve:
            reason = f"{said.who}: {said.reason or 'no reason given'}"
            return Completed(name="Rejected", message=f"{model}/{candidate.version} was not promoted. {reason}")
        _promote(application, candidate, before, to, said)
        return Completed(message=f"{model}@{to} is now version {candidate.version}, approved by {said.who}")


def _look(application: Application, model: str, version: str, to: str) -> tuple[RegisteredModel, str]:
    """The candidate with proven evidence, shown as an artifact, and the version that the alias is at now."""
    with application.container() as services:
        registry = services.get(ModelRegistryService)
        candidate = registry.resolve(f"{model}/{version}" if version.isdigit() else f"{model}@{version}")
        registry.require_evidence(candidate)
        before = _holder(registry, model, to)
    report = (candidate.evidence / REPORT).read_text(encoding="utf-8")
    create_markdown_artifact(markdown=f"{_question(candidate, before, to)}\n\n{report}", key="promotion-evidence")
    return candidate, before


def _promote(application: Application, candidate: RegisteredModel, before: str, to: str, said: Approval) -> None:
    with application.open_sinks(), application.container() as services:
        now = _holder(services.get(ModelRegistryService), candidate.name, to)
        if now != before:
            raise RegistryServiceError(
                f"{candidate.name}@{to} was at version {before or '(none)'} when this was asked and is at "
                f"{now or '(none)'} now; what was approved is not what would happen: start the promotion again"
            )
        promotion = services.get(PromotionService)
        promotion.promote(candidate.name, candidate.version, to, by=said.who, why=said.reason)


def _holder(registry: ModelRegistryService, model: str, alias: str) -> str:
    """The version an alias is at, empty if none."""
    entries = registry.versions_of(model)
    return next((entry.version for entry in entries if alias in entry.aliases), "")


def _question(candidate: RegisteredModel, before: str, to: str) -> str:
    now = f"which is at version {before} now" if before else "which no version has yet"
    variant, size = candidate.tags.get("postmill.variant", "?"), candidate.artifact.size / 1e6
    return f"Promote **{candidate.name} version {candidate.version}** ({variant}, {size:,.0f} MB) to **{to}**, {now}?"
