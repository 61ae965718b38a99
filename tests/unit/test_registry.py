"""The component registry: names in a recipe -> classes, one closed table per kind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from components.core.component import Component, StrictConfig
from components.core.errors import ConfigError
from components.core.kinds import registry as project_registry
from components.core.registry import Kind, Registry, resolve


class Paint(Component):
    """Something to register."""

    class Config(StrictConfig):
        colour: str = "red"


class Varnish(Paint):
    """Something else to register."""


BASE = f"{__name__}:Paint"


@pytest.fixture
def table() -> Registry:
    table = Registry([Kind("paint", BASE)])
    table.add("paint", "plain", Paint)
    return table


def test_decorator_registers(table: Registry) -> None:
    """A decorated class is found under its name and is returned unchanged (A22)."""
    assert table.register("paint", "varnish")(Varnish) is Varnish
    assert table.get("paint", "varnish") is Varnish
    assert table.names("paint") == ["plain", "varnish"]


def test_create_validates_and_builds(table: Registry) -> None:
    """`create` checks the configuration with the component's own Config and builds the component (A23, A27)."""
    assert table.create("paint", "plain", colour="blue").config.colour == "blue"
    with pytest.raises(ValueError, match="extra_forbidden|Extra inputs"):
        table.create("paint", "plain", color="blue")


def test_create_takes_keys_of_any_name() -> None:
    """A component's own keys may be called `name` and `kind`: the `pretrained` model has a `name` (A23)."""
    assert project_registry.create("model", "pretrained", name="somewhere").config.name == "somewhere"


def test_unknown_name_suggests(table: Registry) -> None:
    """An unknown name is refused with the closest name and all known names (A23)."""
    with pytest.raises(ConfigError, match=r"unknown paint 'plane'; did you mean 'plain'\? \(known: plain\)"):
        table.get("paint", "plane")


def test_unknown_kind_suggests(table: Registry) -> None:
    """An unknown kind is refused with the closest kind."""
    with pytest.raises(ConfigError, match="unknown component kind 'pain'; did you mean 'paint'"):
        table.names("pain")


def test_duplicate_names_both_owners(table: Registry) -> None:
    """A second registration under one name is refused, and the message names both classes (A18)."""
    with pytest.raises(ConfigError, match="registered twice") as caught:
        table.add("paint", "plain", Varnish)
    assert "Paint" in str(caught.value)
    assert "Varnish" in str(caught.value)
    assert table.get("paint", "plain") is Paint


def test_frozen_table_takes_nothing(table: Registry) -> None:
    """After `freeze` every registration is refused."""
    table.freeze()
    with pytest.raises(ConfigError, match="frozen"):
        table.add("paint", "late", Varnish)


def test_base_class_is_checked(table: Registry) -> None:
    """A class that does not extend the kind's base is refused when it is registered (B10)."""
    with pytest.raises(ConfigError, match="must extend Paint"):
        table.add("paint", "wrong", StrictConfig)


def test_lazy_target_is_resolved_once(table: Registry) -> None:
    """A `"module:Class"` target is imported when it is asked for, and then kept."""
    table.add("paint", "lazy", f"{__name__}:Varnish")
    assert table.get("paint", "lazy") is Varnish
    assert table.get("paint", "lazy") is Varnish


def test_lazy_target_has_its_base_checked(table: Registry) -> None:
    """A lazy target of the wrong class is refused when it is resolved (B10)."""
    table.add("paint", "lazy", "pathlib:Path")
    with pytest.raises(ConfigError, match="must extend Paint"):
        table.get("paint", "lazy")


def test_new_kind_is_one_line(table: Registry) -> None:
    """A new kind needs one call; adding it twice is refused (A25)."""
    table.add_kind(Kind("brush", BASE))
    assert table.kinds() == ["paint", "brush"]
    assert table.names("brush") == []
    with pytest.raises(ConfigError, match="exists already"):
        table.add_kind(Kind("brush", BASE))


def test_discovery_skips_underscore_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Discovery imports a kind's package on first use, but no module whose name begins with an underscore (B12)."""
    package = tmp_path / "discovered_here"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "public.py").write_text("loaded = True\n")
    (package / "_private.py").write_text("raise RuntimeError('a helper was imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    table = Registry([Kind("found", BASE, "discovered_here")])
    assert "discovered_here.public" not in sys.modules
    assert table.names("found") == []
    assert "discovered_here.public" in sys.modules
    assert "discovered_here._private" not in sys.modules


def test_project_kinds_resolve() -> None:
    """Every kind of the project has a base class that exists and at least one component."""
    for kind in project_registry.kinds():
        assert project_registry.names(kind), kind
        for name in project_registry.names(kind):
            assert issubclass(project_registry.get(kind, name), resolve(project_registry._kinds[kind].base))
