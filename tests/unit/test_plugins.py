"""Plugins: found without being executed, loaded in order, refused with a reason, undone without a trace."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest

from components.core.component import Component, StrictConfig
from components.core.errors import ConfigError, PluginError
from components.core.events import (
    Event,
    EventBus,
    MetricLogged,
    PluginLoaded,
    PluginRefused,
    PluginUnloaded,
)
from components.core.plugins import GROUP, Plugin, PluginManager, PluginSettings, Report
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


# ---------------------------------------------------------------- finding


def test_discovery_executes_nothing(world: World, tmp_path: Path) -> None:
    """Discovery names every plugin without running a line of it; loading runs it (A13, A14, R5)."""
    canary = tmp_path / "canary"
    top = f"open({str(canary)!r}, 'a').write('x')"
    world.file("filed", top=top)
    world.installed("boxed", top=top)
    manager = world.configure(auto_discover=True)
    assert {"filed", "boxed"} <= {candidate.name for candidate in manager.discover()}
    assert not canary.exists()
    manager.load_all()
    assert canary.read_text() == "xx"


def test_facts_of_an_installed_plugin(world: World) -> None:
    """Version, host and requirements of an installed plugin are its distribution's; extras do not count (A16, B9)."""
    world.installed("boxed", "1.2", ("postmill>=0.1,<1", 'ghost>1; extra == "more"', "pydantic>=2"))
    found = {candidate.name: candidate for candidate in world.configure(auto_discover=True).discover()}["boxed"]
    assert (found.version, str(found.host), found.origin) == ("1.2", "<1,>=0.1", "dist-boxed 1.2")
    assert [str(need) for need in found.requires] == ["pydantic>=2"]


def test_any_class_name_will_do(world: World) -> None:
    """The class is found by what it extends, not by being called Plugin; a package works too (A12, R5)."""
    package = world.root / "pack"
    package.mkdir(mode=0o755)
    (package / "part.py").write_text(f"NAME = 'from_part'\nTARGET = {HERE!r}\n")
    top = "from .part import NAME, TARGET\nimport components.core.plugins as plugins"
    text = source("pack", 'api.component("tool", NAME, TARGET)', top).replace("(Plugin)", "(plugins.Plugin)")
    (package / "__init__.py").write_text(text)
    (report,) = world.manager.load_all()
    assert (report.name, report.outcome, report.provides) == ("pack", "loaded", ("tool:from_part",))
    assert type(world.manager.get("pack")).__name__ == "Brings"


def test_hidden_files_are_no_plugins(world: World) -> None:
    """A file whose name begins with an underscore is a helper (A12)."""
    (world.root / "_helper.py").write_text("raise RuntimeError\n")
    (world.root / "notes.txt").write_text("not Python")
    assert world.manager.load_all() == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (source("p", version="one"), "not valid: Invalid version: 'one'"),
        (source("p", requires=("a b",)), "not valid: Expected .* a b$"),
        (source("p", host="~1"), "not valid: .*~1"),
        ("x = 1\nclass Broken(Plugin:\n", r"syntax \(line 2\)$"),
        ("x = 1\n", "defines 0 classes that extend Plugin, expected one"),
        (source("p") + "\nclass More(Plugin):\n    pass\n", "defines 2 classes that extend Plugin"),
        (source("p").replace("def reg", "requires = (BASE,)\n    def reg"), r"'requires' is \(BASE,\); write it out"),
        (source("p", requires="base"), "'requires' must be a tuple of texts, found 'base'"),
        (source("p", requires=(3,)), "'requires' must be a tuple of texts"),
        (source("p", name=7), "'name' must be text, found 7"),
        (source("p").replace("def reg", "host = {[]: 1}\n    def reg"), "'host' is .*; write it out"),
        ("\0", "null bytes"),
        ("# " + "é", "utf-8"),
        (None, "No such file"),
    ],
)
def test_unreadable_file(world: World, text: str | None, reason: str) -> None:
    """A file that cannot be understood fails with the reason, unexecuted; the others load (A13, A14)."""
    path = world.root / "p.py"
    if text is None:
        path.symlink_to("nowhere")
    else:
        path.write_text(text, encoding="latin-1")
    world.file("good")
    world.manager.load_all()
    outcome, why = world.outcome("p")
    assert outcome == "failed"
    assert re.search(reason, why)
    assert world.outcome("good")[0] == "loaded"


