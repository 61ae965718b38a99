"""The acceptance list of the modular core, over the public API (A48). Details are tested in tests/unit."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pytest

import components
from components import (
    Application,
    Component,
    Container,
    Event,
    EventBus,
    Instances,
    Kind,
    Pipeline,
    Plugin,
    PluginManager,
    PluginSettings,
    Registry,
    Settings,
    State,
    StrictConfig,
    TrainingService,
    create,
    parse_recipe,
    registry,
    step,
)
from components.core.errors import ConfigError, MissingExtraError, WiringError, require
from components.core.events import StageStarted, TrainStep
from components.core.service import serves
from tests import tiny
from tests.conftest import ROOT


class Tool(Component):
    """A component that remembers what was done to it."""

    class Config(StrictConfig):
        size: int = 1

    done: list[str]

    def setup(self) -> None:
        self.done = ["setup"]

    def close(self) -> None:
        self.done.append("close")


@pytest.fixture
def tools() -> Registry:
    """A registry of its own, with one kind and one tool."""
    table = Registry([Kind("tool", Tool), Kind("service", object)])
    table.add("tool", "hammer", Tool)
    return table


class TestMicroModules:
    """Components with a life, by id; and that they do real work."""

    def test_id_is_not_the_class_name(self, tools: Registry) -> None:
        """An instance is kept under its id and its configuration arrives unwrapped (A3, R2)."""
        with Instances(tools, EventBus()) as running:
            running.create("opt_1", "tool", "hammer", size=3)
            assert running.start("opt_1") is True
            assert running.get("opt_1").config.size == 3

    def test_get_gives_an_instance(self, tools: Registry) -> None:
        """What was registered as a class comes back as an instance (A41, R4)."""
        with Instances(tools, EventBus()) as running:
            running.create("a", "tool", "hammer")
            assert isinstance(running.get("a"), Tool)

    def test_status_does_not_hang(self, tools: Registry) -> None:
        """Asking for status and health from a handler of a state change returns (R1)."""
        bus, seen = EventBus(), []
        with Instances(tools, bus) as running:
            bus.on_any(lambda event: seen.append((running.status(), running.health())))
            running.create("a", "tool", "hammer")
            thread = threading.Thread(target=running.start_all)
            thread.start()
            thread.join(5)
            assert not thread.is_alive()
            assert seen
            assert running.status() == {"a": State.RUNNING}

    def test_everything_is_closed(self, tools: Registry) -> None:
        """The end of the block closes what runs, also after an error (A1)."""
        tool: Any = None
        with suppress(ZeroDivisionError), Instances(tools, EventBus()) as running:
            tool = running.create("a", "tool", "hammer")
            running.start_all()
            raise ZeroDivisionError
        assert tool.done == ["setup", "close"]

    def test_training_changes_weights_and_leaves_a_model(self, lab: Any) -> None:
        """Training moves weights, and what it leaves loads through the safe door (A7, A10, R7)."""
        from safetensors.torch import load_file

        from components.core.safeload import load_adapter, load_causal_lm

        moved = [w for n, w in load_file(lab.trained.path / "adapter_model.safetensors").items() if "lora_B" in n]
        assert any(float(w.abs().max()) > 0 for w in moved)  # B starts at zero
        load_adapter(load_causal_lm(lab.base.path), lab.trained.path)

    @pytest.mark.parametrize("level", ["basic", "enhanced", "advanced"])
    def test_levels_say_what_they_run(self, level: str, tmp_path: Path) -> None:
        """A level is a list of passes that the resolved recipe shows; no level is a name without work (A8, R7)."""
        plain = tiny.recipe(tmp_path, tmp_path / "model", optimize={"small": level})
        chain = [spec.type for spec in parse_recipe(plain).optimize["small"]]
        assert chain == ["merge_adapter", "onnx"]

    def test_enhanced_really_quantizes(self, lab: Any, tmp_path: Path) -> None:
        """The enhanced level gives a smaller model than the basic one (A8, B14, R11)."""
        from components import OptimizationService

        sizes = {}
        for level in ("basic", "enhanced"):
            plan = parse_recipe(tiny.recipe(tmp_path, lab.base.path, optimize={level: level}))
            chain = plan.optimize[level]
            sizes[level] = OptimizationService(lab.workspace).variant(level, chain, lab.trained, 17).size
        assert sizes["enhanced"] < 0.8 * sizes["basic"]


ONE = """
from components.core.plugins import Plugin
from tests.test_modular import Tool
class Anything(Plugin):
    name = "one"
    version = "1.2"
    requires = ["two>=1"]
    def register(self, api):
        api.component("tool", "one", Tool)
