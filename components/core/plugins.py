"""Plugins: other people's components, found without executing them, loaded in order, undone without a trace.

    plugins = PluginManager(registry, bus, PluginSettings())
    for report in plugins.load_all():
        print(report)                      # acme 1.0: loaded (trainer:acme_sft, benchmark:acme_words)
    plugins.unload("acme")                 # the registry is as it was before

Writing one: docs/extending.md, or `postmill plugin new acme`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from components.core.component import Component, StrictConfig
from components.core.errors import PluginError, did_you_mean
from components.core.events import Event, EventBus, PluginLoaded, PluginRefused, PluginUnloaded
from components.core.health import Health
from components.core.registry import AT_IMPORT, Kind, Registry

if TYPE_CHECKING:
    from components.core.plugin_sources import Candidate

log = logging.getLogger(__name__)
GROUP = "postmill.plugins"
Outcome = Literal["loaded", "blocked", "skipped", "failed", "unloaded"]
"""Blocked: by the settings. Skipped: something it needs is missing or does not fit. Failed: it is broken."""


class PluginSettings(StrictConfig):
    """Which plugins may load. Loading one executes its code."""

    enabled: bool = True
    auto_discover: bool = True
    """Look for installed distributions with an entry point of the group `postmill.plugins`."""
    directories: tuple[Path, ...] = ()
    """Directories whose files are plugins too."""
    allow: tuple[str, ...] | None = None
    """Load only these, by name."""
    block: tuple[str, ...] = ()
    """Never load these, by name."""


class PluginApi:
    """What a plugin may do to its host. Everything done here is undone when the plugin is unloaded."""

    def __init__(self, registry: Registry, bus: EventBus, ledger: ExitStack, owner: str) -> None:
        self._registry, self._bus, self._ledger, self._owner = registry, bus, ledger, owner

    def component(self, kind: str, name: str, target: type | str) -> None:
        """Register a class, or `"module:Class"` if importing it now would be slow."""
        with self._registry.owned_by(self._owner):
            self._registry.add(kind, name, target)

    def kind(self, name: str, base: type | str) -> None:
        """Open a kind of components of the plugin's own."""
        with self._registry.owned_by(self._owner):
            self._registry.add_kind(Kind(name, base))

    def section(self, name: str, model: type[StrictConfig]) -> None:
        """Give recipes a section `name`, checked by `model`."""
        from components.core.recipe import check_section_name

        check_section_name(name)
        self.component("section", name, model)

    def service(self, name: str, target: type) -> None:
        """Offer a service, see `components.core.container`."""
        self.component("service", name, target)

    def on(self, event: type[Event], handler: Callable[[Any], object]) -> None:
        """Hear events of one class."""
        self._ledger.callback(self._bus.on(event, handler))

    def on_any(self, handler: Callable[[Event], object]) -> None:
        """Hear all events."""
        self._ledger.callback(self._bus.on_any(handler))

    def at_unload(self, callback: Callable[[], object]) -> None:
        """Undo whatever else the plugin did."""
        self._ledger.callback(callback)


class Plugin(Component):
    """Base of all plugins. A plugin in a directory says all four facts here; an installed one says them in its
    distribution's metadata (version, dependencies) and only needs `register`."""

    name: ClassVar[str] = ""
    version: ClassVar[str] = "0"
    requires: ClassVar[tuple[str, ...]] = ()
    """Other plugins, as requirements: `("base>=1,<2",)`."""
    host: ClassVar[str] = ""
    """Versions of Postmill it fits: `">=0.1,<1"`."""

    def register(self, api: PluginApi) -> None:
        """Bring in what the plugin has."""
        raise NotImplementedError(f"{type(self).__qualname__} must define register(api)")


@dataclass(frozen=True)
class Report:
    """What became of a plugin, and why."""

    name: str
    version: str
    origin: str
    outcome: Outcome
    reason: str = ""
    provides: tuple[str, ...] = ()

    def __str__(self) -> str:
        detail = self.reason or f"({', '.join(self.provides) or 'registers nothing'})"
        return f"{f'{self.name} {self.version}'.rstrip()}: {self.outcome} {detail}"


@dataclass
class _Loaded:
    plugin: Plugin
    candidate: Candidate
    ledger: ExitStack


