"""The recipe: one YAML file, the whole intent. Parsing it checks every name and key before any work starts.

Each section that names a component is a `Spec`: the registry finds the class, the class's own `Config` checks the rest.
Plugins add sections of their own (kind "section").

Try it: `postmill check configs/quickstart.yaml`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from components.core.chains import chain_problems
from components.core.component import StrictConfig
from components.core.config import Override, apply_overrides, parse_assignments, validation_problems
from components.core.documents import Document, load_layers
from components.core.errors import ConfigError
from components.core.kinds import registry
from components.core.search import TRIAL, Variants, with_presets
from components.core.secret import refuse_secrets
from components.core.spec import KIND_MARK, OPTIONAL, SWITCHES, WHEN, OfKind, Spec, default_spec
from components.core.suites import reported_twice, with_suites

# a recipe is made of them, so they are imported from here too
__all__ = ["KIND_MARK", "OPTIONAL", "SWITCHES", "WHEN", "OfKind", "Spec", "default_spec"]

Action = Literal["ignore", "quarantine", "fail"]
"""What happens to a row that breaks a rule."""
CHAMPION = "champion"
"""The subject that gates compare with what is registered: the version in production."""
RESERVED_SUBJECTS = ("base", "trained", CHAMPION, TRIAL)


def _rules(value: Any) -> Any:
    """`{too_long: {max_chars: 9}, overlap: fail}` -> the same with the type of each rule, its name by default."""
    if not isinstance(value, dict):
        return value
    full = {name: {"action": rule} if isinstance(rule, str) else rule for name, rule in value.items()}
    # who says how a rule is to judge wants it to: that switches on one that is not asked by default
    asked = {"action": "quarantine"}
    return {name: {"type": name, **asked, **rule} if isinstance(rule, dict) else rule for name, rule in full.items()}


class Contract(StrictConfig):
    """What the rows must satisfy, and how many may fail before the run stops."""

    max_bad_fraction: float = Field(0.01, ge=0, le=1)
    rules: Annotated[dict[str, Annotated[Spec, OfKind("rule")]], BeforeValidator(_rules)] = Field(
        {}, description="keys of rules where they are not the default; the others apply as they are"
    )

    def all_rules(self) -> dict[str, Spec]:
        """Every rule by name, those that are not mentioned with their defaults; without what is to be ignored."""
        return {name: spec for name, spec in self.known_rules().items() if spec.config.action != "ignore"}

    def known_rules(self) -> dict[str, Spec]:
        """Every rule by name, also those that are ignored."""
        mentioned = {spec.type for spec in self.rules.values()}
        rest = {name: default_spec("rule", name) for name in registry.names("rule") if name not in mentioned}
        return dict(sorted({**rest, **self.rules}.items()))


class Split(StrictConfig):
    """Rows held out of `train` by a seeded hash of what the user says: a row stays when others are added."""

    eval: float = Field(0.1, gt=0, lt=1, description="fraction of the rows")
    test: float = Field(0.0, ge=0, lt=1, description="fraction of the rows")
    group_by: str | None = Field(None, description="column whose rows stay together, for example a customer")
    seed: int = Field(17, ge=0)


class DataSection(StrictConfig):
    """Where the rows come from, and what they must satisfy."""

    train: Annotated[Spec, OfKind("reader")]
    eval: Annotated[Spec | None, OfKind("reader", optional=True)] = None
    test: Annotated[Spec | None, OfKind("reader", optional=True)] = Field(
        None, description="rows that no step reads; none of them may stand in train or eval"
    )
    split: Split | None = Field(None, description="hold rows out of train, where no eval rows are declared")
    format: Annotated[Spec | None, OfKind("format", optional=True)] = Field(
        None, description="how the rows read; detected by default"
    )
    contract: Contract = Contract()
    lock: Path | None = Field(None, description="digests of the files; RECIPE.lock beside the recipe by default")
    allow_dirty: bool = Field(False, description="go on, and record it, if files changed since they were locked")

    @model_validator(mode="after")
    def _held_out(self) -> DataSection:
        if (self.eval is None) == (self.split is None):
            raise ConfigError(
                "name the rows to measure on: either 'eval', a reader, or 'split', which holds rows out of train: "
                "split: {eval: 0.1}"
            )
        if self.split and self.split.test and self.test:
            raise ConfigError("test rows are declared and split off at once; remove 'test' or set split.test to 0")
        return self

    def readers(self) -> dict[str, Spec]:
        """The declared readers by split, held-out splits first."""
        return {name: spec for name in ("test", "eval", "train") if (spec := getattr(self, name)) is not None}


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


def _given_by(train: list[Spec]) -> str:
    """Kind of artifact that the last training step gives."""
    last = ([spec for spec in train if spec.enabled] or train)[-1]
    return str(last.component.produces_kind(last.config))


class Recipe(StrictConfig):
    """The whole intent of a run: model, data, train, optimize, benchmark, gate, register. What follows `train` may be
    left out; a recipe that registers needs all of it."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,100}$")
    seed: int = Field(17, ge=0, lt=2**31)
    model: Annotated[Spec, OfKind("model")]
    data: DataSection
    train: Annotated[list[Annotated[Spec, OfKind("trainer")]], Field(min_length=1)]
    optimize: Variants = Variants()
    benchmark: list[Annotated[Spec, OfKind("benchmark")]] = []
    gate: list[Annotated[Spec, OfKind("gate")]] = []
    register_as: RegisterSection | None = Field(None, alias="register")
    services: dict[str, str | dict[str, Any]] = Field({}, description="role -> implementation, where not the default")

    @field_validator("optimize", mode="before")
    @classmethod
    def _written_out(cls, variants: Any, info: ValidationInfo) -> Any:
        if not isinstance(variants, dict) or isinstance(variants, Variants):
            return variants
        # an overlay takes a variant away by NAME: null
        kept = {name: chain for name, chain in variants.items() if chain is not None}
        train = info.data.get("train")  # not there if it is wrong itself
        return with_presets(kept, _given_by(train)) if train else kept

    @field_validator("benchmark", mode="before")
    @classmethod
    def _suites_written_out(cls, benchmarks: Any) -> Any:
        return with_suites(benchmarks)

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        found = (self._train_problems(), self._variant_problems(), self._benchmark_problems(), self._gate_problems())
        problems = [problem for section in found for problem in section]
        if problems:
            raise ConfigError(problems)
        return self

    @property
    def judged(self) -> bool:
        """Whether the run ends with a verdict: there are variants, and something is measured of them."""
        return bool((self.optimize or self.optimize.search) and self.benchmark)

    @property
    def trained_kind(self) -> str:
        """Kind of artifact that the last training step gives."""
        return _given_by(self.train)

    def _train_problems(self) -> Iterable[str]:
        if not any(spec.enabled and spec.required for spec in self.train):
            yield "train: at least one step must be switched on and required; else an untrained model could pass"
        folders = [
            str(getattr(spec.config, "checkpoint", None) and spec.config.checkpoint.folder) for spec in self.train
        ]
        for position, folder in enumerate(folders):
            if folder != "None" and folder in folders[:position]:
                yield f"train.{position}: checkpoint.folder '{folder}' is that of another step; name one of its own"
        for position, spec in enumerate(self.train):
            if reason := spec.component.incomplete(spec.config):
                yield f"train.{position}: {reason}"
            if not spec.required and spec.component.produces_kind(spec.config) != "model":
                yield f"train.{position}: a step that gives an adapter cannot be optional (required: false)"

    def _variant_problems(self) -> Iterable[str]:
        if not (self.optimize or self.optimize.search) and (self.gate or self.register_as):
            yield (
                "optimize: name at least one variant, for example int8: [{type: merge_adapter}, {type: onnx}]; "
                "variants are what gates judge and 'register' takes"
            )
        for name, chain in self.optimize.items():
            if name in RESERVED_SUBJECTS or not name.replace("_", "").replace("-", "").isalnum():
                yield f"optimize.{name}: choose another name (letters, digits, - and _; not {RESERVED_SUBJECTS})"
            for position, reason in chain_problems(chain, self.trained_kind):
                yield f"optimize.{name}.{position}: {reason}"
        if self.optimize.search:
            yield from self.optimize.search.unfit(self.trained_kind)

    def _benchmark_problems(self) -> Iterable[str]:
        if not self.benchmark and (self.gate or self.register_as):
            yield "benchmark: name at least one benchmark; without one there is nothing that a gate could judge"
        yield from reported_twice(self.benchmark)
        sound = [name for name in registry.names("backend") if not registry.broken("backend", name)]
        served = {kind for name in sound for kind in registry.get("backend", name).serves}
        if self.benchmark and self.trained_kind not in served:
            yield (
                f"benchmark: nothing here runs an artifact of kind '{self.trained_kind}', which the last training step "
                f"gives (run are: {', '.join(sorted(served))}); take 'benchmark' out"
            )

    def _gate_problems(self) -> Iterable[str]:
        if self.register_as and not self.gate:
            yield "gate: a recipe that registers a model needs at least one gate; without one nothing is proven"
        steps = [spec for spec in self.benchmark if spec.enabled]
        computed = {metric.name for spec in steps for metric in spec.component.reports(spec.config)}
        for position, spec in enumerate(self.gate):
            if not (spec.required and spec.enabled):
                yield f"gate.{position}: a gate is never optional; take it out of the recipe if it is not meant"
            yield from self._unknown_subjects(position, spec)
            for metric in spec.component.needs(spec.config):
                if self.benchmark and metric not in computed:
                    yield (
                        f"gate.{position}: no benchmark of this recipe measures '{metric}' "
                        f"(measured: {', '.join(sorted(computed))})"
                    )

    @property
    def has_champion(self) -> bool:
        """Whether a gate compares with the version in production."""
        return any(CHAMPION in spec.component.compares_with(spec.config) for spec in self.gate)

    def _unknown_subjects(self, position: int, spec: Spec) -> Iterable[str]:
        known = {"base", "trained", CHAMPION, *self.optimize}
        for name in spec.component.compares_with(spec.config):
            if name not in known and not self.optimize.search:
                yield f"gate.{position}: nothing here is called '{name}' (known: {', '.join(sorted(known))})"
            if name == CHAMPION and not self.register_as:
                yield f"gate.{position}: the champion is a version of the model that 'register' names; add that section"

    def dump(self) -> dict[str, Any]:
        """Plain data that parses to the same recipe."""
        return self.model_dump(mode="json", by_alias=True)

    def with_updates(self, changes: Mapping[str, Any]) -> Recipe:
        """A new recipe with dotted keys changed, checked again: `recipe.with_updates({"train.0.batch_size": 8})`."""
        document = Document(Path("with_updates"), self.dump(), {})
        overrides = [
            Override(key, json.dumps(value, ensure_ascii=False, default=str), "with_updates")
            for key, value in changes.items()
        ]
        apply_overrides(document, overrides)
        return parse_recipe(document.data, document)


