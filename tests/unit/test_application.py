"""The composition root: what a process holds, opened in order, and closed whatever happens."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from components.core.component import StrictConfig
from components.core.errors import ConfigError, WiringError
from components.core.events import (
    ComponentMoved,
    Event,
    EventBus,
    HandlerFailed,
    MetricLogged,
    PluginLoaded,
    PluginUnloaded,
)
from components.core.health import Health
from components.core.kinds import registry
from components.core.lifecycle import State
from components.core.recipe import Recipe, parse_recipe
from components.core.service import serves
from components.core.settings import Settings
from components.interfaces import Sink
from components.services.application import Application, application, current
from components.services.training import TrainingService
from components.services.workspace import Workspace
from tests import tiny

LOG: list[str] = []
PLUGIN = """
from components.core.component import StrictConfig
from components.core.plugins import Plugin
from components.gates.budget import BudgetGate


class Crumbs(StrictConfig):
    size: int = 3


class Bakery(Plugin):
    version = "1.2"

    def register(self, api):
        api.component("gate", "bakery_budget", BudgetGate)
        api.section("crumbs", Crumbs)
"""


class Noisy(Sink):
    """Writes down its life and what it hears."""

    def setup(self) -> None:
        LOG.append(f"open {type(self).__name__}")
        self.off = self.bus.on(MetricLogged, lambda event: LOG.append(f"{type(self).__name__} hears {event.step}"))

    def close(self) -> None:
        LOG.append(f"close {type(self).__name__}")
        self.off()


class Second(Noisy):
    requires = ("test_first",)


class Broken(Noisy):
    requires = ("test_second",)

    def setup(self) -> None:
        super().setup()
        raise OSError("no such server")


class Stubborn(Noisy):
    """Cannot be closed."""

    def close(self) -> None:
        super().close()
        raise OSError("connection lost")


@serves("test_scoped", lifetime="scoped")
class Scoped:
    """One for each run."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe


class Talkative:
    """A service that says how it is."""

    def health(self) -> Health:
        return Health("degraded", "a little tired")


class Unwell:
    def __init__(self) -> None:
        raise OSError("no database")

    def health(self) -> Health:
        raise AssertionError("not reached")


@pytest.fixture(autouse=True)
def ours() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    LOG.clear()
    registry.names("sink")
    registry.names("service")
    yield
    with registry.owned_by("test"):
        registry.forget("test")


def add(kind: str, **classes: type) -> None:
    with registry.owned_by("test"):
        for name, cls in classes.items():
            registry.add(kind, name, cls)


def settings(root: Path, **more: Any) -> Settings:
    """Settings that leave the sinks of the project and what is installed on this machine out."""
    quiet = {name: False for name in registry.names("sink") if not name.startswith("test_")}
    return Settings(
        root=root,
        features=quiet | more.pop("features", {}),
        plugins={"auto_discover": False, **more.pop("plugins", {})},
        **more,
    )


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return parse_recipe(tiny.recipe(tmp_path / "data", tmp_path / "model"))


@pytest.fixture
def app(tmp_path: Path) -> Application:
    """Not entered yet."""
    return Application(settings(tmp_path / "root"))


def outside() -> None:
    """No run is open, and code that asks for one is told so."""
    with pytest.raises(WiringError, match=r"no run is open here: open one with Application\.run\(recipe\)"):
        current()


# ---------------------------------------------------------------- plugins


@pytest.fixture
def bakery(tmp_path: Path) -> Path:
    """A directory with one plugin."""
    folder = tmp_path / "plugins"
    folder.mkdir(mode=0o755)
    (folder / "bakery.py").write_text(PLUGIN)
    (folder / "bakery.py").chmod(0o644)
    return folder


def with_plugin(tmp_path: Path, folder: Path) -> Application:
    return Application(settings(tmp_path / "root", plugins={"directories": (folder,)}))


