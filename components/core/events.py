"""Typed events on one bus: stages and trainers publish; the display, the trackers and the journal subscribe.

An event is a frozen record; its class says what it carries. A handler that fails never breaks the code that emitted:
the failure is logged, kept in `bus.failures`, and announced as `HandlerFailed`.

    bus = EventBus()
    off = bus.on(TrainStep, lambda event: print(event.loss))    # also: bus.once(...), bus.on_any(...)
    bus.emit(TrainStep(step=3, total=10, loss=0.41))
    off()

A plugin's own event is a frozen dataclass too: docs/extending.md. Handlers hear the class they subscribed to, not its
subclasses; `on_any` hears everything. In which order handlers of one event are called is not fixed.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from threading import Lock
from typing import Any, ClassVar, TypeVar

from blinker import Namespace

log = logging.getLogger(__name__)
KEPT_FAILURES = 100
ANY = "*"


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened, and when (seconds since the epoch)."""

    topic: ClassVar[str] = ANY
    time: float = field(default_factory=time.time)

    def __init_subclass__(cls, topic: str = "", **rest: Any) -> None:
        super().__init_subclass__(**rest)
        topic = topic or cls.__dict__.get("topic", "")  # dataclass(slots=True) makes the class a second time
        if not topic or topic == ANY:
            raise TypeError(f"{cls.__qualname__}: give the event its topic: class {cls.__name__}(Event, topic='a.b')")
        taken = [other for other in Event.__subclasses__() if other.__dict__.get("topic") == topic]
        if any(other.__qualname__ != cls.__qualname__ for other in taken):
            raise TypeError(f"{cls.__qualname__}: the topic '{topic}' belongs to {taken[0].__qualname__}")
        cls.topic = topic

    @property
    def data(self) -> dict[str, Any]:
        """What the event carries, without the time."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "time"}


# ---------------------------------------------------------------- a run and its stages


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event, topic="run.started"):
    """A pipeline run begins."""

    recipe: str
    run_id: str
    digest: str
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event, topic="run.finished"):
    """A pipeline run ended, well or not."""

    recipe: str
    run_id: str
    status: str
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class StageStarted(Event, topic="stage.started"):
    """A stage begins real work."""

    stage: str
    name: str


@dataclass(frozen=True, kw_only=True)
class StageCached(Event, topic="stage.cached"):
    """A stage found its artifact in the store and does nothing."""

    stage: str
    name: str
    key: str


@dataclass(frozen=True, kw_only=True)
class StageProgress(Event, topic="stage.progress"):
    """A long stage moved on."""

    stage: str
    name: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class StageFinished(Event, topic="stage.finished"):
    """A stage committed its artifact (`size` in bytes).

    What it cost: memory in bytes, `cpu` the share of all cores of the `machine`.
    """

    stage: str
    name: str
    key: str
    size: int
    seconds: float = 0.0
    peak_memory: int = 0
    peak_gpu_memory: int = 0
    cpu: float = 0.0
    machine: str = ""


@dataclass(frozen=True, kw_only=True)
class StageFailed(Event, topic="stage.failed"):
    """A stage raised; nothing of it is in the store."""

    stage: str
    name: str
    error: str
    machine: str = ""


@dataclass(frozen=True, kw_only=True)
class StageSkipped(Event, topic="stage.skipped"):
    """A stage that the recipe does not require was left out, and why."""

    stage: str
    name: str
    reason: str


# ---------------------------------------------------------------- data, training, optimization


@dataclass(frozen=True, kw_only=True)
class DataValidated(Event, topic="data.validated"):
    """Rows were checked: counts by split, broken rules, digest of the content."""

    rows: Mapping[str, int]
    quarantined: Mapping[str, int]
    rules: Mapping[str, int] = field(default_factory=dict)
    content: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataChanged(Event, topic="data.changed"):
    """Files are not what the recipe's lock says, and the run goes on because it was told to."""

    files: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class DataDrifted(Event, topic="data.drifted"):
    """New rows are not like those that a registered model was trained on: which features moved, and by how much."""

    model: str
    version: str
    source: str
    features: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class TrainingStarted(Event, topic="training.started"):
    """A trainer begins."""

    trainer: str