class PluginManager:
    """Discovers, orders, loads and unloads plugins; one that fails never harms another."""

    def __init__(self, registry: Registry, bus: EventBus, settings: PluginSettings | None = None) -> None:
        self.registry, self.bus = registry, bus
        self.settings = settings or PluginSettings()
        self.reports: dict[str, Report] = {}
        self._loaded: dict[str, _Loaded] = {}

    def discover(self) -> list[Candidate]:
        """What could be loaded. Reads metadata and syntax trees, executes nothing."""
        return list(self._candidates()) if self.settings.enabled else []

    def load_all(self) -> list[Report]:
        """Load whatever can be loaded, requirements first."""
        candidates: dict[str, Candidate] = {}
        for found in self.discover():
            first = candidates.setdefault(found.name, found)
            if first is not found:
                self._refuse(found, "failed", f"the name is taken by {first.origin}", f"{found.name} ({found.origin})")
        for candidate in self._in_order(candidates):
            if candidate.name not in self._loaded:
                self._try(candidate, candidates)
        return list(self.reports.values())

    def load(self, name: str) -> Report:
        """Load one plugin by name; its requirements must be loaded."""
        if name in self._loaded:
            raise PluginError(f"plugin '{name}' is loaded already")
        candidates: dict[str, Candidate] = {}
        for found in self.discover():
            candidates.setdefault(found.name, found)
        if name not in candidates:
            raise PluginError(f"no plugin '{name}'{did_you_mean(name, candidates)}")
        self._try(candidates[name], candidates)
        return self.reports[name]

    def unload(self, name: str) -> None:
        """Undo everything the plugin registered. Its Python modules stay imported until the process ends."""
        loaded = self._at(name)
        users = [other for other, one in self._loaded.items() if any(map(loaded.candidate.answers_to, _needs(one)))]
        if users:
            raise PluginError(f"plugin '{name}' is required by {', '.join(users)}; unload them first")
        self._unload(name)

    def reload(self, name: str) -> Report:
        """Unload and load. A plugin in a directory is read anew; an installed one keeps its imported code."""
        self.unload(name)
        return self.load(name)

    def get(self, name: str) -> Plugin:
        """A loaded plugin."""
        return self._at(name).plugin

    def close(self) -> None:
        """Unload everything, dependants first, whoever uses it. What one plugin raises stops none of the others."""
        errors = []
        for name in reversed(list(self._loaded)):
            try:
                self._unload(name, strangers=True)
            except Exception as error:
                errors.append(error)
        if errors:
            raise ExceptionGroup("plugins failed to unload", errors)

    def health(self) -> Health:
        """Degraded while a plugin that should be there is not."""
        refused = [str(report) for report in self.reports.values() if report.outcome in ("skipped", "failed")]
        figures = {"loaded": len(self._loaded), "refused": len(refused)}
        return Health("degraded" if refused else "ok", "; ".join(refused), figures)

    # ------------------------------------------------------------ one plugin

    def _try(self, candidate: Candidate, known: dict[str, Candidate]) -> None:
        outcome, reason = self._verdict(candidate, known)
        if outcome != "loaded":
            self._refuse(candidate, outcome, reason)
            return
        ledger, owner = ExitStack(), _owner(candidate.name)
        try:
            with self.registry.owned_by(owner):
                plugin = self._import(candidate)
                plugin.register(PluginApi(self.registry, self.bus, ledger, owner))
                ledger.callback(plugin.close)
                plugin.setup()
        except (Exception, SystemExit) as error:  # a stranger's code: whatever it raises is its own failure
            self._undo(candidate, ledger, strangers=True)
            log.debug("plugin %s failed", candidate.name, exc_info=error)
            self._refuse(candidate, "failed", f"{type(error).__name__}: {error}")
            return
        self._loaded[candidate.name] = _Loaded(plugin, candidate, ledger)
        report = self._report(candidate, "loaded", provides=tuple(self.registry.owned(owner)))
        self.bus.emit(PluginLoaded(plugin=report.name, version=report.version, provides=report.provides))

    def _unload(self, name: str, strangers: bool = False) -> None:
        loaded = self._loaded[name]
        trouble = self._undo(loaded.candidate, loaded.ledger, strangers)
        del self._loaded[name]
        self._report(loaded.candidate, "unloaded", trouble or "its Python modules stay imported")
        self.bus.emit(PluginUnloaded(plugin=name))

    def _undo(self, candidate: Candidate, ledger: ExitStack, strangers: bool) -> str:
        """Take back what the plugin did; what its own clean-up raises is returned, and stops nothing."""
        owner, trouble = _owner(candidate.name), ""
        with self.registry.owned_by(owner):
            self.registry.forget(owner, strangers)
        try:
            ledger.close()
        except (Exception, SystemExit) as error:
            trouble = f"its clean-up failed: {type(error).__name__}: {error}"
            log.warning("plugin %s: %s", candidate.name, trouble, exc_info=error)
        candidate.unload()
        return trouble

    def _import(self, candidate: Candidate) -> Plugin:
        with self.registry.sealed(AT_IMPORT):
            found = candidate.load()
        if not (isinstance(found, type) and issubclass(found, Plugin)):
            raise PluginError(f"{found!r} is not a class that extends components.core.plugins.Plugin")
        return found()

    def _verdict(self, candidate: Candidate, known: dict[str, Candidate]) -> tuple[Outcome, str]:
        """Whether the plugin may be loaded now, and if not, why."""
        settings, name = self.settings, candidate.name
        if name in settings.block:  # asked first, so that a broken plugin can be silenced
            return "blocked", "the settings block it (plugins.block)"
        if candidate.problem:
            return "failed", candidate.problem
        if settings.allow is not None and name not in settings.allow:
            return "blocked", "the settings do not allow it (plugins.allow)"
        unmet = self._unmet_requirement(candidate, known)
        return ("skipped", unmet) if unmet else ("loaded", "")

    @cached_property
    def _host(self) -> str | None:
        """Postmill's own version; none in a source tree that is not installed."""
        return _installed_version("postmill")

    def _unmet_requirement(self, candidate: Candidate, known: dict[str, Candidate]) -> str:
        if self._host and not candidate.host.contains(self._host, prereleases=True):
            return f"it needs postmill{candidate.host}, this is {self._host}"
        for need in candidate.requires:
            reason = self._unmet(need, known)
            if reason:
                return reason
        return ""

    def _unmet(self, need: Any, known: dict[str, Candidate]) -> str:
        provider = next((candidate for candidate in known.values() if candidate.answers_to(need)), None)
        version = provider.version if provider else _installed_version(need.name)
        if version is None:
            return f"it needs '{need}', which is not installed"
        if version and not need.specifier.contains(version, prereleases=True):
            return f"it needs '{need}', found {need.name} {version}"
        if provider and provider.name not in self._loaded:
            report = self.reports.get(provider.name)
            return f"it needs plugin '{provider.name}', which is not loaded{': ' + report.reason if report else ''}"
        return ""

    # ------------------------------------------------------------ all plugins

    def _candidates(self) -> Iterator[Candidate]:
        found = metadata.entry_points(group=GROUP) if self.settings.auto_discover else ()
        if not found and not self.settings.directories:
            return  # most people have no plugin, and `packaging` takes its time to import
        from components.core.plugin_sources import in_directory, installed

        yield from installed(found)
        for directory in self.settings.directories:
            yield from in_directory(directory)

    def _in_order(self, candidates: dict[str, Candidate]) -> list[Candidate]:
        """Requirements first; the members of a circle are refused and taken out, until none is left."""
        graph = {  # lists, so that the order is the same in every process
            name: [
                other.name
                for need in candidate.requires
                for other in candidates.values()
                if other is not candidate and other.answers_to(need)
            ]
            for name, candidate in candidates.items()
        }
        while True:
            try:
                return [candidates[name] for name in TopologicalSorter(graph).static_order()]
            except CycleError as error:
                circle = error.args[1]
                for name in dict.fromkeys(circle):
                    self._refuse(candidates[name], "skipped", f"plugins need each other: {' -> '.join(circle)}")
                    del graph[name]
                graph = {name: [need for need in needs if need in graph] for name, needs in graph.items()}

    def _refuse(self, candidate: Candidate, outcome: Outcome, reason: str, key: str = "") -> None:
        report = self._report(candidate, outcome, reason, key=key)
        if outcome != "blocked":  # as the user wishes
            log.warning("plugin %s", report)
        self.bus.emit(PluginRefused(plugin=candidate.name, status=outcome, reason=reason))

    def _report(
        self, candidate: Candidate, outcome: Outcome, reason: str = "", provides: tuple[str, ...] = (), key: str = ""
    ) -> Report:
        """Keep what became of a candidate: under its name, or under `key` beside the plugin that has the name."""
        report = Report(candidate.name, candidate.version, candidate.origin, outcome, reason, provides)
        self.reports[key or candidate.name] = report
        return report

    def _at(self, name: str) -> _Loaded:
        if name not in self._loaded:
            raise PluginError(f"plugin '{name}' is not loaded{did_you_mean(name, self._loaded)}")
        return self._loaded[name]


def _owner(name: str) -> str:
    return f"plugin {name}"


def _needs(loaded: _Loaded) -> tuple[Any, ...]:
    return loaded.candidate.requires


def _installed_version(distribution: str) -> str | None:
    """`None` if it is not installed; empty (any will do) if its metadata says no version."""
    try:
        return metadata.version(distribution) or ""
    except metadata.PackageNotFoundError:
        return None