@pytest.mark.parametrize("error", [None, RuntimeError("boom"), KeyboardInterrupt()])
def test_plugins_live_as_long_as_the_application(tmp_path: Path, bakery: Path, error: BaseException | None) -> None:
    """Plugins are loaded when the application is entered and undone when it is left, in whatever way (A16, A18)."""
    app, told = with_plugin(tmp_path, bakery), []
    app.bus.on(PluginLoaded, told.append)
    app.bus.on(PluginUnloaded, told.append)
    before = registry.names("gate")
    with suppress(RuntimeError, KeyboardInterrupt), app:
        assert "bakery_budget" in registry.names("gate")
        if error:
            raise error
    assert registry.names("gate") == before
    assert registry.names("section") == []
    assert [(type(event), event.plugin) for event in told] == [(PluginLoaded, "bakery"), (PluginUnloaded, "bakery")]


def test_application_can_be_entered_again(tmp_path: Path, bakery: Path) -> None:
    """An application that was left can be entered again, with its plugins (A16)."""
    app = with_plugin(tmp_path, bakery)
    for _ in range(2):
        with app:
            assert "bakery_budget" in registry.names("gate")
        assert "bakery_budget" not in registry.names("gate")


def test_entering_that_fails_leaves_nothing(tmp_path: Path, bakery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If entering is interrupted, plugins that were loaded are undone and no application is open (A16)."""
    app = with_plugin(tmp_path, bakery)
    load_all = app.plugins.load_all

    def interrupted() -> Any:
        load_all()
        assert "bakery_budget" in registry.names("gate")
        raise KeyboardInterrupt

    monkeypatch.setattr(app.plugins, "load_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        app.__enter__()
    assert "bakery_budget" not in registry.names("gate")
    with Application(settings(tmp_path)) as another, application() as found:
        assert found is another


class AsksForCrumbs:
    def __init__(self, recipe: Recipe, workspace: Workspace, settings: Settings, app: Application) -> None:
        self.got = (recipe, workspace, settings, app)


def test_sections_of_plugins_are_injected(tmp_path: Path, bakery: Path) -> None:
    """A service asks for a plugin's section of the recipe by its class (A32, A35)."""
    with with_plugin(tmp_path, bakery) as app:
        section = registry.get("section", "crumbs")
        recipe = parse_recipe(tiny.recipe(tmp_path / "d", tmp_path / "m", crumbs={"size": 7}))
        with app.container(recipe) as container:
            assert container.get(section).size == 7


def test_recipe_that_is_older_than_a_plugin(tmp_path: Path, bakery: Path, recipe: Recipe) -> None:
    """A recipe that was read before a plugin brought its section is refused in a sentence (A16, A35)."""
    with (
        with_plugin(tmp_path, bakery) as app,
        pytest.raises(WiringError, match="read before plugin bakery brought its section 'crumbs'; read it again"),
    ):
        app.container(recipe)


# ---------------------------------------------------------------- the services of a run


def test_what_the_application_brings_is_injected(app: Application, recipe: Recipe) -> None:
    """Services get the application's own settings, bus and workspace, and the run's recipe (A32, R8)."""
    add("service", test_asks=AsksForCrumbs)
    with app, app.run(recipe) as run:
        got_recipe, workspace, *rest = run.get("test_asks").got
        assert (got_recipe, workspace.root, *rest) == (recipe, app.workspace.root, app.settings, app)
        assert run.get(EventBus) is workspace.bus
        assert workspace.bus.parent is app.bus


def test_run_sets_and_resets_current(app: Application, recipe: Recipe) -> None:
    """Code below a run asks `current()` for its services; before and after there is none (A31, A33)."""
    outside()
    with app:
        outside()
        with app.run(recipe) as run:
            assert current() is run
            assert current().get(TrainingService) is run.get("training")
            with app.run(recipe) as inner:
                assert current() is inner
                assert inner.get(TrainingService) is not run.get(TrainingService)
            assert current() is run
        outside()


def test_failed_run_resets_current(app: Application, recipe: Recipe) -> None:
    """A run that fails comes out with its own error and leaves no run open (A31, A34)."""
    error = RuntimeError("boom")
    with app:
        with pytest.raises(RuntimeError) as caught:
            fail(app, recipe, error)
        assert caught.value is error
        outside()


def fail(app: Application, recipe: Recipe, error: BaseException) -> None:
    """A run that says one figure and fails."""
    with app.run(recipe):
        app.bus.emit(MetricLogged(values={}, step=1))
        raise error


def test_wrong_services_of_a_recipe(app: Application, tmp_path: Path) -> None:
    """A recipe whose services do not fit is refused before the run begins (A35)."""
    wrong = parse_recipe(tiny.recipe(tmp_path / "d", tmp_path / "m", services={"trainin": "x"}))
    with app, pytest.raises(WiringError, match="services.trainin: no such role; did you mean 'training'"):
        fail(app, wrong, AssertionError("not reached"))
    outside()


def test_runs_in_threads_do_not_mix(app: Application, tmp_path: Path) -> None:
    """Eight runs at the same time have a scope each; what one asks for is never another's (A31, R1)."""
    add("service", test_scoped=Scoped)
    barrier = threading.Barrier(8)

    def work(number: int) -> list[Any]:
        plan = parse_recipe(tiny.recipe(tmp_path / str(number), tmp_path / "m", name=f"run-{number}"))
        with app.run(plan) as run:
            barrier.wait(20)
            got = [current().get("test_scoped") for _ in range(50)]
            assert current() is run
            barrier.wait(20)
            assert {made.recipe.name for made in got} == {f"run-{number}"}
            assert len(set(map(id, got))) == 1
        outside()
        return got[0]

    with app, ThreadPoolExecutor(8) as pool:
        made = [job.result(timeout=60) for job in [pool.submit(work, number) for number in range(8)]]
    assert len(set(map(id, made))) == 8


def test_threads_of_a_run_share_its_scope(app: Application, recipe: Recipe) -> None:
    """A thread that is started with the context of a run, as Prefect's are, sees that run (A31)."""
    add("service", test_scoped=Scoped)
    with app, app.run(recipe) as run, ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(contextvars.copy_context().run, lambda: current().get("test_scoped")) for _ in range(8)]
        assert {id(job.result(timeout=20)) for job in jobs} == {id(run.get("test_scoped"))}
        with pytest.raises(WiringError):
            pool.submit(current).result(timeout=20)


