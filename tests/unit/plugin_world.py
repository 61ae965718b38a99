"""A directory of plugins and a place of installed ones, for the tests of the plugin manager."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest

from components.core.component import Component, StrictConfig
from components.core.events import (
    Event,
    EventBus,
    PluginLoaded,
)
from components.core.plugins import GROUP, PluginManager, PluginSettings
from components.core.registry import Kind, Registry


class Tool(Component):
    """Something that plugins bring."""


HERE = f"{__name__}:Tool"
SHARED: dict[str, Any] = {"here": HERE}
"""What a plugin's own code reaches for: the registry of the running test, and lists to write into."""
HEADER = f"from components.core.plugins import Plugin\nfrom {__name__} import SHARED, Tool\n"
EVERYTHING = """
    class Section(StrictConfig):
        x: int = 0
    api.kind("gadget", Tool)
    api.component("gadget", "mine", Tool)
    api.component("tool", "lazy", SHARED["here"])
    api.section("all", Section)
    api.service("all", Tool)
    api.on(MetricLogged, SHARED["log"].append)
    api.on_any(SHARED["any"].append)
    api.at_unload(lambda: SHARED["log"].append("at_unload"))
"""
IMPORTS = "from components.core.component import StrictConfig\nfrom components.core.events import MetricLogged\n"


def source(called: str, /, register: str = "", top: str = "", rest: str = "", **facts: Any) -> str:
    """The text of a plugin that brings a tool of its own name, or does what `register` says."""
    body = register or f'api.component("tool", "{called}", "{HERE}")'
    lines = [f"{key} = {value!r}" for key, value in facts.items()]
    lines += ["def register(self, api):", indent(dedent(body.strip("\n")), "    "), dedent(rest)]
    return f"{HEADER}{top}\n\nclass Brings(Plugin):\n{indent(chr(10).join(lines), '    ')}\n"


@dataclass
class World:
    """A directory of plugins, a place of installed distributions, and a manager with a registry of its own."""

    root: Path
    site: Path
    registry: Registry
    bus: EventBus = field(default_factory=EventBus)
    told: list[Event] = field(default_factory=list)
    manager: PluginManager = field(init=False)

    def __post_init__(self) -> None:
        self.bus.on_any(self.told.append)
        self.configure()

    def configure(self, **settings: Any) -> PluginManager:
        """A manager on the directory; what is really installed on this machine stays out."""
        settings = {"directories": (self.root,), "auto_discover": False} | settings
        self.manager = PluginManager(self.registry, self.bus, PluginSettings(**settings))
        return self.manager

    def file(self, called: str, /, **what: Any) -> Path:
        """A plugin in the directory."""
        path = self.root / f"{called}.py"
        path.write_text(source(called, **what), encoding="utf-8")
        return path

    def installed(self, name: str, version: str = "1.0", needs: tuple[str, ...] = (), **what: Any) -> Path:
        """A distribution `dist-NAME` with the plugin NAME, as pip leaves it."""
        module = self.site / f"installed_{name}.py"
        module.write_text(source(name, **what), encoding="utf-8")
        requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
        metadata = f"Metadata-Version: 2.1\nName: dist-{name}\nVersion: {version}\n{requires}"
        return self.dist_info(name, metadata, f"{name} = installed_{name}:Brings")

    def dist_info(self, name: str, metadata: str | None, entry_point: str) -> Path:
        """The folder that says what is installed."""
        folder = self.site / f"dist_{name}-1.0.dist-info"
        folder.mkdir()
        if metadata is not None:
            (folder / "METADATA").write_text(metadata)
        (folder / "entry_points.txt").write_text(f"[{GROUP}]\n{entry_point}\n")
        importlib.invalidate_caches()
        return folder

    def outcome(self, name: str) -> tuple[str, str]:
        """What became of a plugin, and why."""
        report = self.manager.reports[name]
        return report.outcome, report.reason

    def order(self) -> list[str]:
        """Plugins as they were loaded."""
        return [event.plugin for event in self.told if isinstance(event, PluginLoaded)]

    def snapshot(self) -> tuple[Any, ...]:
        """Everything that a plugin could leave behind: in the registry, on the bus, among the modules."""
        table = {k: {n: str(self.registry.entry(k, n)) for n in self.registry.names(k)} for k in self.registry.kinds()}
        handlers = {str(name): len(signal.receivers) for name, signal in self.bus._signals.items() if signal.receivers}
        return table, handlers, [name for name in sys.modules if name.startswith("postmill_plugin_")]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    root, site = tmp_path / "plugins", tmp_path / "site"
    root.mkdir(mode=0o755)
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    kinds = Kind("tool", HERE), Kind("section", StrictConfig), Kind("service", object)
    world = World(root, site, Registry(kinds))
    world.registry.add("tool", "hammer", Tool)
    SHARED.update(registry=world.registry, log=[], any=[])
    before = set(sys.modules)
    yield world
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
