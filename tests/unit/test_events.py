"""The event bus: typed events, isolated handlers."""

from __future__ import annotations

import ast
from dataclasses import FrozenInstanceError, dataclass
from functools import cache

import pytest

from components.core import events
from components.core.events import Event, EventBus, HandlerFailed, StageStarted, TrainStep, catalogue
from tests.conftest import ROOT

FOLDERS = ("components", "tasks", "flows")
FOR_OTHERS: set[type[Event]] = set()
"""Events that plugins emit and Postmill hears."""
STARTED = StageStarted(stage="train", name="sft")
STEP = TrainStep(step=1, total=3, loss=0.5)


@dataclass(frozen=True, kw_only=True)
class Baked(Event, topic="acme.baked"):
    """An event of a plugin."""

    loaves: int


@pytest.fixture
def bus() -> EventBus:
    return EventBus()


def broken(event: Event) -> None:
    """A handler that always fails."""
    raise RuntimeError("display broke")


def test_handler_gets_its_event(bus: EventBus) -> None:
    """A handler gets the events of its class only, the very object that was emitted (B6)."""
    got: list[TrainStep] = []
    bus.on(TrainStep, got.append)
    bus.emit(STEP)
    bus.emit(STARTED)
    assert len(got) == 1
    assert got[0] is STEP


def test_event_says_what_it_carries() -> None:
    """An event knows its time, its topic and its data, and cannot be changed (B5)."""
    assert STARTED.time > 0
    assert StageStarted.topic == "stage.started"
    assert STARTED.data == {"stage": "train", "name": "sft"}
    with pytest.raises(FrozenInstanceError):
        STARTED.stage = "judge"  # type: ignore[misc]


@pytest.mark.parametrize("carried", [{"stage": "train"}, {"stage": "train", "name": "sft", "speed": 1}])
def test_wrong_data_is_refused(carried: dict[str, str]) -> None:
    """An event with a field too few or too many cannot be made (B5)."""
    with pytest.raises(TypeError, match="argument"):
        StageStarted(**carried)


def test_any(bus: EventBus) -> None:
    """A handler of all events gets each of them, after the handlers of its class (B6)."""
    order: list[str] = []
    bus.on_any(lambda event: order.append(f"any {event.topic}"))
    bus.on(TrainStep, lambda event: order.append("specific"))
    bus.emit(STEP)
    bus.emit(STARTED)
    assert order == ["specific", "any training.step", "any stage.started"]


def test_once(bus: EventBus) -> None:
    """A handler for one event gets the next of its class and no further one, not even one it causes itself (B6)."""
    got: list[TrainStep] = []

    def again(event: TrainStep) -> None:
        got.append(event)
        bus.emit(STEP)

    bus.once(TrainStep, again)
    for event in (STARTED, STEP, STEP):
        bus.emit(event)
    assert got == [STEP]


def test_once_can_be_undone(bus: EventBus) -> None:
    """What `once` returns takes the subscription back before its event came (B6)."""
    got: list[TrainStep] = []
    off = bus.once(TrainStep, got.append)
    off()
    bus.emit(STEP)
    assert got == []


def test_once_that_fails_is_over(bus: EventBus) -> None:
    """A handler for one event that fails is not called again (B6, B7)."""
    bus.once(TrainStep, broken)
    bus.emit(STEP)
    bus.emit(STEP)
    assert len(bus.failures) == 1


@pytest.mark.parametrize("subscribe", ["on", "on_any"])
def test_off(bus: EventBus, subscribe: str) -> None:
    """What a subscription returns ends it, and only it; twice is harmless (B6)."""
    got: list[str] = []

    def subscribed(word: str) -> object:
        if subscribe == "on":
            return bus.on(StageStarted, lambda event: got.append(word))
        return bus.on_any(lambda event: got.append(word))

    off = subscribed("gone")
    subscribed("stays")
    assert callable(off)
    off()
    off()
    bus.emit(STARTED)
    assert got == ["stays"]