# ---------------------------------------------------------------- sinks


def test_sinks_open_and_close_in_order(app: Application, recipe: Recipe) -> None:
    """Sinks are opened before a run, requirements first, hear its events, and are closed after it (A4, B6)."""
    add("sink", test_second=Second, test_first=Noisy)
    with app:
        app.bus.emit(MetricLogged(values={}, step=0))
        for step in (1, 2):
            with app.run(recipe) as run:
                assert app.sinks.status() == {"test_first": State.RUNNING, "test_second": State.RUNNING}
                run.get(EventBus).emit(MetricLogged(values={}, step=step))
    heard = [["open Noisy", "open Second", f"Noisy hears {s}", f"Second hears {s}", "close Second"] for s in (1, 2)]
    assert [*heard[0], "close Noisy", *heard[1], "close Noisy"] == LOG


def test_two_runs_do_not_hear_each_other(app: Application, recipe: Recipe) -> None:
    """What one run tells reaches its own sinks and the application's handlers, not the sinks of another run (B6)."""
    add("sink", test_first=Noisy)
    told: list[Event] = []
    with app, app.run(recipe) as one:
        app.bus.on(MetricLogged, told.append)
        with app.run(recipe) as two:
            LOG.clear()
            two.get(EventBus).emit(MetricLogged(values={}, step=2))
            assert LOG == ["Noisy hears 2"]
        one.get(EventBus).emit(MetricLogged(values={}, step=1))
        assert LOG == ["Noisy hears 2", "close Noisy", "Noisy hears 1"]
    assert [event.data["step"] for event in told] == [2, 1]


