"""A component in a configuration: `{type: NAME, ...}`, found by the registry and checked by its own `Config`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import dropwhile
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import core_schema

from components.core.component import StrictConfig
from components.core.condition import Condition
from components.core.config import NestedConfigError
from components.core.errors import ConfigError
from components.core.kinds import registry

SWITCHES = ("required", "enabled")
"""Keys beside `type` that the steps of a recipe take."""
OPTIONAL = ("trainer", "pass", "benchmark")
"""Kinds whose components are steps that may be left out."""
WHEN = "when"
"""A key beside `type` that passes of a chain take."""
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
    when: Condition | None = None
    """Of a pass in a chain: what the artifact must be like for it to run."""

    def build(self) -> Any:
        return registry.get(self.kind, self.type)(self.config)

    @property
    def component(self) -> Any:
        return registry.get(self.kind, self.type)

    def parts(self) -> list[Any]:
        """The component's class, those that it uses, and those inside its configuration (a trainer's optimizer)."""
        inside = (part for spec in _inner(self.config) for part in spec.parts())
        return [self.component, *self.component.uses(self.config), *inside]

    def identity(self) -> dict[str, Any]:
        """What decides the result: type and configuration, without what only decides how it is made."""
        found = {"type": self.type, **self.config.model_dump(mode="json")}
        return {key: value for key, value in found.items() if key not in self.component.neutral}

    def dump(self) -> dict[str, Any]:
        """The same shape as in YAML, defaults filled in; switches only where they are not at their default."""
        beside: dict[str, Any] = {name: getattr(self, name) for name in SWITCHES if not getattr(self, name)}
        if self.when:
            beside[WHEN] = self.when.model_dump(mode="json", exclude_defaults=True)
        return {"type": self.type, **self.config.model_dump(mode="json")} | beside


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


class _Conditional(StrictConfig):
    """For the paths of problems."""

    when: Condition | None = None


@dataclass(frozen=True)
class OfKind:
    """Annotation of a recipe field that holds a component: `Annotated[Spec, OfKind("trainer")]`."""

    kind: str
    optional: bool = False
    """True: the field may be null, `Annotated[Spec | None, OfKind("format", optional=True)]`."""
    conditional: bool = False
    """True: the component may have a condition (`when`), because whoever runs it asks for it."""

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
        taken = SWITCHES if self.kind in (*OPTIONAL, "gate") else ()
        switches: dict[str, Any] = {name: raw[name] for name in taken if name in raw}
        wrong = [f"{name}: write true or false, found {on!r}" for name, on in switches.items() if type(on) is not bool]
        if wrong:
            raise ConfigError(wrong)
        try:
            cls = registry.get(self.kind, raw["type"])
        except ConfigError as error:
            raise ConfigError(error.problems, at="type") from error
        beside = (*taken, *([WHEN] if self.conditional else []))
        if WHEN in raw and WHEN not in (*beside, *cls.Config.model_fields):
            raise ConfigError("only a pass in a chain of 'optimize' may have a condition; take it out", at=WHEN)
        config = _validated(cls.Config, {k: v for k, v in raw.items() if k not in ("type", *beside)}, beside)
        condition = _validated(_Conditional, {WHEN: raw.get(WHEN) if self.conditional else None})
        return Spec(kind=self.kind, type=raw["type"], config=config, when=condition.when, **switches)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        mark = {KIND_MARK: self.kind}  # `components.core.schema` puts the kind's components here
        return {"anyOf": [mark, {"type": "null"}]} if self.optional else mark


def _validated(model: type[StrictConfig], plain: Mapping[str, Any], beside: tuple[str, ...] = ()) -> Any:
    try:
        return model.model_validate(plain)
    except ValidationError as error:
        raise NestedConfigError(error, model, beside) from error


STEP = OfKind("pass", conditional=True)
"""A pass in a chain of the recipe."""


def preset_chain(name: str, kind: str | None = None) -> list[dict[str, Any]]:
    """The passes of a preset as plain data: `preset_chain("O2", "model")`.

    `kind`: of what they will begin with. Passes at the beginning that only turn another kind into what they give (an
    adapter is merged, and there is none) are left out; if nothing else stands there the chain stays whole, so that it
    is refused with its reason.
    """
    chain = [dict(step) for step in registry.get("preset", name.lower()).chain]
    return list(dropwhile(lambda step: kind is not None and _needless(step, kind), chain)) or chain


def _needless(step: Mapping[str, Any], kind: str) -> bool:
    spec = STEP.parse(step)
    assert spec is not None
    takes, changes = spec.component.consumes, spec.component.effects(spec.config)
    return kind not in takes and spec.component.produces not in takes and not changes


def _chain(value: Any) -> Any:
    """`enhanced`, or `O2` -> the passes of the preset of that name; a chain that is written out stays as it is."""
    return preset_chain(value) if isinstance(value, str) else value


Chain = Annotated[list[Annotated[Spec, STEP]], Field(min_length=1), BeforeValidator(_chain)]


def default_spec(kind: str, name: str) -> Spec:
    """A component of that name with its default configuration."""
    return Spec(kind=kind, type=name, config=registry.get(kind, name).Config())