"""
TWO = """
from pathlib import Path
Path(__file__).with_suffix(".ran").touch()
from components.core.plugins import Plugin
from tests.test_modular import Tool
class Other(Plugin):
    name = "two"
    version = "1.0"
    def register(self, api):
        api.component("tool", "two", Tool)
"""


class TestPluginSystem:
    """Found without being run, loaded in order, gone without a trace."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "a_one.py").write_text(ONE)
        (tmp_path / "b_two.py").write_text(TWO)
        return tmp_path

    @pytest.fixture
    def manager(self, folder: Path, tools: Registry) -> Iterator[PluginManager]:
        settings = PluginSettings(auto_discover=False, directories=(folder,))
        manager = PluginManager(tools, EventBus(), settings)
        yield manager
        manager.close()

    def test_discovery_executes_nothing(self, manager: PluginManager, folder: Path) -> None:
        """Discovery reads metadata only (A13, R5)."""
        assert {candidate.name: candidate.version for candidate in manager.discover()} == {"one": "1.2", "two": "1.0"}
        assert not (folder / "b_two.ran").exists()

    def test_order_follows_requirements(self, manager: PluginManager, tools: Registry) -> None:
        """A plugin is loaded after the one it requires, whatever the files are called (A17, R5)."""
        assert [report.name for report in manager.load_all()] == ["two", "one"]
        assert tools.names("tool") == ["hammer", "one", "two"]

    def test_unload_undoes_everything(self, manager: PluginManager, tools: Registry) -> None:
        """After unloading, the registry is what it was (A19, B9, R5)."""
        manager.load_all()
        manager.unload("one")
        manager.unload("two")
        assert tools.names("tool") == ["hammer"]

    def test_a_missing_requirement_harms_nobody_else(self, manager: PluginManager, folder: Path) -> None:
        """A plugin whose requirement is missing is skipped by name, the others load (A18)."""
        (folder / "c.py").write_text(ONE.replace('"one"', '"three"').replace("two>=1", "nothing>=1"))
        outcomes = {report.name: report for report in manager.load_all()}
        assert outcomes["three"].outcome == "skipped"
        assert "nothing>=1" in outcomes["three"].reason
        assert outcomes["one"].outcome == "loaded"

    def test_directories_only_when_configured(self, folder: Path, tools: Registry) -> None:
        """Without a configured directory nothing is read from one (A12, A20)."""
        assert PluginManager(tools, EventBus(), PluginSettings(auto_discover=False)).discover() == []

    def test_a_plugin_is_a_component(self, manager: PluginManager) -> None:
        """A loaded plugin is had by name and can be asked for its health (A15)."""
        manager.load_all()
        assert isinstance(manager.get("one"), Plugin)
        assert isinstance(manager.get("one"), Component)
        assert manager.health().status == "ok"