def test_sink_that_cannot_be_loaded(app: Application, recipe: Recipe, caplog: pytest.LogCaptureFixture) -> None:
    """A sink whose module cannot be imported is left out with a warning; the run has the others (A18, B7)."""
    with registry.owned_by("plugin acme"):
        registry.add("sink", "test_gone", "no_such_module_here:Sink")
    add("sink", test_first=Noisy)
    try:
        with app, app.run(recipe):
            assert list(app.sinks.status()) == ["test_first"]
    finally:
        with registry.owned_by("plugin acme"):
            registry.forget("plugin acme")
    assert "sink left out: sink 'test_gone' cannot be loaded from no_such_module_here:Sink (plugin acme)" in caplog.text


def test_sinks_know_their_folder(tmp_path: Path, recipe: Recipe) -> None:
    """A sink is told the bus and the folder of the settings, below the root (A32)."""
    add("sink", test_first=Noisy)
    with Application(settings(tmp_path, monitoring={"folder": "deep/logs"})) as app, app.run(recipe):
        sink = app.sinks.get("test_first")
        assert (sink.bus.parent, sink.folder) == (app.bus, tmp_path / "deep" / "logs")
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt(), SystemExit(3)])
def test_sinks_close_when_the_run_fails(app: Application, recipe: Recipe, error: BaseException) -> None:
    """Sinks are closed when the run fails or is interrupted, after they heard of it (A1, A34)."""
    add("sink", test_second=Second, test_first=Noisy)
    with app, pytest.raises(type(error)) as caught:
        fail(app, recipe, error)
    assert caught.value is error
    assert LOG[-2:] == ["close Second", "close Noisy"]


def test_sinks_close_when_the_wiring_fails(app: Application, tmp_path: Path) -> None:
    """Sinks are closed too when the services of the recipe do not fit (A1, A35)."""
    add("sink", test_first=Noisy)
    wrong = parse_recipe(tiny.recipe(tmp_path / "d", tmp_path / "m", services={"x": "y"}))
    with app, pytest.raises(WiringError):
        fail(app, wrong, AssertionError("not reached"))
    assert LOG == ["open Noisy", "close Noisy"]


def test_sink_that_cannot_open(app: Application, recipe: Recipe) -> None:
    """A sink that cannot be set up is reported, and the run goes on with the others (A1, A2, B7)."""
    add("sink", test_third=Broken, test_second=Second, test_first=Noisy)
    told: list[Event] = []
    with app:
        app.bus.on(HandlerFailed, told.append)
        with app.run(recipe):
            assert app.health()["sink test_third"] == Health("failed", "OSError: no such server")
        outside()
    assert [(event.data["handler"], event.data["error"]) for event in told] == [
        ("sink test_third", "OSError: no such server")
    ]
    assert LOG == ["open Noisy", "open Second", "open Broken", "close Broken", "close Second", "close Noisy"]


class Demanding(Noisy):
    """Asks for a configuration, which no sink gets."""

    class Config(StrictConfig):
        url: str


def test_sink_with_a_required_key(app: Application, recipe: Recipe) -> None:
    """A sink is built without configuration; one that insists on a key is refused with its name and the key (A23)."""
    add("sink", test_demanding=Demanding)
    with app, pytest.raises(ConfigError, match="^sink 'test_demanding': url: key 'url' is required"):
        fail(app, recipe, AssertionError("not reached"))
    assert LOG == []