@dataclass(frozen=True, kw_only=True)
class TrainStep(Event, topic="training.step"):
    """One optimizer step. `figures` holds whatever else the trainer measures (grad_norm, learning_rate)."""

    step: int
    total: int
    loss: float
    tokens_per_s: float = 0.0
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EpochFinished(Event, topic="training.epoch"):
    """One pass over the training rows ended."""

    epoch: float
    step: int


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved(Event, topic="checkpoint.saved"):
    """Everything needed to go on from this step was committed, `size` bytes.

    The last one is the result itself: its directory is the stage's own and moves into the store when the stage ends.
    """

    path: str
    step: int
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class CheckpointLoaded(Event, topic="checkpoint.loaded"):
    """Training goes on from a checkpoint instead of from the beginning."""

    path: str
    step: int


@dataclass(frozen=True, kw_only=True)
class SpeedChosen(Event, topic="training.speed"):
    """How the model is trained on this machine (threads, dtype, ...), and tokens/s of everything that was tried."""

    choice: Mapping[str, Any]
    tried: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class TrainingAdapted(Event, topic="training.adapted"):
    """Memory ran out at a step and training goes on in another way that gives the same updates."""

    step: int
    reason: str
    action: str


@dataclass(frozen=True, kw_only=True)
class TrainingEvaluated(Event, topic="training.evaluated"):
    """Figures on rows that are not trained on, in the middle of training."""

    step: int
    figures: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class SampleGenerated(Event, topic="training.sample"):
    """What the model in training answers to a prompt of the eval split."""

    step: int
    prompt: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class TrainingFinished(Event, topic="training.finished"):
    """Training ended: figures of the whole run."""

    trainer: str
    figures: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class PassStarted(Event, topic="pass.started"):
    """An optimization pass begins on a variant."""

    variant: str
    type: str


@dataclass(frozen=True, kw_only=True)
class PassFinished(Event, topic="pass.finished"):
    """An optimization pass ended: what it measured, sizes in bytes."""

    variant: str
    type: str
    figures: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class MetricLogged(Event, topic="metric.logged"):
    """Figures that a component or plugin wants in the tracker."""

    values: Mapping[str, float]
    step: int = 0


# ---------------------------------------------------------------- measuring, judging, registering


@dataclass(frozen=True, kw_only=True)
class ModelLoaded(Event, topic="model.loaded"):
    """A backend opened a model."""

    subject: str
    kind: str
    backend: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrialFinished(Event, topic="search.trial"):
    """A trial of a search ended: `finished`, `pruned` or `failed` (with the reason); figures as far as measured."""

    number: int
    state: str
    reason: str
    chain: Sequence[Mapping[str, Any]]
    figures: Mapping[str, float]
    artifact: str = ""


@dataclass(frozen=True, kw_only=True)
class BenchmarkStarted(Event, topic="benchmark.started"):
    """A benchmark begins on its subjects."""

    benchmark: str
    subjects: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class BenchmarkMeasured(Event, topic="benchmark.measured"):
    """A benchmark's figures for one subject, fresh or from the store."""

    benchmark: str
    subject: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class GateJudged(Event, topic="gate.judged"):
    """The gates decided: which variants are accepted, which one is chosen."""

    accepted: tuple[str, ...]
    chosen: str | None


@dataclass(frozen=True, kw_only=True)
class EvidenceWritten(Event, topic="evidence.written"):
    """The evidence folder of a run is complete."""

    folder: str
    chosen: str | None


@dataclass(frozen=True, kw_only=True)
class ModelRegistered(Event, topic="registry.registered"):
    """A model version exists in the registry."""

    model: str
    version: str
    alias: str
    new: bool


