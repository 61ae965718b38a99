"""JSON Schema of a recipe, from the code: completion and checks while typing, in any editor that knows YAML schemas.

postmill config schema > postmill.schema.json
# yaml-language-server: $schema=../postmill.schema.json         <- first line of a recipe
"""

from __future__ import annotations

from typing import Any

from components.core.kinds import registry
from components.core.recipe import KIND_MARK, SWITCHES, recipe_model

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema() -> dict[str, Any]:
    """The schema of a recipe file, every registered component included."""
    schema = recipe_model().model_json_schema(by_alias=True)
    definitions: dict[str, Any] = schema.pop("$defs", {})
    schema["properties"]["extends"] = {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}],
        "description": "files below this one",
    }
    schema["anyOf"] = [{"required": ["extends"]}, {"required": schema.pop("required")}]
    used: set[str] = set()
    body = _linked({**schema, "$defs": definitions}, used)
    for kind in sorted(used):
        body["$defs"][kind] = {"anyOf": [_component(kind, name, body["$defs"]) for name in registry.names(kind)]}
    chain = body["properties"]["optimize"]["additionalProperties"]
    body["properties"]["optimize"]["additionalProperties"] = {"anyOf": [chain, {"enum": registry.names("preset")}]}
    return {"$schema": DRAFT, "title": "Postmill recipe", **body}


def _linked(node: Any, used: set[str]) -> Any:
    """Replace the marks that components leave in the schema by references to their kind."""
    if isinstance(node, list):
        return [_linked(item, used) for item in node]
    if not isinstance(node, dict):
        return node
    if KIND_MARK in node:
        used.add(node[KIND_MARK])
        return {"$ref": f"#/$defs/{node[KIND_MARK]}"}
    return {key: _linked(value, used) for key, value in node.items()}


def _component(kind: str, name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """One alternative of a kind: `type` fixed to its name, and its own keys."""
    cls = registry.get(kind, name)
    schema = cls.Config.model_json_schema(ref_template=f"#/$defs/{kind}.{name}.{{model}}")
    inner: set[str] = set()
    for title, definition in schema.pop("$defs", {}).items():
        definitions[f"{kind}.{name}.{title}"] = _linked(definition, inner)
    properties = {"type": {"const": name, "description": cls.summary()}, **_linked(schema.get("properties", {}), inner)}
    properties |= {switch: {"type": "boolean", "default": True} for switch in SWITCHES}
    missing = sorted(inner - definitions.keys())
    for other in missing:  # a component that holds components of another kind
        definitions[other] = {}
        definitions[other] = {"anyOf": [_component(other, entry, definitions) for entry in registry.names(other)]}
    return {
        "type": "object",
        "title": f"{kind} {name}",
        "properties": properties,
        "required": ["type", *schema.get("required", [])],
        "additionalProperties": False,
    }
