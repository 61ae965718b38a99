"""The component registry: names in a recipe -> classes, one closed table per kind."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypedDict, runtime_checkable

import pytest
from pydantic import Field, model_validator

from components.core.component import Component, StrictConfig
from components.core.errors import ConfigError, did_you_mean
from components.core.kinds import registry as project_registry
from components.core.registry import BUILT_IN, Entry, Factory, Kind, Registry, refusal, resolve
from components.runtime import backend_for

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "mlflow", "prefect", "wireup", "pandera", "polars", "onnx")


class Paint(Component):
    """Something to register."""

    class Config(StrictConfig):
        colour: str = "red"
        litres: float = Field(1.0, gt=0)

        @model_validator(mode="after")
        def _mixable(self) -> Paint.Config:
            if self.colour == "black" and self.litres > 5:
                raise ValueError("that much black is nobody's wish")
            return self


class Varnish(Paint):
    """Something else to register."""


class Brush(Protocol):
    """What a kind of brushes asks for."""

    width: int

    def stroke(self) -> str: ...


@runtime_checkable
class Handle(Protocol):
    def hold(self) -> None: ...


class Both(Brush, Handle, Protocol):
    def wash(self) -> None: ...


class Good:
    width = 3

    def stroke(self) -> str:
        return "swish"


class Annotated:
    """Has its width only in instances."""

    width: int

    def __init__(self) -> None:
        self.width = 7

    def stroke(self) -> str:
        return "swish"


class Configured(Good):
    class Config(StrictConfig):
        width: int = 1

    def __init__(self, config: Config) -> None:
        self.width = config.width


class Child(Brush):
    """Extends the Protocol."""

    width = 1

    def stroke(self) -> str:
        return "child"


class Plain(TypedDict):
    width: int


BASE = f"{__name__}:Paint"
HERE = f"{__name__}:Varnish"


@pytest.fixture
def table() -> Registry:
    table = Registry([Kind("paint", BASE)])
    table.add("paint", "plain", Paint)
    return table


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Writes a package of modules and returns its name; what was imported of it is forgotten."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(name: str, **modules: str) -> str:
        (tmp_path / name).mkdir()
        for module, text in {"__init__": "", **modules}.items():
            (tmp_path / name / f"{module}.py").write_text(text)
        return name

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


SHARED: dict[str, Any] = {}
"""What the modules of a written package reach for."""
HEADER = f"from {__name__} import SHARED, Paint\n"

# ---------------------------------------------------------------- registering


def test_decorator_registers(table: Registry) -> None:
    """A decorated class is found under its name and is returned unchanged (A22, B11)."""
    assert table.register("paint", "varnish")(Varnish) is Varnish
    assert table.get("paint", "varnish") is Varnish
    assert table.names("paint") == ["plain", "varnish"]


def test_one_class_under_two_names(table: Registry) -> None:
    """A class may stand under several names (A22)."""
    table.add("paint", "again", Paint)
    assert table.get("paint", "again") is table.get("paint", "plain")


def test_unknown_name_suggests(table: Registry) -> None:
    """An unknown name is refused with the closest name and all known names (A23)."""
    with pytest.raises(ConfigError, match=r"unknown paint 'plane'; did you mean 'plain'\? \(known: plain\)"):
        table.get("paint", "plane")


def test_unknown_name_in_an_empty_kind() -> None:
    """A kind without components says so (A23)."""
    with pytest.raises(ConfigError, match=r"unknown paint 'x' \(known: none\)"):
        Registry([Kind("paint", Paint)]).get("paint", "x")


@pytest.mark.parametrize(
    "call",
    [
        lambda table: table.names("pain"),
        lambda table: table.get("pain", "plain"),
        lambda table: table.add("pain", "plain", Paint),
        lambda table: table.register("pain", "plain")(Paint),
        lambda table: table.create("pain", "plain"),
        lambda table: table.factory("pain"),
        lambda table: table.entry("pain", "plain"),
    ],
)
def test_unknown_kind_suggests(table: Registry, call: Callable[[Registry], Any]) -> None:
    """An unknown kind is refused with the closest kind, whatever is asked of it (A22)."""
    with pytest.raises(ConfigError, match="unknown component kind 'pain'; did you mean 'paint'"):
        call(table)


def test_suggestions() -> None:
    """A suggestion is made for a close name and for no other (A23)."""
    assert did_you_mean("sftt", ["sft", "lora"]) == "; did you mean 'sft'?"
    assert did_you_mean("zzz", ["sft", "lora"]) == did_you_mean("sft", []) == ""


def test_duplicate_names_both_owners(table: Registry) -> None:
    """A second registration under one name is refused, and the message names both classes and owners (A18, A44)."""
    with pytest.raises(ConfigError, match="registered twice") as caught, table.owned_by("plugin acme"):
        table.add("paint", "plain", Varnish)
    assert str(caught.value) == (
        f"paint 'plain' is registered twice: by {__name__}:Paint (postmill) and by {__name__}:Varnish (plugin acme)"
    )
    assert table.get("paint", "plain") is Paint


def paint_module(name: str) -> str:
    return f"{HEADER}\n@SHARED['table'].register('paint', '{name}')\nclass New(Paint):\n    pass\n"


def test_sealed_table_takes_nothing(table: Registry) -> None:
    """A sealed table refuses every change with the given reason (A18, A22)."""
    changes: list[Callable[[], Any]] = [
        lambda: table.add("paint", "late", Varnish),
        lambda: table.register("paint", "late")(Varnish),
        lambda: table.add_kind(Kind("late", Paint)),
        lambda: table.forget(BUILT_IN),
    ]
    for change in changes:
        with pytest.raises(ConfigError, match=r"cannot change .*: not now"), table.sealed("not now"):
            change()
    assert table.names("paint") == ["plain"]


def test_owner_lifts_a_seal(table: Registry) -> None:
    """An owner may register inside a seal, which holds again afterwards, also after an error (A16, A18)."""
    with table.sealed("not now"):
        with pytest.raises(RuntimeError, match="half way"):
            fail_half_way(table, "plugin acme")
        with pytest.raises(ConfigError, match="not now"):
            table.add("paint", "later", Varnish)
    table.add("paint", "later", Varnish)
    assert table.owned("plugin acme") == ["paint:late"]
    assert table.names("paint") == ["late", "later", "plain"]


def fail_half_way(table: Registry, owner: str) -> None:
    with table.owned_by(owner):
        table.add("paint", "late", Varnish)
        raise RuntimeError("half way")


def test_owners(table: Registry) -> None:
    """Every entry knows its owner, who can be asked for all that is his (A44, B1)."""
    with table.owned_by("plugin acme"):
        with table.owned_by("plugin inner"):
            table.add("paint", "inner", Varnish)
        table.add("paint", "outer", HERE)
        table.add_kind(Kind("brush", Brush))
        table.add("brush", "wide", Good)
    table.add("paint", "ours", Paint)
    assert table.owned("plugin acme") == ["kind:brush", "paint:outer", "brush:wide"]
    assert table.owned("plugin inner") == ["paint:inner"]
    assert table.entry("paint", "outer") == Entry(HERE, "plugin acme")
    assert str(table.entry("paint", "outer")) == f"{HERE} (plugin acme)"
    assert table.entry("paint", "ours").owner == BUILT_IN
    assert table.owned("nobody") == []


def test_forget_undoes_an_owner(table: Registry) -> None:
    """Everything of an owner is taken back, kinds included, and his names are free again (A18)."""
    with table.owned_by("plugin acme"):
        table.add("paint", "lazy", HERE)
        table.add("paint", "made", Varnish)
        table.add_kind(Kind("brush", Brush))
        table.add("brush", "wide", Good)
    table.get("paint", "lazy")
    with table.owned_by("plugin acme"):
        table.forget("plugin acme")
    assert table.owned("plugin acme") == []
    assert table.kinds() == ["paint"]
    assert table.names("paint") == ["plain"]
    table.add_kind(Kind("brush", Paint))
    table.add("paint", "made", Paint)


def test_forget_of_a_kind_that_others_use(table: Registry) -> None:
    """A kind is not taken away from others who registered in it; they are named, and nothing is undone (A18, A44)."""
    with table.owned_by("plugin acme"):
        table.add_kind(Kind("brush", Brush))
        table.add("paint", "made", Varnish)
    with table.owned_by("plugin other"):
        table.add("brush", "wide", Good)
    with pytest.raises(ConfigError, match=rf"plugin acme owns a component kind that others use: {__name__}:Good \(plu"):
        table.forget("plugin acme")
    assert table.names("brush") == ["wide"]
    assert table.get("paint", "made") is Varnish


def test_forget_with_strangers(table: Registry, caplog: pytest.LogCaptureFixture) -> None:
    """Who insists takes a kind away from others too, and the log names what they lost (A19, A44)."""
    with table.owned_by("plugin acme"):
        table.add_kind(Kind("brush", Brush))
    table.add("brush", "wide", Good)
    with table.owned_by("plugin acme"):
        table.forget("plugin acme", strangers=True)
    assert table.kinds() == ["paint"]
    assert caplog.messages == [f"plugin acme takes its component kind away from {__name__}:Good (postmill)"]


def test_owner_cannot_take_a_built_in_name(package: Callable[..., str]) -> None:
    """A plugin that is early does not get the name of a built-in component, which is loaded first (A18, A22)."""
    SHARED["table"] = table = Registry([Kind("paint", Paint, package("builtin", a=paint_module("sft")))])
    with pytest.raises(ConfigError, match=r"paint 'sft' is registered twice: by builtin\.a:New \(postmill\)"):  # noqa: SIM117
        with table.owned_by("plugin acme"):
            table.add("paint", "sft", Varnish)
    assert table.entry("paint", "sft").owner == BUILT_IN
    assert table.owned("plugin acme") == []


@pytest.mark.parametrize("kind", project_registry.kinds())
def test_built_in_names_of_the_project_are_taken(kind: str) -> None:
    """No plugin can take a name of ours, in any kind (A18)."""
    for name in project_registry.names(kind):
        with (
            pytest.raises(ConfigError, match=rf"{kind} '{name}' is registered twice: by .*\(postmill\)"),
            project_registry.owned_by("test"),
        ):
            project_registry.add(kind, name, "nowhere:Nothing")
    assert project_registry.owned("test") == []


# ---------------------------------------------------------------- what a kind asks for


def test_base_class_is_checked(table: Registry) -> None:
    """A class that does not extend the kind's base is refused when it is registered (B10)."""
    with pytest.raises(ConfigError, match="paint 'wrong': StrictConfig must extend Paint"):
        table.add("paint", "wrong", StrictConfig)


