"""The section `optimize` of a recipe: variants by name, and a search for more of them.

    optimize:
      fp32: basic
      search:
        space: [[{type: merge_adapter}, {type: onnx, precision: {any: [int8, int4]}}]]
        budget: {bytes: 100MB, tpot_ms: 8}

See `configs/search.yaml`; how a space is written stands in `components.core.space`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    Field,
    GetCoreSchemaHandler,
    PositiveInt,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import core_schema

from components.core.chains import chain_problems, missing_packages
from components.core.component import StrictConfig
from components.core.config import NestedConfigError, validation_problems
from components.core.errors import ConfigError, did_you_mean
from components.core.kinds import registry
from components.core.machine import Quantity
from components.core.space import Point, chain_at, samples
from components.core.spec import Chain, OfKind, Spec, default_spec, preset_chain

SEARCH = "search"
"""The key of `optimize` that is no variant."""
TRIAL = "trial"
"""How benchmarks call whatever is tried: equal chains have equal measurements, whatever number they have."""


class _Parsed(StrictConfig):
    chain: Chain


def parsed_chain(plain: Any) -> list[Spec]:
    """Passes of plain data, or the name of a preset; a ConfigError lists what is wrong with them."""
    try:
        return _Parsed.model_validate({"chain": plain}).chain
    except ValidationError as error:
        found = [(".".join(map(str, at[1:])), text) for at, text in validation_problems(error, _Parsed)]
        raise ConfigError([f"{at}: {text}" if at else text for at, text in found]) from error


def _template(plain: Any) -> Any:
    """A chain with choices: each option is tried once, so that a mistake shows before any work."""
    problems: dict[str, None] = {}
    for point in samples(plain):
        try:
            parsed_chain(chain_at(plain, point))
        except ConfigError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise ConfigError(list(problems))
    return deepcopy(plain)


Template = Annotated[
    Any, AfterValidator(_template), WithJsonSchema({"anyOf": [{"type": "array", "items": {}}, {"type": "string"}]})
]


class ByName(OfKind):
    """A component of a kind; its name alone is short for `{type: NAME}`."""

    def parse(self, raw: Any) -> Spec | None:
        return super().parse({"type": raw} if isinstance(raw, str) else raw)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [super().__get_pydantic_json_schema__(schema, handler), {"type": "string"}]}


def _quick() -> Spec:
    return Spec(kind="benchmark", type="agreement", config=registry.get("benchmark", "agreement").Config(rows=4))


def _measures() -> list[Spec]:
    return [default_spec("benchmark", "agreement"), default_spec("benchmark", "latency")]


@dataclass(frozen=True)
class Figure:
    """Like a metric of a benchmark; this one is known of every artifact."""

    name: str = "bytes"
    unit: str = "bytes"
    better: str = "lower"
    title: str = "size"


class Search(StrictConfig):
    """A search over chains of passes and their options; the best within the budget become variants."""

    extras: ClassVar[Mapping[str, str]] = {"optuna": SEARCH, "plotly": SEARCH}
    """Optional modules that it imports, each with the extra of ours that brings it."""

    space: list[Template] = Field(min_length=1, description="chains, with {any: [...]} or {between: [...]} for values")
    budget: dict[str, Quantity] = Field({}, description="most that a figure may be (least, where more is better)")
    sampler: Annotated[Spec, ByName("sampler")] = Field(
        default_factory=lambda: default_spec("sampler", "tpe"), description="which chain is tried next"
    )
    trials: PositiveInt = 12
    parallel: PositiveInt = Field(2, description="trials that are made at the same time; timings are taken one by one")
    objectives: list[str] = Field(
        ["mean_kl", "bytes", "tpot_ms"], min_length=1, description="figures that span the Pareto front"
    )
    quick: Annotated[Spec | None, OfKind("benchmark", optional=True)] = Field(
        default_factory=_quick, description="cheap measure, after which a trial may be given up; null: none"
    )
    measure: list[Annotated[Spec, OfKind("benchmark")]] = Field(default_factory=_measures, min_length=1)
    keep: PositiveInt = Field(2, description="variants that it gives at most")

    @model_validator(mode="after")
    def _consistent(self) -> Search:
        known = self.metrics()
        problems = [
            f"{key}: no benchmark in 'measure' reports '{name}'{did_you_mean(name, known)} (known: {', '.join(known)})"
            for key, names in (("budget", self.budget), ("objectives", self.objectives))
            for name in names
            if name not in known
        ]
        if len(set(self.objectives)) < len(self.objectives):
            problems.append("objectives: one stands there twice")
        try:
            self.sampler.build().points(self.space_of_all)
        except ConfigError as error:
            problems += [f"space.{problem}" for problem in error.problems]
        if problems:
            raise ConfigError(problems)
        return self

    def metrics(self) -> dict[str, Any]:
        """What is known of a trial in the end, by name."""
        found = (metric for spec in self.measure for metric in spec.component.reports(spec.config))
        return {"bytes": Figure()} | {metric.name: metric for metric in found}

    @property
    def space_of_all(self) -> Any:
        """The chains as one choice."""
        return {"any": list(self.space)}

    def chain(self, point: Point) -> list[Spec]:
        """The passes of one point of the space."""
        return parsed_chain(chain_at(self.space_of_all, point))

    def plain(self, point: Point) -> list[dict[str, Any]]:
        """The same as it is written, without the defaults."""
        written: Any = chain_at(self.space_of_all, point)
        return preset_chain(written) if isinstance(written, str) else written

    def chains(self) -> dict[str, list[Spec]]:
        """Chains in which every option occurs, for checks before any work."""
        return {f"{SEARCH}.space.{n}": self.chain(point) for n, point in enumerate(samples(self.space_of_all))}

    def unfit(self, kind: str) -> Iterator[str]:
        """A sentence for every pass of the space that cannot follow what stands before it."""
        found = {
            f"optimize.search.space.{int(next(iter(point.values())))}: {reason}": None
            for point in samples(self.space_of_all)
            for _, reason in chain_problems(self.chain(point), kind)
        }
        yield from found


def with_presets(variants: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The plain section with the passes of its presets written out, as they fit an artifact of this kind.

    Names that no preset has are left to whoever reads the section.
    """
    written = {name: _written_out(chain, kind) for name, chain in variants.items()}
    search = variants.get(SEARCH)
    if isinstance(search, dict) and isinstance(search.get("space"), list):
        written[SEARCH] = {**search, "space": [_written_out(chain, kind) for chain in search["space"]]}
    return written