def test_class_body_may_hold_anything(world: World) -> None:
    """Only assignments of the four facts are read; a loop, an annotation or a sum beside them is the plugin's (A16)."""
    body = "name: str\n    for version in '1':\n        pass\n    requires = []\n    def reg"
    (world.root / "odd.py").write_text(source("odd").replace("def reg", body))
    (report,) = world.manager.load_all()
    assert (report.name, report.version, report.outcome) == ("odd", "0", "loaded")


@pytest.mark.parametrize(
    ("metadata", "entry_point", "reason"),
    [
        ("Name: x\nVersion: brand new\n", "p = installed_ok:Brings", "not valid: Invalid version: 'brand new'"),
        ("Name: x\nVersion: 1\nRequires-Dist: ??\n", "p = installed_ok:Brings", "its metadata is not valid"),
        (None, "p = installed_ok:Brings", "no name or no version"),
        ("Name: x\nVersion: 1\n", "p = no_such_module:Brings", "ModuleNotFoundError: .*no_such_module"),
        ("Name: x\nVersion: 1\n", "p = installed_ok:Missing", "AttributeError: .*Missing"),
        ("Name: x\nVersion: 1\n", "p = installed_ok:Tool", "is not a class that extends .*Plugin"),
        ("Name: x\nVersion: 1\n", "p = installed_ok", "is not a class that extends .*Plugin"),
        ("Name: x\nVersion: 1\n", "p = components.core.plugins:Plugin", r"must define register\(api\)"),
    ],
)
def test_broken_distribution(world: World, metadata: str | None, entry_point: str, reason: str) -> None:
    """A distribution that says nonsense or points at nothing fails with the reason; the others load (A14, A18)."""
    world.installed("ok")
    world.dist_info("p", metadata, entry_point)
    world.configure(auto_discover=True).load_all()
    outcome, why = world.outcome("p")
    assert outcome == "failed"
    assert re.search(reason, why)
    assert world.outcome("ok")[0] == "loaded"


def test_missing_directory(world: World, tmp_path: Path) -> None:
    """A configured directory that is not there is reported; the other one counts (A12, A20)."""
    world.file("good")
    world.configure(directories=(tmp_path / "absent", world.root)).load_all()
    assert world.outcome("absent") == ("failed", f"plugin directory '{tmp_path / 'absent'}' does not exist")
    assert world.order() == ["good"]


@pytest.mark.parametrize("what", ["directory", "file"])
def test_writable_by_everybody(world: World, what: str) -> None:
    """Code that everybody may change is not executed, and the remedy is named (A12)."""
    path = world.file("p")
    path = path if what == "file" else world.root
    path.chmod(path.stat().st_mode | 0o002)
    (report,) = world.manager.load_all()
    assert report.outcome == "failed"
    assert f"chmod o-w '{path}'" in report.reason
    assert world.order() == []


# ---------------------------------------------------------------- order and compatibility


def test_order_follows_requirements(world: World) -> None:
    """What is required loads first, whatever the files are called (A17, R5)."""
    world.file("a", requires=("m",))
    world.file("m", requires=("z>=1,<2",))
    world.file("z", version="1.5")
    world.manager.load_all()
    assert world.order() == ["z", "m", "a"]


def test_order_among_installed(world: World) -> None:
    """An installed plugin requires another one's distribution, a plugin in a directory its name (A17)."""
    world.file("a_file", requires=("aaa",))
    world.installed("aaa", needs=("Dist.ZZZ>=1",))
    world.installed("zzz")
    world.configure(auto_discover=True, allow=("a_file", "aaa", "zzz")).load_all()
    assert world.order() == ["zzz", "aaa", "a_file"]


def test_order_is_the_same_every_time(world: World) -> None:
    """Plugins that do not need each other load in the order in which they were found or are required (A17)."""
    names = [f"n{number}" for number in (5, 2, 7, 1, 3, 6, 4)]
    world.file("all", requires=tuple(names))
    for name in names:
        world.file(name)
    world.manager.load_all()
    assert world.order() == [*names, "all"]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"requires": ("ghost>=1",)}, "it needs 'ghost>=1', which is not installed"),
        ({"requires": ("base>=2",)}, "it needs 'base>=2', found base 1.0"),
        ({"requires": ("pydantic>=999",)}, "it needs 'pydantic>=999', found pydantic 2."),
        ({"host": ">=9"}, "it needs postmill>=9, this is 0."),
    ],
)
def test_incompatible(world: World, facts: dict[str, Any], reason: str) -> None:
    """What a plugin needs is checked before its code runs; it is skipped with the reason, the others load (A18)."""
    world.file("base", version="1.0")
    world.file("p", top="raise RuntimeError('executed')", **facts)
    world.manager.load_all()
    outcome, why = world.outcome("p")
    assert outcome == "skipped"
    assert why.startswith(reason)
    assert world.order() == ["base"]