@pytest.mark.parametrize("target", [lambda config: config, Paint(), 3, None, Plain])
def test_only_classes_are_registered(table: Registry, target: Any) -> None:
    """What is no class (a function, an instance, a TypedDict) is refused when it is registered (B10)."""
    with pytest.raises(ConfigError, match="paint 'wrong': .* is not a class"):
        table.add("paint", "wrong", target)
    assert table.names("paint") == ["plain"]


@pytest.mark.parametrize(
    ("kind", "lacks"),
    [("trainer", "produces_kind, train"), ("gate", "judge, needs"), ("benchmark", "measure"), ("sink", "setup")],
)
def test_unfinished_component_is_refused(kind: str, lacks: str) -> None:
    """A component that leaves out a method of its kind is refused when it is registered, not hours later (B10)."""
    base = resolve(f"components.interfaces:{kind.capitalize()}")
    with (
        pytest.raises(ConfigError, match=f"{kind} 'x': Unfinished lacks {lacks} of {base.__name__}"),
        project_registry.owned_by("test"),
    ):
        project_registry.add(kind, "x", type("Unfinished", (base,), {}))
    assert project_registry.owned("test") == []


@pytest.mark.parametrize("target", [Good, Annotated, Configured, Child, f"{__name__}:Good"])
def test_protocol_kind(target: type | str) -> None:
    """A kind may be a Protocol: whatever has its methods and attributes is welcome, related or not (A25, B10)."""
    table = Registry([Kind("brush", Brush)])
    table.add("brush", "it", target)
    assert table.create("brush", "it").stroke() in ("swish", "child")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (type("NoWidth", (), {"stroke": print}), "NoWidth lacks width of Brush"),
        (type("NoStroke", (), {"width": 1}), "NoStroke lacks stroke of Brush"),
        (type("Bare", (), {}), "Bare lacks stroke, width of Brush"),
        (3, "3 is not a class"),
    ],
)
def test_protocol_kind_refuses(target: Any, message: str) -> None:
    """What lacks members of a kind's Protocol is refused, and the members are named (A25, B10)."""
    with pytest.raises(ConfigError, match=f"brush 'it': {message}"):
        Registry([Kind("brush", Brush)]).add("brush", "it", target)


