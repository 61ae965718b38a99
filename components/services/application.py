"""Everything that a process holds: settings, plugins, one bus, the container of services. The composition root.

    with Application(load_settings()) as app:
        recipe = load_recipe(Path("configs/quickstart.yaml"))
        with app.run(recipe) as run:
            run.get(TrainingService).train(...)

Code below a run asks `current()` for its services; nothing else is global.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from components.core.errors import ConfigError, WiringError, did_you_mean
from components.core.events import EventBus, HandlerFailed
from components.core.health import Health, asked
from components.core.kinds import registry
from components.core.lifecycle import Instances, State, refuse_missing
from components.core.plugins import PluginManager
from components.core.recipe import Recipe, section_names
from components.core.settings import Settings, load_settings
from components.interfaces import Sink
from components.services.elsewhere.chosen_runner import chosen_runner
from components.services.workspace import Workspace

if TYPE_CHECKING:
    from components.core.container import Container, Scope

log = logging.getLogger(__name__)
_current: ContextVar[Scope] = ContextVar("postmill_scope")
_application: ContextVar[Application] = ContextVar("postmill_application")


class Application:
    """Loads plugins when entered, unloads them when left."""

    def __init__(self, settings: Settings | None = None, bus: EventBus | None = None) -> None:
        self.settings = settings or load_settings()
        self.bus = bus or EventBus()
        self.workspace = Workspace(self.settings.folder, self.bus)
        self.plugins = PluginManager(registry, self.bus, self.settings.plugins)
        self.sinks = Instances(registry, self.bus)
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        self._closing.callback(_application.reset, _application.set(self))
        self._closing.callback(self.plugins.close)
        try:
            self.plugins.load_all()
        except BaseException:
            self._closing.close()  # nobody else will
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.close()

    def container(self, recipe: Recipe | None = None, bus: EventBus | None = None) -> Container:
        """The services, wired as the recipe says; a WiringError tells what does not fit. `bus`: of a run."""
        from components.core.container import Container

        workspace = Workspace(self.settings.folder, bus or self.bus)
        given: dict[type, Any] = {Settings: self.settings, EventBus: workspace.bus, Workspace: workspace}
        given[Application] = self
        if recipe is None:
            sections = [registry.get("section", name) for name in section_names()]
            return Container(registry, {}, given, [_absent(kind) for kind in (Recipe, *sections)])
        for name in section_names():
            if not hasattr(recipe, name):
                owner = registry.entry("section", name).owner
                raise WiringError(f"the recipe was read before {owner} brought its section '{name}'; read it again")
            given[registry.get("section", name)] = getattr(recipe, name)
        return Container(registry, recipe.services, given | {Recipe: recipe})

    @contextmanager
    def run(self, recipe: Recipe) -> Iterator[Scope]:
        """One scope of services for one run of a recipe, with a bus and sinks of its own; `current()` below."""
        bus = EventBus(self.bus)
        with self.open_sinks(bus), self.container(recipe, bus) as container, container.scope() as scope:
            token = _current.set(scope)
            try:
                yield scope
            finally:
                _current.reset(token)

    @contextmanager
    def open_sinks(self, bus: EventBus | None = None) -> Iterator[None]:
        """Sinks on the bus of a run, or on the one of the process, for what is done without a run (a promotion)."""
        bus = bus or self.bus
        sinks = self.sinks = Instances(registry, bus)  # of the run that began last
        folder = self.settings.folder / self.settings.monitoring.folder
        for name, sink in self._sinks().items():
            sinks.add(name, sink.attach(bus, folder), sink.requires)
        try:
            for name in sinks.status():
                _start(sinks, name, bus)
            yield
        finally:
            try:
                sinks.stop_all()
            except ExceptionGroup as group:  # the run itself is over, well or not: that is what the caller must learn
                log.warning("sinks failed to close: %s", "; ".join(map(str, group.exceptions)))

    def _sinks(self) -> dict[str, Sink]:
        """The sinks that the settings leave on, configured."""
        if not self.settings.monitoring.enabled:
            return {}
        found = {}
        for name in filter(self.settings.feature, registry.names("sink")):
            reason = registry.broken("sink", name)
            if reason:  # one plugin's broken module must not stop every run
                log.warning("sink left out: %s", reason)
            else:
                found[name] = registry.create("sink", name, **self.settings.sinks.get(name, {}))
        return found

    def check(self, recipe: Recipe) -> None:
        """Find now what a run would find when it starts: services that do not fit, sinks that do not exist."""
        self.check_settings()
        with self.container(recipe):
            pass

    def check_settings(self) -> None:
        """A ConfigError for sinks and a runner that the settings name and nobody has, or that refuse their keys."""
        chosen_runner(self.settings)
        known = registry.names("sink")
        unknown = [
            f"{section}.{name}: no such sink{did_you_mean(name, known)} (known: {', '.join(known)})"
            for section in ("features", "sinks")
            for name in getattr(self.settings, section)
            if name not in known
        ]
        if unknown:
            raise WiringError(unknown)
        refuse_missing({name: sink.requires for name, sink in self._sinks().items()}, "sink")

    def health(self) -> dict[str, Health]:
        """Health of the root directory, plugins, sinks and every singleton service that can tell."""
        found = {"workspace": asked(self.workspace.health), "plugins": asked(self.plugins.health)}
        states = self.sinks.status()  # those of a run that is over have stopped, which is no finding
        found |= {f"sink {name}": h for name, h in self.sinks.health().items() if states[name] is not State.STOPPED}
        for name, ask in (("settings", self._health_of_settings), ("services", self._health_of_services)):
            try:
                found |= ask()
            except ConfigError as error:
                found[name] = Health("failed", str(error))
        return found

    def _health_of_settings(self) -> dict[str, Health]:
        self.check_settings()
        return {}

    def _health_of_services(self) -> dict[str, Health]:
        found = {}
        with self.container() as container:
            for choice in container.choices:
                if choice.lifetime == "singleton" and hasattr(choice.cls, "health"):
                    found[f"service {choice.role}"] = asked(partial(_health_of, container, choice.role))
        return found


def _start(sinks: Instances, name: str, bus: EventBus) -> None:
    """Start one sink; one that cannot is reported, and the run goes on without it."""
    try:
        sinks.start(name)
    except Exception as error:
        log.warning("sink %s does not start: %s", name, error)
        bus.emit(HandlerFailed(handler=f"sink {name}", on="setup", error=f"{type(error).__name__}: {error}"))


def _health_of(container: Container, role: str) -> Health:
    health: Health = container.get(role).health()
    return health


def _absent(kind: type) -> Callable[[], Any]:
    """Stands for what only the run of a recipe has, so that services that need it are wired and say so when asked."""

    def refuse() -> Any:
        raise WiringError(f"{kind.__name__} belongs to the run of a recipe: open one with Application.run(recipe)")

    refuse.__annotations__["return"] = kind
    return refuse


def current() -> Scope:
    """The services of the run that this code belongs to."""
    scope = _current.get(None)
    if scope is None:
        raise WiringError("no run is open here: open one with Application.run(recipe)")
    return scope


def opened_settings() -> Settings | None:
    """The settings of the application that the caller has opened, for a process that must know the same plugins."""
    opened = _application.get(None)
    return opened.settings if opened is not None else None


@contextmanager
def application() -> Iterator[Application]:
    """The application that the caller has opened, or one of our own."""
    opened = _application.get(None)
    if opened is not None:
        yield opened
        return
    with Application() as own:
        yield own
