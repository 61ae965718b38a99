"""The JSON Schema of recipes: it accepts what the code accepts, and shows mistakes while typing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydantic import PositiveInt

from components.core.component import StrictConfig
from components.core.documents import load_document
from components.core.errors import ConfigError
from components.core.kinds import registry
from components.core.recipe import OPTIONAL, SWITCHES, parse_recipe
from components.core.schema import recipe_schema
from components.interfaces import Gate
from tests import tiny
from tests.conftest import ROOT

jsonschema = pytest.importorskip("jsonschema")
KINDS = ("model", "reader", "format", "trainer", "optimizer", "pass", "benchmark", "gate")
Plain = dict[str, Any]


@pytest.fixture(scope="module")
def schema() -> Plain:
    return recipe_schema()


@pytest.fixture
def plain(tmp_path: Path) -> Plain:
    return deepcopy(tiny.recipe(tmp_path, tmp_path / "model", gate=[{"type": "budget", "max": {"bytes": 1e9}}]))


def accepts(schema: Plain, plain: Any) -> bool:
    """Whether the schema accepts plain data."""
    return bool(jsonschema.Draft202012Validator(schema).is_valid(plain))


def put(plain: Any, key: str, value: Any) -> None:
    """Set a dotted key."""
    *path, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    for part in path:
        plain = plain[part]
    plain[last] = value


def test_it_is_a_schema(schema: Plain) -> None:
    """What is emitted is a JSON Schema of the draft that it names, with every reference resolved (A38)."""
    jsonschema.Draft202012Validator.check_schema(schema)
    text = json.dumps(schema)
    assert schema["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    assert "x-component" not in text
    used = {part.partition('"')[0] for part in text.split('"#/$defs/')[1:]}
    assert used <= set(schema["$defs"])


def test_making_it_twice_gives_the_same(schema: Plain) -> None:
    """The schema does not depend on what was asked before (A38)."""
    assert recipe_schema() == schema


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_recipes_are_valid(schema: Plain, path: Path) -> None:
    """Every recipe in `configs` is accepted as it stands, and as it is dumped (A38)."""
    data = load_document(path).data
    jsonschema.validate(data, schema)
    if "extends" not in data:
        jsonschema.validate(parse_recipe(data).dump(), schema)


def test_the_tiny_recipe_is_valid(schema: Plain, tmp_path: Path) -> None:
    """The recipe of the tests is accepted, as it stands and with every default filled in (A38)."""
    plain = tiny.recipe(tmp_path, tmp_path / "model")
    jsonschema.validate(plain, schema)
    jsonschema.validate(parse_recipe(plain).dump(), schema)


@pytest.mark.parametrize("kind", KINDS)
def test_every_component_is_in_it(schema: Plain, kind: str) -> None:
    """Every registered component of a kind is an alternative with its own keys and its summary (A38, C54)."""
    found = {entry["properties"]["type"]["const"]: entry for entry in schema["$defs"][kind]["anyOf"]}
    assert set(found) == set(registry.names(kind))
    for name, entry in found.items():
        cls = registry.get(kind, name)
        switches = (*SWITCHES, *(["when"] if kind == "pass" else [])) if kind in OPTIONAL else ()
        assert set(entry["properties"]) == {"type", *switches, *cls.Config.model_fields}
        assert entry["properties"]["type"]["description"] == cls.summary()
        assert entry["additionalProperties"] is False


def test_what_components_share_stands_there_once(schema: Plain, plain: Plain) -> None:
    """No two definitions inside components are alike; rows of a step are checked as those of the recipe are (A38)."""
    inner = [json.dumps(found) for name, found in schema["$defs"].items() if "." in name and ".layer" not in name]
    assert len(inner) == len(set(inner))
    plain["train"][0]["data"] = deepcopy(plain["data"]) | {"contract": {"rules": {"too_long": {"max_chars": 1}}}}
    assert accepts(schema, plain)
    put(plain, "train.0.data.contract.rules.too_long", {"max_char": 1})
    assert not accepts(schema, plain)


@pytest.mark.parametrize("name", registry.names("preset"))
def test_presets_are_accepted(schema: Plain, plain: Plain, name: str) -> None:
    """The name of a preset may stand for a chain of passes, the name of nothing may not (A38)."""
    plain["optimize"]["small"] = name
    assert accepts(schema, plain)
    plain["optimize"]["small"] = f"{name}x"
    assert not accepts(schema, plain)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.0.max_stepz", 5),
        ("train.0.lora.rank", 5),
        ("train.0.optimizer", {"type": "adamw", "momentum": 0.5}),
        ("data.train.pth", "x"),
        ("data.contract", {"max_rows": 1}),
        ("data.contract", {"rules": {"too_long": {"max_char": 1}}}),
        ("data.contract", {"rules": {"too_long": "drop"}}),
        ("data.contract", {"rules": {"no_such_rule": "fail"}}),
        ("register.stage", "x"),
        ("trian", []),
        ("train.0.max_steps", "many"),
        ("train.0.max_steps", 0),
        ("train.0.max_steps", 1.5),
        ("train.0.required", "yes"),
        ("train.0.type", "sftt"),
        ("train", {"type": "sft"}),
        ("train", []),
        ("seed", -1),
        ("name", "a/b"),
        ("optimize.fp32", []),
        ("optimize.fp32.0", {"type": "sft"}),
        ("extends", 7),
        ("extends", [7]),
    ],
)
def test_mistakes_are_refused(schema: Plain, plain: Plain, key: str, value: Any) -> None:
    """An unknown key, a wrong type or an unknown name is refused by the schema as it is by the code (A38)."""
    put(plain, key, value)
    assert not accepts(schema, plain)
    with pytest.raises(ConfigError):
        parse_recipe(plain)


@pytest.mark.parametrize("section", ["name", "model", "data", "train"])
def test_required_sections(schema: Plain, plain: Plain, section: str) -> None:
    """A missing section is refused, unless an extended file may bring it (A38, C55)."""
    del plain[section]
    assert not accepts(schema, plain)
    assert accepts(schema, plain | {"extends": "base.yaml"})
    assert accepts(schema, plain | {"extends": ["a.yaml", "b.yaml"]})


@pytest.mark.parametrize(
    "layer",
    [
        {"train": {0: {"max_steps": 5}}},
        {"train": {0: {"lora": {"r": 4}, "required": True}}},
        {"train": {0: {"optimizer": {"eps": 1e-7}}}},
        {"model": {"name": "x"}},
        {"data": {"contract": {"rules": {"too_long": {"max_chars": 5}}}, "train": {"path": "x"}}},
        {"optimize": {"fp32": None, "int4": {1: {"precision": "int8"}}, "small": "advanced"}},
        {"gate": [], "register": {"alias": "x"}},
        {"register": None},
    ],
    ids=str,
)
def test_parts_above_an_extended_file(schema: Plain, layer: Plain) -> None:
    """A file that extends another may hold parts: positions of lists, components without their type (A38, C55)."""
    text = json.loads(json.dumps(layer))
    assert accepts(schema, {"extends": "base.yaml"} | text)
    assert not accepts(schema, text)


@pytest.mark.parametrize(
    "layer",
    [
        {"train": {0: {"max_stepz": 5}}},
        {"train": {"first": {"max_steps": 5}}},
        {"train": {0: {"max_steps": 0}}},
        {"train": [{"max_steps": 5}]},
        {"trian": []},
        {"model": {"nme": "x"}},
        {"model": {"type": "pretraind"}},
        {"register": {"alia": "x"}},
    ],
    ids=str,
)
def test_mistakes_above_an_extended_file(schema: Plain, layer: Plain) -> None:
    """Unknown keys and wrong values in a file that extends another are refused all the same (A38, C55)."""
    assert not accepts(schema, {"extends": "base.yaml"} | json.loads(json.dumps(layer)))


@pytest.mark.parametrize("switch", ["required", "enabled"])
def test_switches(schema: Plain, plain: Plain, switch: str) -> None:
    """Every component of a recipe takes the switches (A38)."""
    plain["benchmark"][0][switch] = False
    assert accepts(schema, plain)


def test_sizes_may_have_units(schema: Plain, plain: Plain) -> None:
    """What a component reads from text may be written as text (A38)."""
    plain["gate"] = [{"type": "budget", "max": {"bytes": "300MB"}, "min": {"tokens_per_s": 4}}]
    assert accepts(schema, plain)


class AcmeSection(StrictConfig):
    """A plugin's section."""

    trays: PositiveInt