def test_protocol_that_can_be_checked_at_run_time() -> None:
    """A runtime-checkable Protocol is read like any other (B10)."""
    assert refusal(type("Tool", (), {"hold": print}), Handle) is None
    assert refusal(Good, Handle) == "Good lacks hold of Handle"


def test_protocols_inherit() -> None:
    """A Protocol that extends another asks for the members of both (B10)."""

    assert refusal(Good, Both) == "Good lacks hold, wash of Both"


def test_new_kind_is_one_line(table: Registry) -> None:
    """A new kind needs one call; adding it twice is refused (A25)."""
    table.add_kind(Kind("brush", BASE))
    assert table.kinds() == ["paint", "brush"]
    assert table.names("brush") == []
    with pytest.raises(ConfigError, match="component kind 'brush' exists already"):
        table.add_kind(Kind("brush", BASE))


# ---------------------------------------------------------------- lazy targets


def test_lazy_target_is_resolved_once(table: Registry) -> None:
    """A `"module:Class"` target is imported when it is asked for, keeps its owner, and is then kept (A22)."""
    with table.owned_by("plugin acme"):
        table.add("paint", "lazy", HERE)
    assert table.entry("paint", "lazy").target == HERE
    assert table.get("paint", "lazy") is table.get("paint", "lazy") is Varnish
    assert table.entry("paint", "lazy") == Entry(Varnish, "plugin acme")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_module_here:Thing", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        (f"{__name__}:Missing", f"AttributeError: module '{__name__}' has no attribute 'Missing'"),
        ("pathlib", "write it as package.module:Class"),
        (":Path", "write it as package.module:Class"),
        ("pathlib:", "write it as package.module:Class"),
        (".relative:Path", "TypeError: "),
        ("broken_lazy.syntax:Thing", "SyntaxError: "),
        ("broken_lazy.raises:Thing", "RuntimeError: no graphics card"),
    ],
)
def test_broken_lazy_target(table: Registry, package: Callable[..., str], target: str, reason: str) -> None:
    """A lazy target that cannot be imported is listed, and refused with owner and reason when it is used (A22, A44)."""
    package("broken_lazy", syntax="def (", raises="raise RuntimeError('no graphics card')")
    with table.owned_by("plugin acme"):
        table.add("paint", "lazy", target)
    assert table.names("paint") == ["lazy", "plain"]
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            table.get("paint", "lazy")
        assert str(caught.value).startswith(f"paint 'lazy' cannot be loaded from {target} (plugin acme): ")
        assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("target", "message"), [("pathlib:Path", "Path must extend Paint"), ("pathlib:os", "is not a class")]
)
def test_lazy_target_has_its_base_checked(table: Registry, target: str, message: str) -> None:
    """A lazy target of the wrong class is refused when it is resolved (B10)."""
    table.add("paint", "lazy", target)
    with pytest.raises(ConfigError, match=f"paint 'lazy': .*{message}"):
        table.get("paint", "lazy")


