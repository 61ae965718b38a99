"""A component in a configuration: `{type: NAME, ...}`, found by the registry and checked by its own `Config`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import core_schema

from components.core.config import NestedConfigError
from components.core.errors import ConfigError
from components.core.kinds import registry

SWITCHES = ("required", "enabled")
"""Keys beside `type` that the steps of a recipe take."""
OPTIONAL = ("trainer", "pass", "benchmark")
"""Kinds whose components are steps that may be left out."""
KIND_MARK = "x-component-kind"


class Spec(BaseModel, frozen=True, arbitrary_types_allowed=True):
    """A component chosen by name, with its validated configuration. `build()` makes the component."""

    kind: str
    type: str
    config: Any
    required: bool = True
    """False: if the step fails it is skipped, with its reason in the evidence, and the run goes on."""
    enabled: bool = True
    """False: the step is left out."""

    def build(self) -> Any:
        return registry.get(self.kind, self.type)(self.config)

    @property
    def component(self) -> Any:
        return registry.get(self.kind, self.type)

    def parts(self) -> list[Any]:
        """The component's class and those of the components inside its configuration (a trainer's optimizer)."""
        return [self.component, *(part for spec in _inner(self.config) for part in spec.parts())]

    def identity(self) -> dict[str, Any]:
        """What decides the result: type and configuration, without what only decides how it is made."""
        found = {"type": self.type, **self.config.model_dump(mode="json")}
        return {key: value for key, value in found.items() if key not in self.component.neutral}

    def dump(self) -> dict[str, Any]:
        """The same shape as in YAML, defaults filled in; switches only where they are not at their default."""
        switches = {name: getattr(self, name) for name in SWITCHES if not getattr(self, name)}
        return {"type": self.type, **self.config.model_dump(mode="json")} | switches


def _dump(spec: Spec | None) -> dict[str, Any] | None:
    return None if spec is None else spec.dump()


def _inner(value: Any) -> Iterable[Spec]:
    """The specs inside a configuration, in lists and nested sections too."""
    if isinstance(value, Spec):
        yield value
    elif isinstance(value, BaseModel):
        for _, field in value:
            yield from _inner(field)
    elif isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _inner(item)


@dataclass(frozen=True)
class OfKind:
    """Annotation of a recipe field that holds a component: `Annotated[Spec, OfKind("trainer")]`."""

    kind: str
    optional: bool = False
    """True: the field may be null, `Annotated[Spec | None, OfKind("format", optional=True)]`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.parse, serialization=core_schema.plain_serializer_function_ser_schema(_dump)
        )

    def parse(self, raw: Any) -> Spec | None:
        """`{"type": name, ...}` -> the component's class found, its configuration validated."""
        if isinstance(raw, Spec) or (raw is None and self.optional):
            return raw
        if not isinstance(raw, dict) or not isinstance(raw.get("type"), str):
            known = ", ".join(registry.names(self.kind))
            raise ConfigError(f"write a component of kind {self.kind} as {{type: NAME, ...}}; known: {known}")
        # a gate takes them only to be refused with a reason
        beside = SWITCHES if self.kind in (*OPTIONAL, "gate") else ()
        switches = {name: raw[name] for name in beside if name in raw}
        wrong = [f"{name}: write true or false, found {on!r}" for name, on in switches.items() if type(on) is not bool]
        if wrong:
            raise ConfigError(wrong)
        try:
            cls = registry.get(self.kind, raw["type"])
        except ConfigError as error:
            raise ConfigError(error.problems, at="type") from error
        try:
            config = cls.Config.model_validate({k: v for k, v in raw.items() if k not in ("type", *beside)})
        except ValidationError as error:
            raise NestedConfigError(error, cls.Config, beside) from error
        return Spec(kind=self.kind, type=raw["type"], config=config, **switches)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        mark = {KIND_MARK: self.kind}  # `components.core.schema` puts the kind's components here
        return {"anyOf": [mark, {"type": "null"}]} if self.optional else mark


def _chain(value: Any) -> Any:
    """`enhanced`, or `O2` -> the passes of the preset of that name; a chain that is written out stays as it is."""
    return [dict(step) for step in registry.get("preset", value.lower()).chain] if isinstance(value, str) else value


Chain = Annotated[list[Annotated[Spec, OfKind("pass")]], Field(min_length=1), BeforeValidator(_chain)]


def default_spec(kind: str, name: str) -> Spec:
    """A component of that name with its default configuration."""
    return Spec(kind=kind, type=name, config=registry.get(kind, name).Config())