def test_sink_that_cannot_close(app: Application, recipe: Recipe, caplog: pytest.LogCaptureFixture) -> None:
    """A sink that fails to close is reported, and takes neither a good run's result nor a failed one's error (A34)."""
    add("sink", test_stubborn=Stubborn, test_first=Noisy)
    with app:
        with app.run(recipe):
            pass
        assert "sinks failed to close: connection lost" in caplog.text
        assert app.health()["sink test_stubborn"] == Health("failed", "OSError: connection lost")
        with pytest.raises(RuntimeError, match="boom"):
            fail(app, recipe, RuntimeError("boom"))
    assert LOG.count("close Noisy") == LOG.count("close Stubborn") == 2


def test_features_switch_sinks_off(tmp_path: Path, recipe: Recipe) -> None:
    """`features: {NAME: false}` switches one sink off, `monitoring.enabled: false` all (A5)."""
    add("sink", test_first=Noisy, test_other=Noisy)
    for more, expected in (
        ({}, ["test_first", "test_other"]),
        ({"features": {"test_first": True}}, ["test_first", "test_other"]),
        ({"features": {"test_first": False}}, ["test_other"]),
        ({"monitoring": {"enabled": False}}, []),
    ):
        with Application(settings(tmp_path, **more)) as app, app.run(recipe):
            assert sorted(app.sinks.status()) == expected


def test_sink_that_requires_one_that_is_off(tmp_path: Path, recipe: Recipe) -> None:
    """A sink whose requirement is switched off is found by `check`, both named; a run goes on without it (A4)."""
    add("sink", test_second=Second, test_first=Noisy)
    with Application(settings(tmp_path, features={"test_first": False})) as app:
        with pytest.raises(ConfigError, match="sink 'test_second' requires 'test_first', which does not exist"):
            app.check(recipe)
        with app.run(recipe):
            pass
    assert LOG == []


def test_unknown_features(tmp_path: Path, recipe: Recipe) -> None:
    """Unknown features are found by `check` and told by `health`, with the closest name and all names (A44)."""
    add("sink", test_first=Noisy)
    with Application(settings(tmp_path, features={"test_frist": True, "zzz": False})) as app:
        with pytest.raises(WiringError) as caught:
            app.check(recipe)
        assert app.health()["settings"].status == "failed"
        with app.run(recipe):
            pass  # a blocked plugin's sink may be named there
    first, second = caught.value.problems
    assert first.startswith("features.test_frist: no such sink; did you mean 'test_first'? (known: ")
    assert "journal" in first
    assert second.startswith("features.zzz: no such sink (known: ")


def test_sinks_of_parallel_runs(app: Application, tmp_path: Path) -> None:
    """Runs that begin at the same moment open and close sinks of their own (A3, A31)."""
    add("sink", test_first=Noisy, test_second=Second)
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        plan = parse_recipe(tiny.recipe(tmp_path / str(number), tmp_path / "m"))
        barrier.wait(20)
        with app.run(plan):
            barrier.wait(20)

    with app, ThreadPoolExecutor(8) as pool:
        for job in [pool.submit(work, number) for number in range(8)]:
            job.result(timeout=60)
    assert sorted(LOG) == sorted(["open Noisy", "open Second", "close Second", "close Noisy"] * 8)


def test_moves_of_sinks_are_told(app: Application, recipe: Recipe) -> None:
    """Every move of a sink is an event (A5)."""
    add("sink", test_first=Noisy)
    moves: list[ComponentMoved] = []
    app.bus.on(ComponentMoved, moves.append)
    with app, app.run(recipe):
        pass
    assert [(move.id, move.after) for move in moves] == [("test_first", "running"), ("test_first", "stopped")]


# ---------------------------------------------------------------- nested applications


def test_nested_application_is_the_callers(app: Application) -> None:
    """`application()` inside an application is that one, and does not close it (A33)."""
    with app:
        with application() as found:
            assert found is app
        with application() as again:
            assert again is app