def test_compatible(world: World) -> None:
    """Requirements that are met, on libraries and on the host, are no obstacle (A18)."""
    world.file("p", requires=("pydantic>=2",), host=">=0.1,<1")
    world.manager.load_all()
    assert world.order() == ["p"]


def test_circle(world: World) -> None:
    """Plugins that need each other are skipped, and so is one that needs them; the reason shows the circle (A17)."""
    world.file("a", requires=("b",))
    world.file("b", requires=("a",))
    world.file("c", requires=("a",))
    world.file("d")
    world.manager.load_all()
    for name in "ab":
        assert world.outcome(name)[0] == "skipped"
        assert world.outcome(name)[1] in ("plugins need each other: " + way for way in ("a -> b -> a", "b -> a -> b"))
    assert world.outcome("c")[1].startswith("it needs plugin 'a', which is not loaded: plugins need each other")
    assert world.order() == ["d"]


def test_requirement_that_failed(world: World) -> None:
    """A plugin whose requirement failed is skipped with that plugin's name and reason (A17)."""
    world.file("base", top="raise RuntimeError('no luck')")
    world.file("p", requires=("base",))
    world.manager.load_all()
    assert world.outcome("p") == ("skipped", "it needs plugin 'base', which is not loaded: RuntimeError: no luck")


def test_requirement_with_a_nonsense_version(world: World) -> None:
    """A requirement whose own version makes no sense is not met, and breaks nobody else (A18)."""
    world.installed("odd", version="brand new")
    world.file("p", requires=("dist-odd>=1",))
    world.file("q")
    world.configure(auto_discover=True).load_all()
    assert world.outcome("p")[0] == "skipped"
    assert "q" in world.order()


# ---------------------------------------------------------------- settings


def test_disabled(world: World) -> None:
    """`enabled: false` finds and loads nothing (A20)."""
    world.file("p")
    world.installed("boxed")
    manager = world.configure(enabled=False, auto_discover=True)
    assert manager.discover() == manager.load_all() == []
    with pytest.raises(PluginError, match="no plugin 'p'"):
        manager.load("p")


def test_directories_only(world: World) -> None:
    """`auto_discover: false` leaves installed plugins alone (A20)."""
    world.file("p")
    world.installed("boxed")
    assert [report.name for report in world.configure(auto_discover=False).load_all()] == ["p"]


@pytest.mark.parametrize("settings", [{"allow": ("yes",)}, {"block": ("no",)}])
def test_allow_and_block(world: World, settings: dict[str, Any]) -> None:
    """Only plugins that are allowed and not blocked run (A20)."""
    world.file("yes")
    world.file("no", top="raise RuntimeError('executed')")
    world.configure(**settings).load_all()
    outcome, reason = world.outcome("no")
    assert outcome == "blocked"
    assert reason.startswith("the settings")
    assert world.order() == ["yes"]


def test_broken_and_blocked(world: World, tmp_path: Path) -> None:
    """Blocking a broken plugin silences it; a list of allowed ones hides neither it nor a missing directory (A20)."""
    (world.root / "broken.py").write_text("(")
    world.configure(block=("broken",)).load_all()
    assert world.outcome("broken")[0] == "blocked"
    assert world.manager.health().status == "ok"
    world.configure(allow=("yes",), directories=(world.root, tmp_path / "absent")).load_all()
    assert world.outcome("broken")[0] == world.outcome("absent")[0] == "failed"


def test_needs_a_blocked_one(world: World) -> None:
    """A plugin that needs a blocked one is skipped, and the reason says who is blocked (A17, A20)."""
    world.file("no")
    world.file("p", requires=("no",))
    world.configure(block=("no",)).load_all()
    assert world.outcome("p")[1].startswith("it needs plugin 'no', which is not loaded: the settings block it")