@dataclass(frozen=True, kw_only=True)
class AliasMoved(Event, topic="registry.alias_moved"):
    """An alias of a registered model points at another version (`before` is empty if it is new)."""

    model: str
    alias: str
    version: str
    before: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelRegressed(Event, topic="registry.regressed"):
    """A registered model does worse now than the evidence of its registration says: the metrics, and by how much."""

    model: str
    version: str
    losses: Mapping[str, float]


# ---------------------------------------------------------------- the framework itself


@dataclass(frozen=True, kw_only=True)
class ComponentMoved(Event, topic="component.moved"):
    """A managed component changed its state."""

    id: str
    before: str
    after: str
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class PluginLoaded(Event, topic="plugin.loaded"):
    """A plugin registered what it brings."""

    plugin: str
    version: str
    provides: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PluginRefused(Event, topic="plugin.refused"):
    """A plugin was skipped or failed, and why; the others go on."""

    plugin: str
    status: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class PluginUnloaded(Event, topic="plugin.unloaded"):
    """Everything that a plugin had registered is gone."""

    plugin: str


@dataclass(frozen=True, kw_only=True)
class ConfigChanged(Event, topic="config.changed"):
    """A watched configuration changed and was taken over: dotted key -> (old, new)."""

    changes: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True, kw_only=True)
class ConfigRejected(Event, topic="config.rejected"):
    """A watched configuration became invalid; the old one stays in force."""

    problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class HandlerFailed(Event, topic="error.handler"):
    """A handler raised while an event was delivered; everybody else got the event."""

    handler: str
    on: str
    error: str


E = TypeVar("E", bound=Event)
Handler = Callable[[Any], object]


class EventBus:
    """A small facade over blinker signals; handlers are kept alive and isolated from each other.

    A bus with a `parent` passes on to it what it was told: one bus a run, so that two runs do not hear each other,
    below the one of the process, which hears both.
    """

    def __init__(self, parent: EventBus | None = None) -> None:
        self.parent = parent
        self._signals = Namespace()
        self.failures: deque[tuple[Event, Exception]] = deque(maxlen=KEPT_FAILURES)

    def on(self, event: type[E], handler: Callable[[E], object]) -> Callable[[], None]:
        """Call `handler` for every event of this class. Returns a function that undoes this."""
        return self._connect(event.topic, handler)

    def on_any(self, handler: Callable[[Event], object]) -> Callable[[], None]:
        """Call `handler` for every event, after the handlers of its own class."""
        return self.on(Event, handler)

    def once(self, event: type[E], handler: Callable[[E], object]) -> Callable[[], None]:
        """Call `handler` for the next event of this class only."""

        waiting = Lock()

        def first(occurred: E) -> None:
            if waiting.acquire(blocking=False):  # never given back: two threads may emit at the same time
                off()
                handler(occurred)

        off = self.on(event, first)
        return off

    def emit(self, event: Event) -> None:
        """Tell every handler of the event's class, then every handler of all events, then the parent."""
        self._signals.signal(event.topic).send(self, event=event)
        self._signals.signal(ANY).send(self, event=event)
        if self.parent is not None:
            self.parent.emit(event)

    def _connect(self, topic: str, handler: Handler) -> Callable[[], None]:
        signal = self._signals.signal(topic)

        def receive(_sender: object, event: Event) -> None:
            try:
                handler(event)
            except Exception as error:
                self._report(handler, event, error)

        # weak=False: blinker would drop closures and lambdas at once
        signal.connect(receive, weak=False)
        return lambda: signal.disconnect(receive)

    def _report(self, handler: Handler, event: Event, error: Exception) -> None:
        self.failures.append((event, error))
        name = getattr(handler, "__qualname__", repr(handler))
        log.warning("handler %s failed on event %s: %s", name, event.topic, error, exc_info=error)
        if not isinstance(event, HandlerFailed):  # a handler that fails on failures would never end
            self.emit(HandlerFailed(handler=name, on=event.topic, error=f"{type(error).__name__}: {error}"))


def catalogue() -> list[type[Event]]:
    """Every event that Postmill itself emits, in the order of this file; the documentation is made from it."""
    return [cls for cls in Event.__subclasses__() if cls.__module__ == __name__]
