"""JSON Schema of a recipe, from the code: completion and checks while typing, in any editor that knows YAML schemas.

postmill config schema > postmill.schema.json
# yaml-language-server: $schema=../postmill.schema.json         <- first line of a recipe
"""

from __future__ import annotations

import json
from typing import Any, get_args

from components.core.condition import Condition
from components.core.kinds import registry
from components.core.recipe import KIND_MARK, OPTIONAL, SWITCHES, WHEN, Action, recipe_model
from components.core.suites import suite_names

DRAFT = "https://json-schema.org/draft/2020-12/schema"
LAYER = ".layer"
HERE = "#/$defs/"


def recipe_schema() -> dict[str, Any]:
    """The schema of a recipe file, with every component that can be loaded; one that extends another may be partial."""
    schema = recipe_model().model_json_schema(by_alias=True)
    schema["properties"]["extends"] = {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}],
        "description": "files below this one",
    }
    used: set[str] = set()
    definitions: dict[str, Any] = _linked(schema.pop("$defs", {}), used)
    definitions["Condition"] = Condition.model_json_schema()
    recipe = _linked(schema, used)
    for kind in sorted(used):
        definitions[kind] = _any_of(kind, definitions)
    definitions = _shared(definitions)
    variants = recipe["properties"]["optimize"]
    others = [{"enum": _sound("preset")}, {"type": "null", "description": "no such variant"}]
    variants["additionalProperties"] = {"anyOf": [variants["additionalProperties"], *others]}
    steps = recipe["properties"]["benchmark"]
    steps["items"] = {"anyOf": [steps["items"], {"enum": suite_names()}, {"type": "string", "pattern": r"\.ya?ml$"}]}
    definitions["Contract"]["properties"]["rules"] = _rules(definitions)
    definitions["recipe"] = recipe
    definitions |= {f"{name}{LAYER}": _layer(definition) for name, definition in definitions.items()}
    return {
        "$schema": DRAFT,
        "title": "Postmill recipe",
        "if": {"required": ["extends"]},
        "then": {"$ref": f"{HERE}recipe{LAYER}"},
        "else": {"$ref": f"{HERE}recipe"},
        "$defs": definitions,
    }


def _layer(node: Any) -> Any:
    """What may stand in a file above another: nothing is required, and positions reach into the list below."""
    if isinstance(node, list):
        return [_layer(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return {"$ref": f"{node['$ref']}{LAYER}"}
    if node.get("type") == "array" and "items" in node:
        positions = {"type": "object", "patternProperties": {"^[0-9]+$": _layer(node["items"])}}
        return {"anyOf": [node, positions | {"additionalProperties": False}]}
    return {key: _layer(value) for key, value in node.items() if not (key == "required" and isinstance(value, list))}


def _linked(node: Any, used: set[str]) -> Any:
    """Replace the marks that components leave in the schema by references to their kind."""
    if isinstance(node, list):
        return [_linked(item, used) for item in node]
    if not isinstance(node, dict):
        return node
    if KIND_MARK in node:
        used.add(node[KIND_MARK])
        return {"$ref": f"{HERE}{node[KIND_MARK]}"}
    return {key: _linked(value, used) for key, value in node.items()}


def _shared(definitions: dict[str, Any]) -> dict[str, Any]:
    """What several components hold (`lora`, `data`, ...) once, under the first one's name or the recipe's own."""
    while True:
        ordered = sorted(definitions, key=lambda name: ("." in name, name))
        first: dict[str, str] = {}
        same = {name: first.setdefault(json.dumps(definitions[name], sort_keys=True), name) for name in ordered}
        # kinds and the recipe's own keep their names; a definition may be found equal once those it holds are
        gone = {f"{HERE}{name}": f"{HERE}{other}" for name, other in same.items() if name != other and "." in name}
        if not gone:
            return definitions
        kept = (name for name in definitions if f"{HERE}{name}" not in gone)
        definitions = {name: _renamed(definitions[name], gone) for name in kept}


def _renamed(node: Any, names: dict[str, str]) -> Any:
    if isinstance(node, list):
        return [_renamed(item, names) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: names.get(value, value) if key == "$ref" else _renamed(value, names) for key, value in node.items()}


def _sound(kind: str) -> list[str]:
    """The components of a kind that can be loaded: a plugin's broken one takes nobody's completion away."""
    return [name for name in registry.names(kind) if not registry.broken(kind, name)]


def _any_of(kind: str, definitions: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [_component(kind, name, definitions) for name in _sound(kind)] or [False]}


def _rules(definitions: dict[str, Any]) -> dict[str, Any]:
    """The rules of the data contract by name: an action alone, or the rule's keys; `type` where the name is free."""
    short = {"enum": list(get_args(Action)), "description": "what to do with a row that breaks it"}
    named = {name: {"anyOf": [short, _without_type(_component("rule", name, definitions))]} for name in _sound("rule")}
    definitions["rule"] = _any_of("rule", definitions)
    return {"type": "object", "properties": named, "additionalProperties": {"$ref": f"{HERE}rule"}}


def _without_type(component: dict[str, Any]) -> dict[str, Any]:
    return component | {"required": [name for name in component["required"] if name != "type"]}


def _component(kind: str, name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """One alternative of a kind: `type` fixed to its name, and its own keys."""
    cls = registry.get(kind, name)
    schema = cls.Config.model_json_schema(ref_template=f"{HERE}{kind}.{name}.{{model}}")
    inner: set[str] = set()
    for title, definition in schema.pop("$defs", {}).items():
        definitions[f"{kind}.{name}.{title}"] = _linked(definition, inner)
    properties = {"type": {"const": name, "description": cls.summary()}, **_linked(schema.get("properties", {}), inner)}
    properties |= {switch: {"type": "boolean", "default": True} for switch in SWITCHES if kind in OPTIONAL}
    if kind == "pass":
        properties[WHEN] = {"anyOf": [{"$ref": f"{HERE}Condition"}, {"type": "null"}]}
    missing = sorted(inner - definitions.keys())
    for other in missing:  # a component that holds components of another kind
        definitions[other] = {}
        definitions[other] = _any_of(other, definitions)
    return {
        "type": "object",
        "title": f"{kind} {name}",
        "properties": properties,
        "required": ["type", *schema.get("required", [])],
        "additionalProperties": False,
    }