def check_section_name(name: str) -> None:
    """Refuse a plugin's section whose name is not free, or could not be written down."""
    from components.core.settings import Settings

    # one variable of the environment must not mean a setting and a section
    taken = {
        "extends",
        *Settings.model_fields,
        *Recipe.model_fields,
        *(field.alias for field in Recipe.model_fields.values() if field.alias),
    }
    if name in taken or hasattr(Recipe, name) or not name.isidentifier() or name.startswith("_"):
        raise ConfigError(f"a plugin cannot add the section '{name}' to recipes; choose a name of its own")


def recipe_model() -> type[Recipe]:
    """`Recipe` with the sections of the loaded plugins."""
    found = tuple((name, registry.get("section", name)) for name in section_names())
    return _with_sections(found) if found else Recipe


def section_names() -> list[str]:
    """The sections that plugins bring; one that cannot be loaded is left out, `postmill components` shows why."""
    return [name for name in registry.names("section") if not registry.broken("section", name)]


@lru_cache(maxsize=8)
def _with_sections(sections: tuple[tuple[str, type[StrictConfig]], ...]) -> type[Recipe]:
    fields: dict[str, Any] = {}
    for name, model in sections:
        needed = any(field.is_required() for field in model.model_fields.values())
        # a section whose keys all have defaults may be left out
        fields[name] = (model, ...) if needed else (model, Field(default_factory=model))
    return create_model("Recipe", __base__=Recipe, **fields)


