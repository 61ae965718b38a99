"""What a run costs: the seconds of its stages, at the price of the machine.

    # postmill.yaml
    cost: {per_hour: 0.50, currency: EUR}

Every stage is in the tracker as `cost/<stage>` when it ends, and the run so far as `cost/total`; the evidence has
`cost.json` and a table in its report. A stage that is found in the store costs nothing. One that failed costs what it
used. Stages that run at the same time on one machine share it: the total counts that time once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Self

from components.core.artifacts import write_json
from components.core.events import (
    BenchmarkMeasured,
    Event,
    MetricLogged,
    StageCached,
    StageFailed,
    StageFinished,
    StageStarted,
    TrainingFinished,
)
from components.core.kinds import service
from components.core.search import TRIAL
from components.core.settings import Settings
from components.services.evidence import REPORT
from components.services.workspace import Workspace

COST = "cost.json"
HOUR = 3600
THOUSAND = 1000


@dataclass(frozen=True)
class Used:
    """A stage and the time that it had a machine for, in seconds since the epoch."""

    stage: str
    machine: str
    begin: float
    end: float
    failed: bool = False

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@service("cost", lifetime="scoped")
class CostService:
    """Listens while a run goes on and says what it costs; without a price it does nothing."""

    def __init__(self, workspace: Workspace, settings: Settings) -> None:
        self.bus, self.price = workspace.bus, settings.cost
        self.used: list[Used] = []
        self.cached = 0
        self._since: dict[tuple[str, str], float] = {}
        self._trained = 0.0
        self._per_1k: dict[str, dict[str, float]] = {"trained": {}, "generated": {}}
        self._lock = Lock()  # stages end on several threads
        self._off: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        handlers: dict[type[Event], Callable[[Any], None]] = {
            StageStarted: self._on_started,
            StageFinished: self._on_finished,
            StageFailed: self._on_failed,
            StageCached: self._on_cached,
            TrainingFinished: self._on_trained,
            BenchmarkMeasured: self._on_measured,
        }
        self._off = [self.bus.on(event, handler) for event, handler in handlers.items()] if self.price else []
        return self

    def __exit__(self, *exc: object) -> None:
        for off in self._off:
            off()

    def report(self) -> dict[str, Any] | None:
        """What the run cost so far, as plain data; None without a price, or if there was nothing to pay for."""
        if self.price is None or not (self.used or self.cached):
            return None
        with self._lock:
            used, seconds = list(self.used), device_seconds(self.used)
        stages = [
            {"stage": each.stage, "machine": each.machine, "seconds": round(each.seconds, 3), "failed": each.failed}
            | {"cost": self._cost(each.seconds)}
            for each in used
        ]
        return {
            **self.price.model_dump(),
            "device_seconds": round(seconds, 3),
            "total": self._cost(seconds),
            "stages": stages,
            "from_the_store": self.cached,
            "per_1k_tokens": self._per_1k,
        }

    def _cost(self, seconds: float) -> float:
        assert self.price is not None
        return seconds * self.price.per_hour / HOUR

    # ------------------------------------------------------------ what happens

    def _on_started(self, event: StageStarted) -> None:
        self._since[event.stage, event.name] = event.time

    def _on_finished(self, event: StageFinished) -> None:
        if event.stage == "train" and self._trained:
            self._tell_per_1k("trained", event.name, self._cost(event.seconds) * THOUSAND / self._trained)
            self._trained = 0.0
        self._add(Used(_label(event), event.machine, event.time - event.seconds, event.time))

    def _on_failed(self, event: StageFailed) -> None:
        begin = self._since.get((event.stage, event.name), event.time)
        self._add(Used(_label(event), event.machine, begin, event.time, failed=True))

    def _on_cached(self, event: StageCached) -> None:
        self.cached += 1

    def _on_trained(self, event: TrainingFinished) -> None:
        tokens = event.figures.get("tokens")
        self._trained = float(tokens) if isinstance(tokens, int | float) else 0.0

    def _on_measured(self, event: BenchmarkMeasured) -> None:
        speed = event.metrics.get("tokens_per_s")
        if speed and event.subject != TRIAL:
            self._tell_per_1k("generated", event.subject, self._cost(THOUSAND / speed))

    def _add(self, used: Used) -> None:
        with self._lock:
            self.used.append(used)
            number, total = len(self.used), self._cost(device_seconds(self.used))
        name = used.stage.replace(" ", ".").replace("/", ".")  # as the seconds of the stage are called
        self.bus.emit(MetricLogged(values={f"cost/{name}": self._cost(used.seconds), "cost/total": total}, step=number))

    def _tell_per_1k(self, kind: str, name: str, cost: float) -> None:
        self._per_1k[kind][name] = cost
        self.bus.emit(MetricLogged(values={f"cost/per_1k_{kind}/{name}": cost}))


def _label(event: StageFinished | StageFailed) -> str:
    return f"{event.stage} {event.name}"


def device_seconds(used: Iterable[Used]) -> float:
    """Seconds for which machines were busy; stages that ran at the same time on one machine count once."""
    busy = 0.0
    until: dict[str, float] = {}
    for each in sorted(used, key=lambda stage: stage.begin):
        before = until.get(each.machine, -math.inf)
        busy += max(0.0, each.end - max(each.begin, before))
        until[each.machine] = max(each.end, before)
    return busy


def money(value: float, currency: str) -> str:
    """`12.50 EUR`; of small amounts two digits that say something: `0.0023 EUR`."""
    digits = max(2, 1 - math.floor(math.log10(value))) if value > 0 else 2
    return f"{value:,.{digits}f} {currency}"


def cost_line(found: Mapping[str, Any]) -> str:
    """The sum in one sentence, for the end of a run."""
    price, cached = money(found["per_hour"], found["currency"]), found["from_the_store"]
    stored = f"; {cached} stage{'s' * (cached != 1)} from the store cost nothing" if cached else ""
    total = money(found["total"], found["currency"])
    return f"cost: {total} for {found['device_seconds']:,.0f} s of a machine at {price} an hour{stored}"


def add_cost(folder: Path, found: Mapping[str, Any]) -> None:
    """Put what a run cost into its evidence: `cost.json`, and a section of the report."""
    write_json(folder / COST, dict(found))
    with (folder / REPORT).open("a", encoding="utf-8") as page:
        page.write(f"\n{cost_markdown(found)}")


def cost_markdown(found: Mapping[str, Any]) -> str:
    """The section `## cost` of a report: the sum, every stage, and what a thousand tokens cost."""
    currency, sentence = found["currency"], cost_line(found).removeprefix("cost: ")
    lines = ["## cost", "", f"{sentence}.", ""]
    if found["stages"]:
        lines += ["| stage | seconds | cost |", "| --- | --- | --- |"]
        lines += [
            f"| {_cell(each['stage'])}{' (failed)' * each['failed']} | {each['seconds']:,.1f} "
            f"| {money(each['cost'], currency)} |"
            for each in found["stages"]
        ]
        lines += [""]
    for kind, costs in found["per_1k_tokens"].items():
        lines += [f"- a thousand tokens {kind}, {_cell(name)}: {money(cost, currency)}" for name, cost in costs.items()]
    return "\n".join(lines).rstrip("\n") + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