def test_exit_of_a_lazy_target(table: Registry, package: Callable[..., str]) -> None:
    """A lazy target whose module ends the process is refused like any other broken one (A22)."""
    package("lazy_exit", leaves="import sys; sys.exit(3)")
    table.add("paint", "lazy", "lazy_exit.leaves:Thing")
    with pytest.raises(ConfigError, match="paint 'lazy' cannot be loaded from .*: SystemExit: 3"):
        table.get("paint", "lazy")


def test_broken_says_why(table: Registry) -> None:
    """`broken` gives the reason why a component cannot be loaded, None for one that can, and knows no others (A44)."""
    with table.owned_by("plugin acme"):
        table.add("paint", "lazy", "no_such_module_here:Thing")
        table.add_kind(Kind("brush", "no_such_module_here:Base"))
        table.add("brush", "wide", f"{__name__}:Good")
    assert table.broken("paint", "plain") is None
    assert table.broken("paint", "lazy") == (
        "paint 'lazy' cannot be loaded from no_such_module_here:Thing (plugin acme): "
        "ModuleNotFoundError: No module named 'no_such_module_here'"
    )
    assert "the base of kind 'brush' cannot be loaded from no_such_module_here:Base" in (
        table.broken("brush", "wide") or ""
    )
    with pytest.raises(ConfigError, match="unknown paint 'plane'"):
        table.broken("paint", "plane")