def parse_recipe(data: Mapping[str, Any], document: Document | None = None) -> Recipe:
    """Validate plain data; a ConfigError lists every problem, with file and line where a document is given."""
    model = recipe_model()
    try:
        recipe = model.model_validate(data)
        refuse_secrets(recipe.dump())
        return recipe
    except ValidationError as error:
        problems = [_format(where, text, document) for where, text in validation_problems(error, model)]
        raise ConfigError(problems) from error


def _format(where: tuple[str | int, ...], text: str, document: Document | None) -> str:
    # a problem between keys begins with the one it is best mended at
    at = where or text.partition(":")[0].split(".")
    place = f"{document.locate(at)}: " if document else ""
    dotted = ".".join(str(part) for part in where)
    return f"{place}{dotted}: {text}" if dotted else f"{place}{text}"


def read_recipe(
    path: Path | str, assignments: Iterable[str] = (), overrides: Iterable[Override] = (), overlays: Iterable[str] = ()
) -> tuple[Recipe, Document]:
    """A recipe and the places its keys come from: files, then `overrides` (environment), then `--set` on top."""
    document = load_layers(Path(path), overlays)
    apply_overrides(document, [*overrides, *parse_assignments(assignments)])
    _use_lock(document, lock_path(path))
    return parse_recipe(document.data, document), document


def lock_path(recipe: Path | str) -> Path:
    """Where the digests of a recipe's data stand: `configs/triage.yaml` -> `configs/triage.lock`."""
    return Path(recipe).with_suffix(".lock")


def _use_lock(document: Document, lock: Path) -> None:
    """A lock beside the recipe holds without being named, wherever the recipe is run from."""
    section = document.data.get("data")
    if isinstance(section, dict) and section.get("lock") is None and lock.is_file():
        section["lock"] = str(lock)


def load_recipe(
    path: Path | str, assignments: Iterable[str] = (), overrides: Iterable[Override] = (), overlays: Iterable[str] = ()
) -> Recipe:
    """Read, layer and validate a recipe file."""
    return read_recipe(path, assignments, overrides, overlays)[0]


def save_recipe(recipe: Recipe, path: Path | str) -> None:
    """Write a recipe that loads to the same recipe; the file appears whole or not at all."""
    text = yaml.safe_dump(recipe.dump(), sort_keys=False, allow_unicode=True)
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)
