"""How long every stage of a run took, what was the bottleneck, and what could not have been done at the same time.

    with Stopwatch(bus) as watch:
        ...                                  # the run
    write_json(folder / TIMINGS, watch.plain())

The journal of a run holds the same events, so the times of a run that is over are read from there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from components.core.events import Event, EventBus, StageCached, StageFailed, StageFinished, StageSkipped, StageStarted
from components.services.provenance.graph import Graph

TIMINGS = "timings.json"
Outcome = Literal["done", "reused", "failed", "skipped"]
OUTCOMES: Mapping[str, Outcome] = {
    StageFinished.topic: "done",
    StageCached.topic: "reused",
    StageFailed.topic: "failed",
    StageSkipped.topic: "skipped",
}


class Timing(BaseModel):
    """A stage of a run. `end` in seconds since the epoch, memory in bytes, `cpu` as the share of all cores."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    stage: str
    name: str
    outcome: Outcome
    end: float
    seconds: float = 0.0
    key: str = ""
    size: int = 0
    peak_memory: int = 0
    peak_gpu_memory: int = 0
    cpu: float = 0.0

    @property
    def title(self) -> str:
        return f"{self.stage} {self.name}"


class Stopwatch:
    """Listens to a bus, and keeps the time of every stage that ends."""

    def __init__(self, bus: EventBus) -> None:
        self.bus = bus
        self.timings: list[Timing] = []
        self._since: dict[tuple[str, str], float] = {}
        self._lock = Lock()  # stages end on several threads
        self._off: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        kinds: list[type[Event]] = [StageStarted, StageFinished, StageCached, StageFailed, StageSkipped]
        self._off = [self.bus.on(kind, self._on_event) for kind in kinds]
        return self

    def __exit__(self, *exc: object) -> None:
        for off in self._off:
            off()

    def plain(self) -> list[dict[str, Any]]:
        """What JSON can hold."""
        with self._lock:
            return [timing.model_dump() for timing in self.timings]

    def _on_event(self, event: Event) -> None:
        self.take(event.topic, event.time, event.data)

    def take(self, topic: str, time: float, data: Mapping[str, Any]) -> None:
        """An event, or a line of a journal."""
        with self._lock:
            stage = str(data.get("stage", "")), str(data.get("name", ""))
            if topic == StageStarted.topic:
                self._since[stage] = time
            elif topic in OUTCOMES:
                # a stage that failed does not say how long it took
                lasted = time - self._since[stage] if stage in self._since and topic == StageFailed.topic else 0.0
                known = {"seconds": lasted, **data, "outcome": OUTCOMES[topic], "end": time}
                self.timings.append(Timing.model_validate(known))


def last_timings(journals: Path, folder: Path) -> list[Timing] | None:
    """The times of the run that wrote this folder of evidence last, from its journal; None if no journal tells."""
    for journal in sorted(journals.glob("*.jsonl"), key=lambda file: file.stat().st_mtime, reverse=True):
        watch, wrote = Stopwatch(EventBus()), False
        for line in journal.read_text(encoding="utf-8", errors="replace").splitlines():
            entry = _entry(line)
            watch.take(entry.get("event", ""), entry.get("time", 0.0), entry)
            wrote = wrote or entry.get("folder") == str(folder.absolute())
        if wrote:
            return watch.timings
    return None


def _entry(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:  # the last line of a run that was killed
        return {}
    return entry if isinstance(entry, dict) else {}


def bottleneck(timings: Iterable[Timing]) -> Timing | None:
    """The stage that took longest; None if nothing took any time."""
    return max((timing for timing in timings if timing.seconds > 0), key=lambda timing: timing.seconds, default=None)


def critical_path(timings: Sequence[Timing], graph: Graph) -> list[Timing]:
    """The stages that had to wait for each other and together took longest: however many machines there are, the run
    takes as long as these."""
    artifacts = {place: node.id for node in graph.nodes for place in node.artifacts}
    took = {artifacts[f"{t.stage}/{t.key}"]: t for t in timings if f"{t.stage}/{t.key}" in artifacts}
    best: dict[str, list[Timing]] = {}

    def longest(node: str, below: frozenset[str]) -> list[Timing]:
        if node not in best and node not in below:
            ways = [longest(above.id, below | {node}) for _, above in graph.above(node)]
            best[node] = max(ways, key=_total, default=[]) + ([took[node]] if node in took else [])
        return best.get(node, [])

    return max((longest(node.id, frozenset()) for node in graph.nodes), key=_total, default=[])


def _total(way: Iterable[Timing]) -> float:
    return sum(timing.seconds for timing in way)