def test_lazy_module_that_registers(table: Registry, package: Callable[..., str]) -> None:
    """A plugin's lazy module may not register at import, which could not be undone; the owner is told (A19, A44)."""
    SHARED["table"] = table
    package("lazy_decorated", a=paint_module("sneaked"))
    with table.owned_by("plugin acme"):
        table.add("paint", "lazy", "lazy_decorated.a:New")
    for _ in range(2):
        with pytest.raises(
            ConfigError, match=r"\(plugin acme\): .*registers in its register\(api\), not while it is imp"
        ):
            table.get("paint", "lazy")
    assert table.names("paint") == ["lazy", "plain"]


def test_built_in_lazy_module_may_register(table: Registry, package: Callable[..., str]) -> None:
    """A lazy target of ours registers for us what its module holds, even if a plugin is the first to ask (A18)."""
    SHARED["table"] = table
    package("lazy_ours", a=paint_module("beside"))
    table.add("paint", "lazy", "lazy_ours.a:New")
    with table.owned_by("plugin acme"):
        table.get("paint", "lazy")
    assert table.entry("paint", "beside").owner == BUILT_IN


def test_broken_backend_harms_no_other() -> None:
    """A backend that cannot be loaded is passed over; its reason is told where no other one serves (A22, E32)."""
    try:
        with project_registry.owned_by("test"):
            project_registry.add("backend", "aaa", "no_such_module_here:Backend")
        assert "onnx" in backend_for("onnx").serves
        with pytest.raises(ConfigError) as caught:
            backend_for("dataset")
        assert caught.value.problems[0] == "no backend runs artifacts of kind 'dataset'"
        assert "backend 'aaa' cannot be loaded from no_such_module_here:Backend (test)" in caught.value.problems[1]
    finally:
        with project_registry.owned_by("test"):
            project_registry.forget("test")


# ---------------------------------------------------------------- creating


def test_create_validates_and_builds(table: Registry) -> None:
    """`create` checks the configuration with the component's own Config and builds the component (A23, A27, B11)."""
    made = table.create("paint", "plain", colour="blue", litres=2)
    assert type(made) is Paint
    assert made.config == Paint.Config(colour="blue", litres=2.0)
    assert table.create("paint", "plain").config.colour == "red"


def test_create_reports_every_problem(table: Registry) -> None:
    """All mistakes of a configuration are in one ConfigError, each with its key and the closest name (A23, A27)."""
    with pytest.raises(ConfigError) as caught:
        table.create("paint", "plain", color="blue", litres=-1)
    assert caught.value.problems == [
        "paint 'plain': litres: Input should be greater than 0 (got -1)",
        "paint 'plain': color: unknown key 'color'; did you mean 'colour'?",
    ]


def test_create_reports_a_mistake_without_a_key(table: Registry) -> None:
    """A mistake that concerns several keys is told without one (A27)."""
    with pytest.raises(ConfigError, match=r"^paint 'plain': that much black is nobody's wish") as caught:
        table.create("paint", "plain", colour="black", litres=6)
    assert len(caught.value.problems) == 1


def test_create_makes_a_new_one_each_time(table: Registry) -> None:
    """The registry keeps classes, not instances (A28)."""
    assert table.create("paint", "plain") is not table.create("paint", "plain")


def test_create_without_a_config() -> None:
    """A class of a Protocol kind that has no Config is built without one, and refuses keys (A23, A25)."""
    table = Registry([Kind("brush", Brush)])
    table.add("brush", "good", Good)
    table.add("brush", "configured", Configured)
    assert type(table.create("brush", "good")) is Good
    assert table.create("brush", "configured", width=9).width == 9
    with pytest.raises(ConfigError, match="brush 'good' takes no configuration, found width, length"):
        table.create("brush", "good", width=1, length=2)


def test_create_takes_keys_of_any_name() -> None:
    """A component's own keys may be called `name` and `kind`: the `pretrained` model has a `name` (A23)."""
    assert project_registry.create("model", "pretrained", name="somewhere").config.name == "somewhere"


def test_error_of_a_constructor_is_unchanged(table: Registry) -> None:
    """What a component's constructor raises is not taken for a mistake of its configuration (A23)."""

    class Strict(Paint):
        def __init__(self, config: Any) -> None:
            Paint.Config(litres=-3)

    table.add("paint", "strict", Strict)
    with pytest.raises(ValueError, match="greater than 0") as caught:
        table.create("paint", "strict")
    assert not isinstance(caught.value, ConfigError)