class TestFactoryPatterns:
    """Names to classes, configuration checked, fluent recipes."""

    def test_create_after_the_decorator(self, tools: Registry) -> None:
        """A decorated class can be created by its name, and only by its name (A22, B11, R10)."""

        @tools.register("tool", "saw")
        class Saw(Tool):
            """Cuts."""

        assert isinstance(tools.create("tool", "saw", size=2), Saw)
        assert tools.names("tool") == ["hammer", "saw"]

    def test_optimizers_are_a_kind(self) -> None:
        """`create("optimizer", "adamw", lr=...)` gives torch's AdamW with that rate (B11, R10)."""
        import torch

        rule, arguments = create("optimizer", "adamw", lr=0.001).rule(0.5)
        assert rule is torch.optim.AdamW
        assert arguments["lr"] == 0.001

    def test_a_kind_has_a_factory(self) -> None:
        """`factory(kind)` makes and lists the components of one kind (B12, R10)."""
        factory = registry.factory("gate")
        assert factory.create("budget", max={"bytes": 5}).config.max == {"bytes": 5.0}
        assert "budget" in factory.names()

    def test_configuration_is_checked(self, tools: Registry) -> None:
        """A wrong configuration is one error that names kind, name, key and value (A23, A27)."""
        with pytest.raises(ConfigError, match=r"tool 'hammer': size: .*got 'big'"):
            tools.create("tool", "hammer", size="big")

    def test_the_base_is_checked_at_registration(self, tools: Registry) -> None:
        """A class of another family is refused when it is registered (B10)."""
        with pytest.raises(ConfigError, match="must extend Tool"):
            tools.add("tool", "stranger", dict)

    def test_a_new_kind_is_one_line(self, tools: Registry) -> None:
        """A kind may be a Protocol; a class that lacks a member of it is refused by name (A11, A25)."""

        class Greeter(Protocol):
            def greet(self) -> str: ...

        tools.add_kind(Kind("greeter", Greeter))
        with pytest.raises(ConfigError, match="lacks greet of"):
            tools.add("greeter", "mute", Tool)

    def test_the_builder_gives_the_same_recipe(self, tmp_path: Path) -> None:
        """A recipe written in Python equals the one from YAML (A26)."""
        plain = tiny.recipe(tmp_path, tmp_path / "model")
        built = Pipeline("tiny", seed=17).model(plain["model"]["type"], **_keys(plain["model"])).data(**plain["data"])
        for kind in ("train", "benchmark", "gate"):
            for part in plain[kind]:
                built = getattr(built, kind)(part["type"], **_keys(part))
        for variant, chain in plain["optimize"].items():
            built = built.optimize(variant, *chain)
        assert built.register("tiny", alias="staging").build() == parse_recipe(plain)

    def test_a_component_can_be_swapped_by_name(self, tmp_path: Path) -> None:
        """Another implementation is another `type` in the recipe (A51)."""
        plain = tiny.recipe(tmp_path, tmp_path / "model")
        lora = parse_recipe(plain).with_updates({"train.0.type": "lora"})
        assert lora.train[0].type == "lora"

    def test_step_is_the_shape_of_yaml(self) -> None:
        """`step` writes what a recipe would say (A24)."""
        assert step("onnx", precision="int8") == {"type": "onnx", "precision": "int8"}


def _keys(part: dict[str, Any]) -> dict[str, Any]:
    """A component's keys without its type."""
    return {key: value for key, value in part.items() if key != "type"}


class Clock(Protocol):
    def now(self) -> float: ...


@serves("clock", provides=Clock)
class StoppedClock:
    """Always noon."""

    def now(self) -> float:
        return 12.0


class Diary:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock


class Desk:
    def __init__(self, diary: Diary, clock: Clock) -> None:
        self.diary, self.clock = diary, clock


