"""The life of a component: states with legal moves, and a set of instances that start and stop in the right order.

with Instances(registry, bus) as running:
    running.create("journal", "sink", "journal", folder="logs")
    running.create("alerts", "sink", "my_alerts", requires=("journal",))
    running.start_all()                     # journal, then alerts
# alerts closed, then journal, whatever happened in between
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable
from dataclasses import dataclass
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from typing import Any, Self

from components.core.component import Component
from components.core.errors import ConfigError, PostmillError, did_you_mean
from components.core.events import ComponentMoved, EventBus
from components.core.health import Health, asked
from components.core.registry import Registry

log = logging.getLogger(__name__)


class State(StrEnum):
    """Where a component stands in its life."""

    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"


MOVES = {
    State.CREATED: {State.RUNNING, State.STOPPED, State.FAILED},
    State.RUNNING: {State.STOPPED, State.FAILED},
    State.STOPPED: {State.RUNNING},
    State.FAILED: {State.STOPPED},
}


class IllegalMove(PostmillError):
    """A component was asked for something that its state does not allow."""


@dataclass
class Managed:
    """A component under its id, what it needs to run, and its state."""

    id: str
    component: Component
    requires: tuple[str, ...]
    bus: EventBus
    state: State = State.CREATED
    error: str = ""

    def move(self, to: State, error: str = "") -> None:
        """Change the state and say so on the bus; an illegal move changes nothing and raises."""
        self._check(to)
        before, self.state, self.error = self.state, to, error
        self.bus.emit(ComponentMoved(id=self.id, before=before, after=to, error=error))

    def start(self) -> None:
        """Run the component's `setup`; one that raises leaves the component failed and closed."""
        self._check(State.RUNNING)
        try:
            self.component.setup()
        except BaseException as error:
            self.move(State.FAILED, f"{type(error).__name__}: {error}")
            try:
                self.component.close()
            except Exception as second:  # the first error tells why it did not start
                log.warning("component %s failed to close", self.id, exc_info=second)
            raise
        self.move(State.RUNNING)

    def stop(self) -> None:
        """Run the component's `close`; one that raises leaves the component failed."""
        self._check(State.STOPPED)
        try:
            self.component.close()
        except BaseException as error:
            if self.state is not State.FAILED:
                self.move(State.FAILED, f"{type(error).__name__}: {error}")
            raise
        self.move(State.STOPPED)

    def _check(self, to: State) -> None:
        if to not in MOVES[self.state]:
            allowed = ", ".join(sorted(MOVES[self.state]))
            raise IllegalMove(f"component '{self.id}' is {self.state} and cannot become {to} (only: {allowed})")

    def health(self) -> Health:
        """What the component says of itself; one that does not run is degraded or failed."""
        if self.state is State.RUNNING:
            return asked(self.component.health)
        return Health("failed" if self.state is State.FAILED else "degraded", self.error or str(self.state))


class Instances:
    """Components by id (not by class name: two instances of one class are two ids). Always closes what it started."""

    def __init__(self, registry: Registry, bus: EventBus) -> None:
        self._registry, self._bus = registry, bus
        self._managed: dict[str, Managed] = {}

    def create(self, id: str, kind: str, name: str, /, *, requires: Iterable[str] = (), **config: Any) -> Any:
        """Build a registered component and keep it under `id`."""
        return self.add(id, self._registry.create(kind, name, **config), requires)

    def add(self, id: str, component: Component, requires: Iterable[str] = ()) -> Component:
        """Keep a component under `id`; it starts after those whose ids it requires."""
        if id in self._managed:
            raise ConfigError(f"component id '{id}' is taken; ids are unique")
        self._managed[id] = Managed(id, component, tuple(requires), self._bus)
        return component

    def get(self, id: str) -> Any:
        """The component kept under `id`."""
        return self._at(id).component

    def start(self, id: str) -> bool:
        """Start one component and first whatever it requires; True when it runs."""
        for name in self._order(id):
            if self._managed[name].state is not State.RUNNING:
                self._managed[name].start()
        return self._at(id).state is State.RUNNING

    def stop(self, id: str) -> None:
        """Stop one component, and first those that require it."""
        wanted = self._at(id)
        if wanted.state is State.FAILED:
            wanted.stop()
        else:
            self._stop({name for name in self._running() if id in self._order(name)})

    def start_all(self) -> None:
        """Start everything in the order of requirements; missing ids and cycles are found before anything starts."""
        for managed in self._sorted():
            if managed.state is not State.RUNNING:
                managed.start()

    def stop_all(self) -> None:
        """Stop what runs, in reverse order. Every component is closed even if another one fails to."""
        self._stop(self._running())

    def _stop(self, names: Container[str]) -> None:
        errors = []
        for name in reversed(self._running()):
            if name in names:
                try:
                    self._managed[name].stop()
                except Exception as error:
                    log.warning("component %s failed to stop", name, exc_info=error)
                    errors.append(error)
        if errors:
            raise ExceptionGroup("components failed to stop", errors)

    def status(self) -> dict[str, State]:
        """State by id."""
        return {name: managed.state for name, managed in self._managed.items()}

    def health(self) -> dict[str, Health]:
        """Health by id."""
        return {name: managed.health() for name, managed in self._managed.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.stop_all()
        except ExceptionGroup:
            if error is None:  # else the block's own error matters more, and this one is in the log
                raise

    def _at(self, id: str) -> Managed:
        if id not in self._managed:
            raise ConfigError(f"no component with id '{id}'{did_you_mean(id, self._managed)}")
        return self._managed[id]

    def _order(self, id: str) -> list[str]:
        """`id` and everything below it, requirements first."""
        graph: dict[str, tuple[str, ...]] = {}
        waiting = [self._at(id)]
        while waiting:
            managed = waiting.pop()
            graph[managed.id] = managed.requires
            waiting += [self._managed[name] for name in managed.requires if name in self._managed.keys() - graph]
        refuse_missing(graph, "component")
        return ordered(graph, "components")

    def _running(self) -> list[str]:
        """What runs, requirements first; what could never start is left out, however it is wired."""
        graph = {name: one.requires for name, one in self._managed.items() if one.state is State.RUNNING}
        return [name for name in ordered(graph, "components") if name in graph]

    def _sorted(self) -> list[Managed]:
        graph = {name: managed.requires for name, managed in self._managed.items()}
        refuse_missing(graph, "component")
        return [self._managed[name] for name in ordered(graph, "components")]


def refuse_missing(graph: dict[str, tuple[str, ...]], what: str) -> None:
    """A ConfigError that names every requirement nobody provides."""
    missing = [
        f"{what} '{name}' requires '{need}', which does not exist{did_you_mean(need, graph)}"
        for name, needs in graph.items()
        for need in needs
        if need not in graph
    ]
    if missing:
        raise ConfigError(missing)


def ordered(graph: dict[str, tuple[str, ...]], what: str) -> list[str]:
    """Requirements first; a cycle is an error that shows it."""
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise ConfigError(f"{what} require each other in a circle: {' -> '.join(error.args[1])}") from error