# ---------------------------------------------------------------- failing


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"top": "raise RuntimeError('at import')"}, "RuntimeError: at import"),
        ({"top": "import sys; sys.exit(3)"}, "SystemExit: 3"),
        ({"top": "import no_such_library"}, "ModuleNotFoundError: No module named 'no_such_library'"),
        ({"register": EVERYTHING + "    raise OSError('half-way')", "top": IMPORTS}, "OSError: half-way"),
        ({"register": EVERYTHING + "    raise SystemExit(1)", "top": IMPORTS}, "SystemExit: 1"),
        ({"register": EVERYTHING, "top": IMPORTS, "rest": "def setup(self):\n    1 / 0"}, "ZeroDivisionError"),
        ({"rest": "def __init__(self, wanted):\n    pass"}, "TypeError: .*wanted"),
        ({"register": "api.component('tool', 'x', dict)"}, "ConfigError: tool 'x': dict must extend Tool"),
        ({"register": "api.component('tol', 'x', Tool)"}, "ConfigError: unknown component kind 'tol'; did you mean"),
        ({"register": "api.at_unload(lambda: 1 / 0)\nraise OSError('first')"}, "OSError: first"),
    ],
)
def test_failing_plugin(world: World, what: dict[str, Any], reason: str) -> None:
    """Whatever a plugin raises is its own failure: what it had registered is undone, the others load (A14, A19)."""
    before = world.snapshot()
    world.file("p", **what)
    world.manager.load_all()
    outcome, why = world.outcome("p")
    assert outcome == "failed"
    assert re.search(reason, why)
    assert world.snapshot() == before
    refused = [event for event in world.told if isinstance(event, PluginRefused)]
    assert [(event.plugin, event.status, event.reason) for event in refused] == [("p", outcome, why)]
    world.file("good")
    world.manager.load_all()
    assert world.order() == ["good"]


def test_failed_plugin_is_closed(world: World) -> None:
    """A plugin whose setup fails is closed all the same (A15)."""
    rest = "def setup(self):\n    1 / 0\ndef close(self):\n    SHARED['log'].append('closed')"
    world.file("p", rest=rest)
    world.manager.load_all()
    assert SHARED["log"] == ["closed"]


@pytest.mark.parametrize("name", ["hammer", "saw"])
def test_name_taken(world: World, name: str) -> None:
    """A component name that is taken is refused, and the message names both owners (A18)."""
    world.file("first", register=f"api.component('tool', 'saw', {HERE!r})")
    world.file("second", register=f"api.component('tool', {name!r}, Tool)")
    world.manager.load_all()
    outcome, why = world.outcome("second")
    owner = "postmill" if name == "hammer" else "plugin first"
    assert outcome == "failed"
    assert f"tool '{name}' is registered twice" in why
    assert f"({owner})" in why
    assert "(plugin second)" in why


def test_registering_at_import(world: World) -> None:
    """A decorator in a plugin's file is refused, because what is registered at import cannot be undone (A19)."""
    before = world.snapshot()
    world.file("p", top="@SHARED['registry'].register('tool', 'early')\nclass Early(Tool):\n    pass")
    world.manager.load_all()
    assert "registers in its register(api), not while it is imported" in world.outcome("p")[1]
    assert world.snapshot() == before


@pytest.mark.parametrize("where", ["top", "register"])
def test_importing_a_built_in_component(world: World, where: str) -> None:
    """A plugin may import a built-in component, which stays the host's own (A19, A21)."""
    package = world.site / "host_tools"
    package.mkdir()
    (package / "__init__.py").write_text("")
    decorated = "@SHARED['registry'].register('shed', 'rake')\nclass Rake(Tool):\n    pass\n"
    (package / "rake.py").write_text(f"from {__name__} import SHARED, Tool\n{decorated}")
    world.registry.add_kind(Kind("shed", HERE, "host_tools"))
    use = "import host_tools.rake"
    world.file("p", **{"register": "pass", where: use})
    world.manager.load_all()
    assert world.outcome("p")[0] == "loaded"
    world.manager.unload("p")
    assert str(world.registry.entry("shed", "rake")) == "host_tools.rake:Rake (postmill)"


def test_two_plugins_of_one_name(world: World) -> None:
    """The first plugin of a name is loaded; the second one is refused, with the first one's place (A18)."""
    first = world.file("a", name="twin")
    world.file("b", name="twin", register="api.component('tool', 'other', Tool)")
    world.manager.load_all()
    assert world.outcome("twin") == ("loaded", "")
    ((key, report),) = [(key, one) for key, one in world.manager.reports.items() if one.outcome == "failed"]
    assert (report.name, report.reason) == ("twin", f"the name is taken by {first}")
    assert "b.py" in key
    assert world.manager.reload("twin").provides == ("tool:a",)


# ---------------------------------------------------------------- what loading gives


