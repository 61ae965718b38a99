"""The recipe: one YAML file, the whole intent. Parsing it checks every name and key before any work starts.

Each section that names a component is a `Spec`: the registry finds the class, the class's own `Config` checks the rest.

Try it: `postmill check configs/quickstart.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_core import core_schema

from components.core.component import StrictConfig
from components.core.config import (
    Document,
    NestedConfigError,
    apply_overrides,
    load_yaml,
    parse_assignments,
    validation_problems,
)
from components.core.errors import ConfigError
from components.core.kinds import registry

RESERVED_SUBJECTS = ("base", "trained")


class Spec(BaseModel, frozen=True, arbitrary_types_allowed=True):
    """A component chosen by name, with its validated configuration. `build()` makes the component."""

    kind: str
    type: str
    config: Any

    def build(self) -> Any:
        return registry.get(self.kind, self.type)(self.config)

    @property
    def component(self) -> Any:
        return registry.get(self.kind, self.type)

    def dump(self) -> dict[str, Any]:
        """The same shape as in YAML, defaults filled in."""
        return {"type": self.type, **self.config.model_dump(mode="json")}


@dataclass(frozen=True)
class OfKind:
    """Annotation of a recipe field that holds a component: `Annotated[Spec, OfKind("trainer")]`."""

    kind: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.parse, serialization=core_schema.plain_serializer_function_ser_schema(Spec.dump)
        )

    def parse(self, raw: Any) -> Spec:
        """`{"type": name, ...}` -> the component's class found, its configuration validated."""
        if isinstance(raw, Spec):
            return raw
        if not isinstance(raw, dict) or not isinstance(raw.get("type"), str):
            known = ", ".join(registry.names(self.kind))
            raise ConfigError(f"a {self.kind} is written as {{type: NAME, ...}}; known: {known}")
        cls = registry.get(self.kind, raw["type"])
        try:
            config = cls.Config.model_validate({k: v for k, v in raw.items() if k != "type"})
        except ValidationError as error:
            raise NestedConfigError(error, cls.Config) from error
        return Spec(kind=self.kind, type=raw["type"], config=config)


class Contract(StrictConfig):
    """What the rows must satisfy, and how many may fail before the run stops."""

    max_bad_fraction: float = Field(0.01, ge=0, le=1)
    max_chars: int = Field(20_000, gt=0, description="longest message, characters")
    forbid_overlap: bool = Field(True, description="a row of eval must not stand in train")


class DataSection(StrictConfig):
    """Where the rows come from. `format` says how a row reads."""

    train: Annotated[Spec, OfKind("reader")]
    eval: Annotated[Spec, OfKind("reader")]
    format: Annotated[Spec, OfKind("format")] = Field(default_factory=lambda: _default_format())
    contract: Contract = Contract()


def _default_format() -> Spec:
    return Spec(kind="format", type="messages", config=registry.get("format", "messages").Config())


class RegisterSection(StrictConfig):
    """Under which name and alias an accepted variant is registered, and which one when several are accepted."""

    model: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,100}$")
    alias: str = Field("candidate", pattern=r"^[A-Za-z0-9_-]+$")
    prefer: Literal["smallest", "fastest", "best"] = "smallest"

    @field_validator("alias")
    @classmethod
    def _not_reserved(cls, alias: str) -> str:
        if alias == "latest" or (alias[:1] == "v" and alias[1:].isdigit()):
            raise ValueError(f"the registry reserves the alias '{alias}'; choose another, for example staging")
        return alias


class Recipe(StrictConfig):
    """The whole intent of a run: model, data, train, optimize, benchmark, gate, register."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,100}$")
    seed: int = Field(17, ge=0, lt=2**31)
    model: Annotated[Spec, OfKind("model")]
    data: DataSection
    train: Annotated[list[Annotated[Spec, OfKind("trainer")]], Field(min_length=1)]
    optimize: dict[str, Annotated[list[Annotated[Spec, OfKind("pass")]], Field(min_length=1)]]
    benchmark: Annotated[list[Annotated[Spec, OfKind("benchmark")]], Field(min_length=1)]
    gate: list[Annotated[Spec, OfKind("gate")]] = []
    register_as: RegisterSection | None = Field(None, alias="register")

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        problems = [*self._train_problems(), *self._variant_problems(), *self._gate_problems()]
        if problems:
            raise ConfigError(problems)
        return self

    def _train_problems(self) -> Iterable[str]:
        for position, spec in enumerate(self.train[:-1]):
            if spec.component.produces_kind(spec.config) != "model":
                yield f"train.{position}: only the last training step may give an adapter; remove its 'lora' key"

    def _variant_problems(self) -> Iterable[str]:
        if not self.optimize:
            yield "optimize: name at least one variant, for example int8: [{type: merge_adapter}, {type: onnx}]"
        for name, chain in self.optimize.items():
            if name in RESERVED_SUBJECTS or not name.replace("_", "").replace("-", "").isalnum():
                yield f"optimize.{name}: choose another name (letters, digits, - and _; not {RESERVED_SUBJECTS})"
            given = self.train[-1].component.produces_kind(self.train[-1].config)
            for position, spec in enumerate(chain):
                takes, gives = spec.component.consumes, spec.component.produces
                if given not in takes:
                    yield (
                        f"optimize.{name}.{position}: pass '{spec.type}' takes {' or '.join(takes)}, "
                        f"but the step before it gives {given}"
                    )
                given = gives

    def _gate_problems(self) -> Iterable[str]:
        if self.register_as and not self.gate:
            yield "gate: a recipe that registers a model needs at least one gate; without one nothing is proven"
        computed = {metric.name for spec in self.benchmark for metric in spec.component.metrics}
        for position, spec in enumerate(self.gate):
            for metric in spec.component.needs(spec.config):
                if metric not in computed:
                    yield (
                        f"gate.{position}: no benchmark of this recipe measures '{metric}' "
                        f"(measured: {', '.join(sorted(computed))})"
                    )

    def dump(self) -> dict[str, Any]:
        """Plain data that parses to the same recipe."""
        return self.model_dump(mode="json", by_alias=True)


def parse_recipe(data: Mapping[str, Any], document: Document | None = None) -> Recipe:
    """Validate plain data; a ConfigError lists every problem, with file and line where a document is given."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        problems = [_format(where, text, document) for where, text in validation_problems(error, Recipe)]
        raise ConfigError(problems) from error


def _format(where: tuple[str | int, ...], text: str, document: Document | None) -> str:
    place = f"{document.locate(where)}: " if document else ""
    dotted = ".".join(str(part) for part in where)
    return f"{place}{dotted}: {text}" if dotted else f"{place}{text}"


def load_recipe(path: Path, assignments: Iterable[str] = (), environment: Mapping[str, str] | None = None) -> Recipe:
    """Read a recipe file, put the environment's and then the command line's overrides on top, and validate."""
    document = load_yaml(path)
    apply_overrides(document.data, environment or {}, "environment")
    apply_overrides(document.data, parse_assignments(assignments), "--set")
    return parse_recipe(document.data, document)