def test_factory(table: Registry) -> None:
    """`factory(kind)` creates, registers and lists components of one kind (A22, B12, R10)."""
    factory = table.factory("paint")
    assert factory == Factory(table, "paint")
    assert factory.register("varnish")(Varnish) is Varnish
    assert factory.names() == ["plain", "varnish"]
    assert factory.create("varnish", colour="amber").config.colour == "amber"
    with pytest.raises(ConfigError, match="unknown paint 'varnis'; did you mean 'varnish'"):
        factory.create("varnis")


# ---------------------------------------------------------------- discovery


def test_discovery_skips_underscore_modules(package: Callable[..., str]) -> None:
    """Discovery imports a kind's package on first use, but no module whose name begins with an underscore (B12)."""
    name = package("found_here", public="loaded = True", _private="raise RuntimeError('a helper was imported')")
    table = Registry([Kind("found", BASE, name)])
    assert "found_here.public" not in sys.modules
    assert table.names("found") == []
    assert "found_here.public" in sys.modules
    assert "found_here._private" not in sys.modules


def test_discovery_of_one_kind_only(package: Callable[..., str]) -> None:
    """Asking for one kind imports nothing of another (B12)."""
    kinds = [Kind(name, Paint, package(f"only_{name}", a="")) for name in ("one", "two")]
    Registry(kinds).names("one")
    assert "only_one.a" in sys.modules
    assert "only_two.a" not in sys.modules


def test_broken_built_in_is_told_every_time(package: Callable[..., str]) -> None:
    """A module of ours that cannot be imported is an error each time, never a shorter list (B12)."""
    name = package("half_there", a=paint_module("a"), b="raise RuntimeError('broken')", c=paint_module("c"))
    SHARED["table"] = table = Registry([Kind("paint", Paint, name)])
    for _ in range(3):
        with pytest.raises(RuntimeError, match="broken"):
            table.names("paint")


def test_module_that_asks_while_it_is_discovered(package: Callable[..., str]) -> None:
    """A component's module may ask the registry for its own kind while it is imported (B12)."""
    asks = f"{HEADER}SHARED['seen'] = SHARED['table'].names('paint')\n"
    SHARED["table"] = table = Registry([Kind("paint", Paint, package("asks", a=asks, b=paint_module("b")))])
    assert table.names("paint") == ["b"]
    assert SHARED["seen"] == ["b"]


def test_threads_see_whole_kinds(package: Callable[..., str]) -> None:
    """Threads that ask for a kind while another one discovers it see all of it, once (B12, R1)."""
    slow = "import time\ntime.sleep(0.02)\n"
    modules = {f"m{i}": slow + paint_module(f"p{i}") for i in range(5)}
    SHARED["table"] = table = Registry([Kind("paint", Paint, package("threads", **modules))])
    barrier = threading.Barrier(16)

    def ask() -> list[str]:
        barrier.wait(10)
        return table.names("paint")

    with ThreadPoolExecutor(16) as pool:
        answers = [pool.submit(ask) for _ in range(16)]
        assert all(answer.result(timeout=20) == [f"p{i}" for i in range(5)] for answer in answers)


def test_threads_do_not_mix_owners(package: Callable[..., str]) -> None:
    """What one thread discovers while another loads a plugin belongs to us, and the plugin's to the plugin (A18)."""
    module = "import time\ntime.sleep(0.05)\n" + paint_module("ours")
    SHARED["table"] = table = Registry([Kind("paint", Paint, package("owners", a=module)), Kind("brush", Brush)])
    inside = threading.Event()

    def load() -> None:
        with table.owned_by("plugin acme"):
            inside.set()
            threading.Event().wait(0.02)
            table.add("brush", "wide", Good)
            table.add("paint", "theirs", Varnish)

    with ThreadPoolExecutor(2) as pool:
        loading = pool.submit(load)
        inside.wait(10)
        assert pool.submit(table.names, "paint").result(timeout=10)
        loading.result(timeout=10)
    assert table.owned("plugin acme") == ["paint:theirs", "brush:wide"]
    assert table.entry("paint", "ours").owner == BUILT_IN
    table.add("paint", "later", Varnish)
    assert table.entry("paint", "later").owner == BUILT_IN


