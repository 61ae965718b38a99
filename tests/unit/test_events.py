"""The event bus: named events, isolated handlers."""

from __future__ import annotations

import pytest

from components.core.events import EVENTS, Event, EventBus


@pytest.fixture
def bus() -> EventBus:
    return EventBus()


def test_handler_gets_its_event(bus: EventBus) -> None:
    """A handler gets events of its name only, with data and time (B6)."""
    got: list[Event] = []
    bus.on(got.append, "train.step")
    bus.emit("train.step", step=1, loss=0.5)
    bus.emit("run.started")
    assert [(event.name, dict(event.data)) for event in got] == [("train.step", {"step": 1, "loss": 0.5})]
    assert got[0].time > 0


def test_any(bus: EventBus) -> None:
    """A handler without a name gets every event, after the specific ones (B6)."""
    order: list[str] = []
    bus.on(lambda event: order.append("any"))
    bus.on(lambda event: order.append("specific"), "train.step")
    bus.emit("train.step")
    bus.emit("run.finished")
    assert order == ["specific", "any", "any"]


def test_off(bus: EventBus) -> None:
    """What `on` returns ends the subscription, and only this one; twice is harmless (B6)."""
    got: list[str] = []
    off = bus.on(lambda event: got.append("gone"), "run.started")
    bus.on(lambda event: got.append("stays"), "run.started")
    off()
    off()
    bus.emit("run.started")
    assert got == ["stays"]


def test_failing_handler_is_isolated(bus: EventBus) -> None:
    """A handler that fails breaks neither the emitter nor the other handlers, and its failure is kept (B7)."""
    got: list[str] = []

    def broken(event: Event) -> None:
        raise RuntimeError("display broke")

    bus.on(broken, "train.step")
    bus.on(lambda event: got.append(event.name), "train.step")
    event = bus.emit("train.step", step=1)
    assert got == ["train.step"]
    assert [(failed.name, str(error)) for failed, error in bus.failures] == [("train.step", "display broke")]
    assert bus.failures[0][0] is event


def test_control_flow_passes_through(bus: EventBus) -> None:
    """Ctrl-C inside a handler still stops the program."""

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    bus.on(interrupt)
    with pytest.raises(KeyboardInterrupt):
        bus.emit("run.started")


@pytest.mark.parametrize("name", ["train.stepp", "", "TRAIN.STEP"])
def test_unknown_event(bus: EventBus, name: str) -> None:
    """A name that is not in the table can be neither emitted nor subscribed to (B5)."""
    with pytest.raises(ValueError, match="unknown event"):
        bus.emit(name)
    with pytest.raises(ValueError, match="unknown event"):
        bus.on(print, name)


def test_star_is_no_event(bus: EventBus) -> None:
    """`*` means all events when subscribing; it cannot be emitted."""
    with pytest.raises(ValueError, match="unknown event"):
        bus.emit("*")


def test_buses_are_separate() -> None:
    """Events of one bus do not reach handlers of another."""
    one, two = EventBus(), EventBus()
    got: list[Event] = []
    two.on(got.append)
    one.emit("run.started")
    assert got == []


def test_every_event_is_described() -> None:
    """The table says of each event what it means (B5)."""
    assert all(EVENTS.values())