def test_application_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`application()` without one opens its own and closes it again (A33)."""
    monkeypatch.chdir(tmp_path)
    with application() as first:
        assert first.settings.folder == tmp_path
        with application() as inner:
            assert inner is first
    with application() as second:
        assert second is not first


def test_application_of_another_thread_is_not_ours(app: Application, tmp_path: Path) -> None:
    """An application belongs to the code below it: a thread of its own opens its own (A31)."""

    def ask() -> Application:
        with application() as found:
            return found

    with app, ThreadPoolExecutor(1) as pool:
        assert pool.submit(ask).result(timeout=30) is not app
        assert pool.submit(contextvars.copy_context().run, ask).result(timeout=30) is app


# ---------------------------------------------------------------- health


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_health_creates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking an empty directory for its health finds plugins and services well, and writes nothing (A6, A43)."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    with Application(settings(empty)) as app:
        found = app.health()
    assert {name: h.status for name, h in found.items()} == dict.fromkeys(
        ("workspace", "plugins", "service registry"), "ok"
    )
    assert files(empty) == []


def test_health_covers_everything(app: Application, recipe: Recipe) -> None:
    """Plugins, open sinks and every singleton service that can tell have an entry; no other service is made (A6)."""
    add("sink", test_first=Noisy)
    add("service", test_talks=Talkative, test_scoped=Scoped)
    with app:
        with app.run(recipe):
            found = app.health()
            assert found["sink test_first"] == Health("ok")
            assert found["service test_talks"] == Health("degraded", "a little tired")
            assert found["plugins"].status == "ok"
            assert "service test_scoped" not in found
        assert "sink test_first" not in app.health()


def test_health_of_a_broken_service(app: Application) -> None:
    """A service that cannot be made is a finding; the others are asked all the same (A6, R1)."""
    add("service", test_unwell=Unwell, test_talks=Talkative)
    with app:
        found = app.health()
    assert found["service test_unwell"] == Health("failed", "OSError: no database")
    assert found["service test_talks"].status == "degraded"


def test_health_of_services_that_do_not_fit(app: Application) -> None:
    """Services that cannot be wired are a finding, not the end of the health check (A6, A44)."""

    class Needs:
        def __init__(self, missing: Any) -> None: ...

    Needs.__init__.__annotations__["missing"] = Noisy
    add("service", test_needs=Needs)
    with app:
        found = app.health()
    assert found["plugins"].status == "ok"
    assert found["services"].status == "failed"
    assert "nobody provides Noisy" in found["services"].detail


def test_health_of_a_refused_plugin(tmp_path: Path, bakery: Path) -> None:
    """A plugin that fails to load makes the plugins degraded, with its reason (A6, A17)."""
    (bakery / "bakery.py").write_text(PLUGIN.replace('api.component("gate"', 'api.component("gatee"'))
    with with_plugin(tmp_path, bakery) as app:
        health = app.health()["plugins"]
    assert health.status == "degraded"
    assert "did you mean 'gate'" in health.detail


def test_nothing_is_written_before_a_run_does(app: Application, recipe: Recipe, tmp_path: Path) -> None:
    """Opening an application and an empty run writes nothing below its root (A34)."""
    heard: list[Event] = []
    app.bus.on_any(heard.append)
    with app, app.run(recipe):
        pass
    assert not (tmp_path / "root").exists()
    assert heard == []


class Section(StrictConfig):
    """A section that nobody writes."""

    depth: int = 2


class AsksForSection:
    def __init__(self, section: Section) -> None:
        self.section = section


def test_section_with_defaults(tmp_path: Path, app: Application) -> None:
    """A section whose keys all have defaults may be left out of the recipe, and is injected all the same (A35)."""
    add("section", test_section=Section)
    add("service", test_asks=AsksForSection)
    with app, app.run(parse_recipe(tiny.recipe(tmp_path / "d", tmp_path / "m"))) as run:
        assert run.get("test_asks").section.depth == 2