def test_report_event_and_access(world: World) -> None:
    """A loaded plugin is reported, announced and reachable by name (A14, A15, B9)."""
    world.file("p", version="2.1", register=EVERYTHING, top=IMPORTS)
    (report,) = world.manager.load_all()
    provides = ("kind:gadget", "tool:lazy", "section:all", "service:all", "gadget:mine")
    assert report == Report("p", "2.1", str(world.root / "p.py"), "loaded", "", provides)
    assert str(report) == f"p 2.1: loaded ({', '.join(provides)})"
    (event,) = [event for event in world.told if isinstance(event, PluginLoaded)]
    assert (event.plugin, event.version, event.provides) == ("p", "2.1", provides)
    assert isinstance(world.manager.get("p"), Plugin)
    assert world.registry.get("tool", "lazy") is Tool


def test_registering_in_setup(world: World) -> None:
    """What a plugin registers through its api after `register` is its own too (A19)."""
    before = world.snapshot()
    rest = f"def setup(self):\n    self.api.component('tool', 'late', {HERE!r})"
    world.file("p", register="self.api = api", rest=rest)
    assert world.manager.load_all()[0].provides == ("tool:late",)
    world.manager.unload("p")
    assert world.snapshot() == before


def test_handlers_hear(world: World) -> None:
    """A plugin hears events while it is loaded, and none after (A19)."""
    world.file("p", register=EVERYTHING, top=IMPORTS)
    world.manager.load_all()
    event = MetricLogged(values={"x": 1.0})
    world.bus.emit(event)
    assert SHARED["log"] == [event]
    world.manager.unload("p")
    world.bus.emit(event)
    assert SHARED["log"] == [event, "at_unload"]
    assert SHARED["any"].count(event) == 1


def test_loading_again_loads_nothing_twice(world: World) -> None:
    """`load_all` may be called again, for what is new; `load` of a loaded plugin is refused (A14, A19)."""
    world.file("p")
    world.manager.load_all()
    world.file("q")
    world.manager.load_all()
    assert world.order() == ["p", "q"]
    with pytest.raises(PluginError, match="plugin 'p' is loaded already"):
        world.manager.load("p")


def test_health(world: World) -> None:
    """The manager is well while every plugin it should load is loaded, and says which one is not (A6, A14)."""
    world.file("good")
    world.manager.load_all()
    assert world.manager.health().status == "ok"
    bad = world.file("bad", top="raise RuntimeError('no luck')", version="3")
    world.manager.load_all()
    health = world.manager.health()
    assert (health.status, health.detail) == ("degraded", "bad 3: failed RuntimeError: no luck")
    assert health.metrics == {"loaded": 1, "refused": 1}
    bad.write_text(source("bad", version="3"))
    assert world.manager.load("bad").outcome == "loaded"
    assert world.manager.health().status == "ok"


# ---------------------------------------------------------------- unloading


def test_unloading_leaves_no_trace(world: World) -> None:
    """Unloading undoes components, kinds, sections, services, handlers and modules exactly (A19, C51, R5)."""
    world.file("stays", register="api.component('tool', 'kept', Tool)\napi.on_any(SHARED['any'].append)")
    world.manager.load_all()
    before = world.snapshot()
    world.file("p", register=EVERYTHING, top=IMPORTS, rest="def close(self):\n    SHARED['log'].append('closed')")
    world.manager.load_all()
    world.registry.get("tool", "lazy")
    assert world.snapshot() != before
    world.manager.unload("p")
    assert world.snapshot() == before
    assert SHARED["log"] == ["closed", "at_unload"]
    assert world.outcome("p")[0] == "unloaded"
    assert [event.plugin for event in world.told if isinstance(event, PluginUnloaded)] == ["p"]


def test_installed_plugin_unloads_and_loads(world: World) -> None:
    """An installed plugin is undone and loaded again like any other (A19, A21)."""
    world.installed("boxed")
    manager = world.configure(auto_discover=True)
    before = world.snapshot()
    for _ in range(2):
        assert manager.load("boxed").provides == ("tool:boxed",)
        manager.unload("boxed")
        assert world.snapshot() == before


def test_frozen_registry(world: World) -> None:
    """Plugins come and go on a frozen registry, which stays frozen for everybody else (A19)."""
    world.file("p")
    world.registry.freeze()
    world.manager.load_all()
    world.manager.unload("p")
    with pytest.raises(ConfigError, match="frozen"):
        world.registry.add("tool", "late", Tool)


