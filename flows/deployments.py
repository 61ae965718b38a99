"""The deployments of prefect.yaml, each checked against its flow, with the times of its next runs.

    plan(Path("prefect.yaml"))[0].next

The file is the one that `prefect deploy` reads, so work pools and `postmill schedule` never disagree. What is read
here: `name`, `entrypoint`, `description`, `tags`, `parameters`, `schedules` (cron, interval or rrule), `triggers`,
`paused` and `concurrency_limit`; work pools and build steps are for workers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from components.core.component import StrictConfig
from components.core.config import validation_problems
from components.core.documents import Document, load_document
from components.core.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

FILE = Path("prefect.yaml")
NEXT_RUNS = 3


class When(StrictConfig):
    """One schedule of a deployment."""

    cron: str | None = None
    interval: timedelta | None = Field(None, gt=timedelta(0), description="seconds")
    rrule: str | None = None
    timezone: str | None = None
    active: bool = True
    parameters: dict[str, Any] = {}
    slug: str | None = None

    @field_validator("cron")
    @classmethod
    def _parses(cls, cron: str | None) -> str | None:
        from prefect.client.schemas.schedules import CronSchedule

        if cron is not None:
            _named(
                lambda: CronSchedule(cron=cron), f"'{cron}' is no cron schedule; write five fields, as in '0 2 * * 0'"
            )
        return cron

    @field_validator("timezone")
    @classmethod
    def _known(cls, timezone: str | None) -> str | None:
        from zoneinfo import available_timezones

        if timezone is not None and timezone not in available_timezones():
            raise ValueError(f"unknown timezone{did_you_mean(timezone, available_timezones())}")
        return timezone

    @model_validator(mode="after")
    def _one(self) -> When:
        given = [name for name in ("cron", "interval", "rrule") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of cron, interval and rrule, found {', '.join(given) or 'none'}")
        self.schedule()
        return self

    def schedule(self) -> Any:
        """Prefect's own schedule."""
        from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

        zone = {"timezone": self.timezone} if self.timezone else {}
        if self.cron is not None:
            return CronSchedule(cron=self.cron, **zone)
        if self.interval is not None:
            return IntervalSchedule(interval=self.interval, **zone)
        return _named(lambda: RRuleSchedule(rrule=self.rrule, **zone), f"'{self.rrule}' is no recurrence rule")


class Concurrency(StrictConfig):
    """How many runs at a time, and what becomes of one too many: it waits, or is cancelled."""

    limit: PositiveInt = 1
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"] = "ENQUEUE"
    grace_period_seconds: PositiveInt | None = None


def _limit(value: Any) -> Any:
    """`1` is short for `{limit: 1}`."""
    return {"limit": value} if isinstance(value, int) else value


class Entry(BaseModel):
    """A deployment of prefect.yaml. Keys that only workers use are let pass."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)
    name: str = Field(min_length=1)
    entrypoint: str = Field(pattern=r"^[\w./-]+[.:]\w+$", description="flows.retrain.retrain, or FILE.py:FLOW")
    description: str | None = None
    tags: list[str] = []
    parameters: dict[str, Any] = {}
    schedules: list[When] = []
    paused: bool = False
    concurrency_limit: Annotated[Concurrency | None, BeforeValidator(_limit)] = None
    triggers: list[dict[str, Any]] = Field([], description="events that start it: [{expect: [postmill.data.drifted]}]")

    @field_validator("triggers")
    @classmethod
    def _fit(cls, triggers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        remedy = "write an event trigger as {expect: [postmill.data.drifted]}"
        # Prefect lets unknown keys pass, and one that expects nothing in particular is started by every event
        if any(each.get("type", "event") == "event" and not each.get("expect") for each in triggers):
            raise ValueError(remedy)
        _named(lambda: _triggers(triggers), remedy)
        return triggers


class Deployments(BaseModel):
    """The part of prefect.yaml that is read here."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    deployments: list[Entry] = Field(min_length=1)


@dataclass(frozen=True)
class Planned:
    """A deployment, its flow, and when it runs next; no times without a schedule."""

    entry: Entry
    flow: Any
    next: Sequence[datetime]

    @property
    def name(self) -> str:
        return f"{self.flow.name}/{self.entry.name}"

    def deployment(self) -> RunnerDeployment:
        """What Prefect serves."""
        from prefect.client.schemas.actions import DeploymentScheduleCreate
        from prefect.client.schemas.objects import ConcurrencyLimitConfig
        from prefect.deployments.runner import RunnerDeployment

        entry, limit = self.entry, self.entry.concurrency_limit
        schedules = [
            DeploymentScheduleCreate(
                schedule=when.schedule(), active=when.active, parameters=when.parameters, slug=when.slug
            )
            for when in entry.schedules
        ]
        return RunnerDeployment.from_entrypoint(
            entry.entrypoint,
            name=entry.name,
            description=entry.description,
            tags=entry.tags,
            parameters=entry.parameters,
            schedules=schedules,
            triggers=_triggers(entry.triggers),
            paused=entry.paused,
            concurrency_limit=ConcurrencyLimitConfig(**limit.model_dump()) if limit else None,
        )


