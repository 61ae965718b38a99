"""Plugins: a failing one harms nobody, a loaded one can be undone without a trace."""

from __future__ import annotations

import os
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import ConfigError, PluginError
from components.core.events import MetricLogged, PluginLoaded, PluginRefused, PluginUnloaded
from components.core.plugins import Plugin, Report
from components.core.registry import Kind
from tests.unit.plugin_world import EVERYTHING, HERE, IMPORTS, SHARED, Tool, World, source

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


@pytest.mark.parametrize("hook", ["__init__", "setup"])
def test_registering_past_the_api(world: World, hook: str) -> None:
    """What a plugin's own code registers past its api is booked on the plugin, and undone with it (A19, A44)."""
    before = world.snapshot()
    world.file("p", register="pass", rest=f"def {hook}(self):\n    SHARED['registry'].add('tool', 'past', Tool)")
    assert world.manager.load_all()[0].provides == ("tool:past",)
    world.manager.unload("p")
    assert world.snapshot() == before


@pytest.mark.parametrize("where", ["top", "register"])
def test_registering_beside_a_load(world: World, where: str) -> None:
    """What a user registers while another thread loads a plugin is the user's, and is not refused (A18, A19)."""
    SHARED.update(inside=threading.Event(), go=threading.Event())
    wait = "SHARED['inside'].set()\nassert SHARED['go'].wait(10)\n"
    world.file("p", **{"register": "api.component('tool', 'theirs', Tool)", where: wait})
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(world.manager.load_all)
        try:
            assert SHARED["inside"].wait(10)
            world.registry.register("tool", "users")(Tool)
        finally:
            SHARED["go"].set()
        assert loading.result(timeout=10)[0].outcome == "loaded"
    assert world.registry.entry("tool", "users").owner == "postmill"
    world.manager.unload("p")
    assert world.registry.names("tool") == ["hammer", "users"]


def test_lazy_module_that_registers(world: World) -> None:
    """A lazily imported module of a plugin may not register past the api: nothing of it outlives the plugin (A19)."""
    before = world.snapshot()
    decorated = "@SHARED['registry'].register('tool', 'sneaked')\nclass Sneaked(Tool):\n    pass\n"
    (world.site / "lazy_part.py").write_text(f"from {__name__} import SHARED, Tool\n{decorated}")
    world.file("p", register="api.component('tool', 'lazy', 'lazy_part:Sneaked')")
    world.manager.load_all()
    assert "registers in its register(api), not while it is imported" in (world.registry.broken("tool", "lazy") or "")
    world.manager.unload("p")
    assert world.snapshot() == before


def test_refusals_are_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A plugin that failed or was skipped is warned of once per load; a blocked one, as wished, is not (A14, A20)."""
    world.file("bad", top="raise RuntimeError('no luck')", version="3")
    world.file("lacks", requires=("ghost",))
    world.file("no")
    world.configure(block=("no",)).load_all()
    expected = ["plugin bad 3: failed RuntimeError: no luck", "plugin lacks 0: skipped it needs 'ghost', which is"]
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text[: len(start)] for text, start in zip(warned, expected, strict=True)] == expected


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


def test_close_with_a_stranger_in_a_kind(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Closing unloads every plugin, even one whose kind a user's class is in, which the log names (A19, A25)."""
    before = world.snapshot()
    world.file("a")
    world.file("b", register="api.kind('gadget', Tool)")
    world.file("c")
    world.manager.load_all()
    world.registry.add("gadget", "users", Tool)
    world.manager.close()
    assert world.snapshot() == before
    assert {report.outcome for report in world.manager.reports.values()} == {"unloaded"}
    assert f"plugin b takes its component kind away from {HERE} (postmill)" in caplog.messages


def test_failing_plugin_with_a_stranger_in_its_kind(world: World) -> None:
    """A plugin that fails after another one used its kind is undone all the same, and the others load (A14, A19)."""
    rest = "def setup(self):\n    with SHARED['registry'].owned_by('user'):\n"
    rest += "        SHARED['registry'].add('gadget', 'users', Tool)\n    1 / 0"
    world.file("a", register="api.kind('gadget', Tool)", rest=rest)
    world.file("b")
    world.manager.load_all()
    assert world.outcome("a") == ("failed", "ZeroDivisionError: division by zero")
    assert world.order() == ["b"]
    assert world.registry.kinds() == ["tool", "section", "service"]


def test_close_collects_errors(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong with one plugin at the close is told after all others are gone (A19)."""
    for name in "abc":
        world.file(name)
    world.manager.load_all()
    forget = world.registry.forget

    def refuse(owner: str, strangers: bool = False) -> None:
        if owner == "plugin b":
            raise RuntimeError("b stays")
        forget(owner, strangers)

    monkeypatch.setattr(world.registry, "forget", refuse)
    with pytest.raises(ExceptionGroup, match="plugins failed to unload") as caught:
        world.manager.close()
    assert [str(error) for error in caught.value.exceptions] == ["b stays"]
    assert world.registry.names("tool") == ["b", "hammer"]


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