def test_import_beside_discovery(package: Callable[..., str]) -> None:
    """A thread that imports a built-in module and one that asks for its kind never wait for each other (B12, R1)."""
    module = f"{HEADER}SHARED['importing'].set()\nimport time\ntime.sleep(0.3)\n{paint_module('slow')}"
    name = package("beside", slow=module, other=paint_module("other"))
    SHARED.update(table=(table := Registry([Kind("paint", Paint, name)])), importing=threading.Event())
    answers: list[list[str]] = []
    threads = [
        threading.Thread(target=importlib.import_module, args=[f"{name}.slow"], daemon=True),
        threading.Thread(target=lambda: answers.append(table.names("paint")), daemon=True),
    ]
    threads[0].start()
    assert SHARED["importing"].wait(10)
    threads[1].start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert answers == [["other", "slow"]]


def test_threads_wait_for_a_module_that_asks(package: Callable[..., str]) -> None:
    """While a module that asks for its own kind is being imported, other threads still see the whole kind (B12, R1)."""
    module = f"{HEADER}SHARED['table'].names('paint')\nSHARED['importing'].set()\nimport time\ntime.sleep(0.2)\n"
    name = package("waits", a=module + paint_module("slow"), b=paint_module("other"))
    SHARED.update(table=(table := Registry([Kind("paint", Paint, name)])), importing=threading.Event())
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(table.names, "paint")
        assert SHARED["importing"].wait(10)
        second = pool.submit(table.names, "paint")
        assert first.result(timeout=10) == second.result(timeout=10) == ["other", "slow"]


def test_project_kinds_resolve() -> None:
    """Every kind of the project has a base class that exists, and its components answer to it (A7, A22, B12)."""
    for kind in project_registry.kinds():
        base = project_registry._kinds[kind].base
        base = resolve(base) if isinstance(base, str) else base
        assert project_registry.names(kind) or kind == "section", kind
        for name in project_registry.names(kind):
            cls = project_registry.get(kind, name)
            assert refusal(cls, base) is None
            assert cls is not base


def test_base_classes_are_not_registered() -> None:
    """No base class of a kind stands in any table: only what was named can be created (R10, B12)."""
    bases = {
        resolve(kind.base) if isinstance(kind.base, str) else kind.base for kind in project_registry._kinds.values()
    }
    registered = {
        project_registry.get(kind, name) for kind in project_registry.kinds() for name in project_registry.names(kind)
    }
    assert not bases & registered


def test_project_components_can_be_listed() -> None:
    """Every component of the project has a name in lower case, a summary and our ownership (A44, B1)."""
    for kind in project_registry.kinds():
        for name in project_registry.names(kind):
            cls = project_registry.get(kind, name)
            assert name == name.lower()
            assert (cls.__doc__ or "").strip(), f"{kind} {name} says nothing of itself"
            assert project_registry.entry(kind, name).owner == BUILT_IN


def test_optimizer_by_name() -> None:
    """`create("optimizer", "adamw")` works as it is written, through the factory too (R10, B11, B12)."""
    made = project_registry.create("optimizer", "adamw")
    assert type(made) is type(project_registry.factory("optimizer").create("adamw"))
    assert made.rule(0.001)[1]["lr"] == 0.001


def python(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_discovery_imports_no_heavy_library() -> None:
    """Importing every kind, every component and every module of ours loads none of the heavy libraries (B12, A22)."""
    code = f"""
import sys
from components.core.kinds import registry
for kind in registry.kinds():
    for name in registry.names(kind):
        registry.get(kind, name)
    print(kind, *(library for library in {HEAVY!r} if library in sys.modules))
"""
    for line in python(code).splitlines():
        kind, *heavy = line.split()
        assert not heavy, f"the components of kind '{kind}' import {', '.join(heavy)}"


def test_application_imports_no_heavy_library() -> None:
    """Importing what every command needs loads none of the heavy libraries either (A22)."""
    code = f"import sys, flows.session, flows.cli\nprint(*(m for m in {HEAVY!r} if m in sys.modules))"
    assert python(code).split() == []


def test_kinds_are_listed_without_a_component() -> None:
    """Listing the kinds imports no component (A22)."""
    code = """
import sys
from components.core.kinds import registry
assert len(registry.kinds()) > 10
print(*(name for name in sys.modules if name.startswith("components.") and ".core" not in name))
"""
    assert python(code).split() == []