def test_unloading_what_others_need(world: World) -> None:
    """A plugin that another one needs stays until that one is gone; unknown names are refused (A17, A19)."""
    world.file("base")
    world.file("p", requires=("base",))
    world.manager.load_all()
    with pytest.raises(PluginError, match="plugin 'base' is required by p; unload them first"):
        world.manager.unload("base")
    assert world.registry.names("tool") == ["base", "hammer", "p"]
    world.manager.unload("p")
    world.manager.unload("base")
    assert world.registry.names("tool") == ["hammer"]
    with pytest.raises(PluginError, match="plugin 'base' is not loaded"):
        world.manager.get("base")
    with pytest.raises(PluginError, match="no plugin 'bse'; did you mean 'base'"):
        world.manager.load("bse")


def test_unloading_a_kind_in_use(world: World) -> None:
    """A plugin whose kind holds another one's component stays whole until that component is gone (A19, A25)."""
    world.file("a", register="api.kind('gadget', Tool)\napi.component('tool', 'a', Tool)")
    world.file("b", register="api.component('gadget', 'b', Tool)")
    world.manager.load_all()
    with pytest.raises(ConfigError, match="plugin a owns a component kind that others use: .*plugin b"):
        world.manager.unload("a")
    assert "a" in world.registry.names("tool")
    world.manager.close()
    assert world.registry.kinds() == ["tool", "section", "service"]


@pytest.mark.parametrize(
    "what", [{"register": "api.at_unload(lambda: 1 / 0)"}, {"rest": "def close(self):\n    1 / 0"}]
)
def test_clean_up_that_fails(world: World, what: dict[str, str]) -> None:
    """A plugin whose clean-up raises is undone all the same, says so, and does not hold up the others (A19)."""
    before = world.snapshot()
    world.file("a")
    world.file("b", **what)
    world.file("c", requires=("b",))
    world.manager.load_all()
    world.manager.close()
    assert world.outcome("b") == ("unloaded", "its clean-up failed: ZeroDivisionError: division by zero")
    assert world.snapshot() == before


def test_close_unloads_dependants_first(world: World) -> None:
    """`close` unloads in reverse order of loading, so nobody loses what it needs (A17, A19)."""
    world.file("a", requires=("m",))
    world.file("m", requires=("z",))
    world.file("z")
    world.manager.load_all()
    world.manager.close()
    assert [event.plugin for event in world.told if isinstance(event, PluginUnloaded)] == ["a", "m", "z"]


def test_reload_reads_the_file_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin in a directory is read anew, even if its file has the same size and time as before (A19, C51)."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = world.file("p", register="api.component('tool', 'one', Tool)", version="1")
    world.manager.load_all()
    before, instance = path.stat(), world.manager.get("p")
    world.file("p", register="api.component('tool', 'two', Tool)", version="2")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    report = world.manager.reload("p")
    assert (report.version, report.provides) == ("2", ("tool:two",))
    assert world.registry.names("tool") == ["hammer", "two"]
    assert world.manager.get("p") is not instance
    assert [place.name for place in world.root.iterdir()] == ["p.py"]


def test_reload_of_a_broken_file(world: World) -> None:
    """After an edit that broke it a plugin is gone and reported; the repaired file loads (A19)."""
    path = world.file("p")
    world.manager.load_all()
    path.write_text("(")
    assert world.manager.reload("p").outcome == "failed"
    assert world.registry.names("tool") == ["hammer"]
    world.file("p")
    assert world.manager.load("p").outcome == "loaded"


def test_modules_of_others_stay(world: World, tmp_path: Path) -> None:
    """Unloading forgets the modules of that plugin only, however alike the files are called (A12, A19)."""
    other = tmp_path / "more"
    other.mkdir(mode=0o755)
    world.file("a")
    world.file("a_1")
    (other / "a.py").write_text(source("c", name="c"))
    world.configure(directories=(world.root, other)).load_all()
    kept = {sys.modules[type(world.manager.get(name)).__module__] for name in ("a_1", "c")}
    world.manager.unload("a")
    assert {sys.modules[name] for name in world.snapshot()[2]} == kept


def test_twenty_times(world: World) -> None:
    """Loading and unloading again and again leaves nothing behind (A19, C51)."""
    world.file("p", register=EVERYTHING, top=IMPORTS)
    world.installed("boxed")
    manager = world.configure(auto_discover=True, allow=("p", "boxed"))
    before, reports = world.snapshot(), None
    for _ in range(20):
        manager.load_all()
        assert len(world.snapshot()[2]) == 1
        manager.close()
        assert world.snapshot() == before
        assert reports in (None, len(manager.reports))
        reports = len(manager.reports)