def test_failing_handler_is_isolated(bus: EventBus) -> None:
    """A handler that fails breaks neither the emitter nor the other handlers, and its failure is kept (B7)."""
    got: list[Event] = []
    bus.on(TrainStep, broken)
    bus.on(TrainStep, got.append)
    bus.on_any(got.append)
    bus.emit(STEP)
    assert [event for event in got if event is STEP] == [STEP, STEP]
    assert [(event, str(error)) for event, error in bus.failures] == [(STEP, "display broke")]


def test_failure_is_told(bus: EventBus) -> None:
    """A failed handler is announced with its name, the event it failed on and the error (B7)."""
    told: list[HandlerFailed] = []
    bus.on(HandlerFailed, told.append)
    bus.on(TrainStep, broken)
    bus.emit(STEP)
    assert [event.data for event in told] == [
        {"handler": "broken", "on": "training.step", "error": "RuntimeError: display broke"}
    ]


@pytest.mark.parametrize("subscribe", ["on", "on_any"])
def test_failing_handler_of_failures_ends(bus: EventBus, subscribe: str) -> None:
    """A handler that fails on failures is not told of its own failure: nothing loops (B7)."""
    if subscribe == "on":
        bus.on(TrainStep, broken)
        bus.on(HandlerFailed, broken)
    else:
        bus.on_any(broken)
    bus.emit(STEP)
    assert [type(event) for event, _ in bus.failures] == [TrainStep, HandlerFailed]


def test_failures_do_not_pile_up(bus: EventBus) -> None:
    """A handler that fails on each step of a long run does not fill the memory (B7)."""
    bus.on(TrainStep, broken)
    for _ in range(events.KEPT_FAILURES + 5):
        bus.emit(STEP)
    assert len(bus.failures) == events.KEPT_FAILURES


def test_control_flow_passes_through(bus: EventBus) -> None:
    """Ctrl-C inside a handler still stops the program."""

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    bus.on_any(interrupt)
    with pytest.raises(KeyboardInterrupt):
        bus.emit(STARTED)


def test_buses_are_separate() -> None:
    """Events of one bus do not reach handlers of another."""
    one, two = EventBus(), EventBus()
    got: list[Event] = []
    two.on_any(got.append)
    one.emit(STARTED)
    assert got == []


def test_event_without_a_topic_is_refused() -> None:
    """A class of events that names no topic is refused where it is written (B5)."""
    with pytest.raises(TypeError, match="Nameless: give the event its topic"):

        class Nameless(Event):
            pass


def test_event_of_a_plugin(bus: EventBus) -> None:
    """A plugin's own event travels like ours, and is not counted among ours (B5, B6)."""
    specific: list[Baked] = []
    every: list[Event] = []
    bus.on(Baked, specific.append)
    bus.on_any(every.append)
    bus.emit(Baked(loaves=3))
    assert [event.data for event in specific] == [{"loaves": 3}]
    assert [event.topic for event in every] == ["acme.baked"]
    assert Baked not in catalogue()


def test_catalogue_is_complete_and_unambiguous() -> None:
    """Every event of the module is in the catalogue, with a topic of its own and a sentence (B5)."""
    written = ast.parse((ROOT / "components" / "core" / "events.py").read_text(encoding="utf-8")).body
    subclasses = [node.name for node in written if isinstance(node, ast.ClassDef) and node.keywords]
    assert [cls.__name__ for cls in catalogue()] == subclasses
    assert len({cls.topic for cls in catalogue()}) == len(subclasses)
    assert all((cls.__doc__ or "").partition("\n")[0].endswith(".") for cls in catalogue())


@cache
def constructed() -> set[str]:
    """Every name that is called somewhere in the code."""
    names = set()
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                names.add(getattr(node.func, "id", None) or getattr(node.func, "attr", ""))
    return names


@pytest.mark.parametrize("cls", catalogue(), ids=lambda cls: cls.__name__)
def test_every_event_is_emitted(cls: type[Event]) -> None:
    """An event in the catalogue is made somewhere in the code, or is meant for plugins (B5)."""
    made, others = cls.__name__ in constructed(), cls in FOR_OTHERS
    assert made != others, f"{cls.__name__}: emitted here: {made}, meant for plugins: {others}"