def _written_out(chain: Any, kind: str) -> Any:
    if isinstance(chain, str) and chain.lower() in registry.names("preset"):
        return preset_chain(chain, kind)
    if isinstance(chain, dict) and isinstance(chain.get("any"), list):
        return {**chain, "any": [_written_out(option, kind) for option in chain["any"]]}
    return chain


def _parsed_search(plain: Any, handler: Any) -> Any:
    """Mistakes in it are told with the keys that it knows."""
    try:
        return handler(plain)
    except ValidationError as error:
        raise NestedConfigError(error, Search) from error


class Variants(dict[str, list[Spec]]):
    """Chains of passes by the name of their variant, and what else is searched for."""

    search: Search | None = None

    def all_chains(self) -> dict[str, list[Spec]]:
        """Those of the variants, and those in which every option of the search occurs."""
        return {**self, **(self.search.chains() if self.search else {})}

    def missing_packages(self) -> Iterator[str]:
        """A sentence for every optional package that is needed and not installed."""
        if self.search:
            yield from missing_packages("optimize.search", self.search.extras)
        for name, chain in self.all_chains().items():
            for spec in filter(lambda each: each.enabled, chain):
                yield from missing_packages(f"optimize.{name}: pass '{spec.type}'", spec.component.extras)

    @classmethod
    def of(cls, given: dict[str, Any]) -> Variants:
        made = cls({name: chain for name, chain in given.items() if name != SEARCH})
        made.search = given.get(SEARCH)
        return made

    def dump(self) -> dict[str, Any]:
        """As in YAML."""
        plain: dict[str, Any] = {name: [spec.dump() for spec in chain] for name, chain in self.items()}
        return plain | ({SEARCH: self.search.model_dump(mode="json")} if self.search else {})

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        search = core_schema.no_info_wrap_validator_function(_parsed_search, handler.generate_schema(Search))
        plain = core_schema.typed_dict_schema(
            {SEARCH: core_schema.typed_dict_field(search, required=False)},
            extras_schema=handler.generate_schema(Chain),
            extra_behavior="allow",
        )
        return core_schema.no_info_before_validator_function(
            lambda given: {**given, SEARCH: given.search} if isinstance(given, cls) and given.search else given,
            core_schema.no_info_after_validator_function(cls.of, plain),
            serialization=core_schema.plain_serializer_function_ser_schema(cls.dump),
        )