class TestDependencyInjection:
    """Constructors filled in by their type hints."""

    @pytest.fixture
    def wired(self, tools: Registry) -> Registry:
        for name, cls in {"clock": StoppedClock, "diary": Diary, "desk": Desk}.items():
            tools.add("service", name, cls)
        return tools

    def test_nested_dependencies(self, wired: Registry) -> None:
        """A service whose dependency has a dependency is made, with one instance of each (A32, R1)."""
        with Container(wired) as container:
            desk = container.get(Desk)
            assert desk.diary.clock is desk.clock is container.get(Clock)
            assert desk.clock.now() == 12.0

    def test_by_name(self, wired: Registry) -> None:
        """A service is had by its role's name, with its constructor filled in (B1, R8)."""
        with Container(wired) as container:
            assert container.get("desk") is container.get(Desk)

    def test_lifetimes(self, wired: Registry) -> None:
        """Singleton: one. Scoped: one a scope. Transient: one a request (A29, A30, A31)."""
        lifetimes = {"desk": {"lifetime": "transient"}, "diary": {"lifetime": "scoped"}}
        with Container(wired, lifetimes) as container, container.scope() as one, container.scope() as two:
            assert one.get(Desk) is not one.get(Desk)
            assert one.get(Diary) is one.get(Diary) is not two.get(Diary)
            assert one.get(Clock) is two.get(Clock)

    def test_missing_is_found_at_start(self, tools: Registry) -> None:
        """A service without what it needs is reported when the container is made, not when it is asked (A32)."""
        tools.add("service", "desk", Desk)
        with pytest.raises(WiringError, match="Desk"):
            Container(tools)

    def test_override_in_a_test(self, wired: Registry) -> None:
        """A stand-in is given out for the length of a block (A33)."""
        with Container(wired) as container:
            with container.override(Clock, "stand-in"):
                assert container.get(Clock) == "stand-in"
            assert isinstance(container.get(Clock), StoppedClock)

    def test_services_share_one_bus(self, tmp_path: Path, lab: Any) -> None:
        """A handler hears what services emit: there is one bus (B6, R9)."""
        heard: list[Event] = []
        with Application(Settings(root=tmp_path)) as app, app.run(lab.plan) as run:
            app.bus.on(StageStarted, heard.append)
            app.bus.on(TrainStep, heard.append)
            run.get("model").fetch(lab.plan.model)
            run.get(TrainingService).train(lab.plan.train, lab.base, lab.dataset, 17)
        assert {type(event) for event in heard} == {StageStarted, TrainStep}


class TestTheDocumentation:
    """What the documents of others got wrong about themselves."""

    @pytest.mark.parametrize("name", components.__all__)
    def test_public_names_exist(self, name: str) -> None:
        """Every public name can be imported (R3)."""
        assert getattr(components, name) is not None

    def test_the_example_runs(self) -> None:
        """examples/modular_example.py runs as a program (A49)."""
        command = [sys.executable, "-m", "examples.modular_example"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "unloaded: kind 'mill' is gone"

    @pytest.mark.parametrize("file", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.name)
    def test_tests_import_only_what_exists(self, file: Path) -> None:
        """No test imports a module of the project that is not there (R26)."""
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module and module.partition(".")[0] in ("components", "tasks", "flows", "tests", "benchmarks"):
                assert importlib.util.find_spec(module), f"{file}: {module}"

    def test_a_missing_extra_names_itself(self) -> None:
        """What is optional and missing says which extra to install."""
        with pytest.raises(MissingExtraError, match=r"pip install 'postmill\[quickstart\]'"):
            require("not_installed_anywhere", "quickstart")

    @pytest.mark.parametrize("command", [["--help"], ["run", "--help"], ["config", "--help"], ["plugin", "--help"]])
    def test_help_is_light(self, command: list[str]) -> None:
        """Help imports neither torch, transformers, MLflow nor Prefect (A46)."""
        code = (
            "import sys\nfrom typer.testing import CliRunner\nfrom flows.cli import app\n"
            f"assert CliRunner().invoke(app, {command!r}).exit_code == 0\n"
            "heavy = {'torch', 'transformers', 'mlflow', 'prefect', 'wireup'} & set(sys.modules)\n"
            "assert not heavy, heavy"
        )
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