def _triggers(plain: list[dict[str, Any]]) -> Any:
    from prefect.events import DeploymentTriggerTypes

    return TypeAdapter(list[DeploymentTriggerTypes]).validate_python([{"type": "event", **each} for each in plain])


def plan(path: Path = FILE, only: Sequence[str] = ()) -> list[Planned]:
    """The deployments of a file, each checked against its flow; a ConfigError lists every mistake with its line."""
    document = load_document(path)
    try:
        entries = Deployments.model_validate(document.data).deployments
    except ValidationError as error:
        raise ConfigError(
            [_told(document, where, text) for where, text in validation_problems(error, Deployments)]
        ) from error
    planned = [_planned(document, position, entry) for position, entry in enumerate(entries)]
    problems = [problem for found in planned if isinstance(found, list) for problem in found]
    if problems:
        raise ConfigError(problems)
    return _chosen([found for found in planned if isinstance(found, Planned)], only, path)


def _planned(document: Document, position: int, entry: Entry) -> Planned | list[str]:
    from prefect.exceptions import MissingFlowError, ScriptError
    from prefect.flows import load_flow_from_entrypoint

    at = ("deployments", position)
    try:
        flow: Any = load_flow_from_entrypoint(entry.entrypoint, use_placeholder_flow=False)
    except (MissingFlowError, ScriptError, ImportError, FileNotFoundError, ValueError) as error:
        return [_told(document, (*at, "entrypoint"), f"'{entry.entrypoint}' cannot be loaded: {error}", entry.name)]
    problems = []
    for parameters in [entry.parameters | when.parameters for when in entry.schedules] or [entry.parameters]:
        problem = _misfit(flow, parameters, starts_by_itself=bool(entry.schedules))
        problems += [_told(document, (*at, "parameters"), problem, entry.name)] if problem else []
    return list(dict.fromkeys(problems)) or Planned(entry, flow, _next_runs(entry.schedules))


def _misfit(flow: Any, parameters: dict[str, Any], starts_by_itself: bool) -> str | None:
    """Why the flow cannot run with these parameters; what a person fills in in the form may be missing."""
    from prefect.exceptions import ParameterTypeError

    known = signature(flow.fn).parameters
    unknown = [f"no parameter '{name}'{did_you_mean(name, known)}" for name in parameters if name not in known]
    every = {name: given.default for name, given in known.items() if given.default is not Parameter.empty} | parameters
    missing = [f"parameter '{name}' has no value" for name in known if name not in every]
    if unknown or (missing and starts_by_itself):
        return f"flow {flow.name}: {'; '.join([*unknown, *missing])}"
    if missing:
        return None
    logging.getLogger("prefect.flows").setLevel(logging.CRITICAL)  # would say it too, at greater length
    try:
        flow.validate_parameters(every)
    except ParameterTypeError as error:
        return " ".join(str(error).split())
    return None


def _next_runs(schedules: Sequence[When]) -> list[datetime]:
    from prefect.server.schemas import schedules as served

    async def dates() -> list[datetime]:
        found: list[datetime] = []
        for when in schedules:
            if when.active:
                plain = when.schedule()
                own = getattr(served, type(plain).__name__).model_validate(plain.model_dump())
                found += await own.get_dates(NEXT_RUNS, start=datetime.now(UTC))
        return sorted(found)[:NEXT_RUNS]

    return asyncio.run(dates())


def _chosen(planned: list[Planned], only: Sequence[str], path: Path) -> list[Planned]:
    names = [name for each in planned for name in (each.name, each.entry.name)]
    unknown = [name for name in only if name not in names]
    if unknown:
        known = ", ".join(each.name for each in planned)
        raise ConfigError(
            [f"{path}: no deployment '{name}'{did_you_mean(name, names)} (known: {known})" for name in unknown]
        )
    doubles = sorted({each.name for each in planned if [e.name for e in planned].count(each.name) > 1})
    if doubles:
        raise ConfigError([f"{path}: the deployment '{name}' stands there twice" for name in doubles])
    return [each for each in planned if not only or {each.name, each.entry.name} & set(only)]


def _told(document: Document, where: Sequence[str | int], text: str, name: str = "") -> str:
    if not name and len(where) > 1 and where[0] == "deployments":
        entry = document.data["deployments"][int(where[1])]
        name = str(entry.get("name", "")) if isinstance(entry, dict) else ""
    what = f"deployment '{name}': " if name else ""
    return f"{document.locate(where)}: {what}{'.'.join(map(str, where[2:] or where))}: {text}"


def _named(make: Any, problem: str) -> Any:
    try:
        return make()
    except ValidationError as error:
        raise ValueError(problem) from error