class AcmeGate(Gate):
    """A plugin's gate."""

    class Config(StrictConfig):
        crumbs: PositiveInt = 1

    @classmethod
    def needs(cls, config: Any) -> Any:
        return ()

    def judge(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def plugin() -> Iterator[None]:
    """A section and a gate of somebody else."""
    try:
        with registry.owned_by("tests"):
            registry.add("section", "acme", AcmeSection)
            registry.add("gate", "acme", AcmeGate)
        yield
    finally:
        with registry.owned_by("tests"):
            registry.forget("tests")


def test_plugins_are_in_it(plugin: None, plain: Plain) -> None:
    """Sections and components of loaded plugins are part of the schema, and gone with them (E6, A38)."""
    schema = recipe_schema()
    plain["gate"].append({"type": "acme", "crumbs": 2})
    assert not accepts(schema, plain)
    assert accepts(schema, plain | {"acme": {"trays": 2}})
    assert not accepts(schema, plain | {"acme": {"trays": 0}})
    assert not accepts(schema, plain | {"acme": {"trays": 2, "x": 1}})


def test_broken_plugins_are_left_out(schema: Plain, plain: Plain) -> None:
    """What cannot be loaded is no alternative, and takes no other one away (A38, A44)."""
    try:
        with registry.owned_by("tests"):
            registry.add("gate", "acme", "no_such_module_here:Gate")
            registry.add("optimizer", "acme", "no_such_module_here:Optimizer")  # inside of other components
            registry.add("preset", "acme", "no_such_module_here:Preset")
        assert recipe_schema() == schema
    finally:
        with registry.owned_by("tests"):
            registry.forget("tests")


def test_plugins_are_gone(schema: Plain, plain: Plain) -> None:
    """Without the plugin its section and its components are unknown (E6)."""
    assert "acme" not in json.dumps(recipe_schema())
    assert accepts(schema, plain)
