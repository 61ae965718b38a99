"""What the `postmill data` commands are pointed at: a recipe, or a source that no recipe names yet.

A source is a file, a directory, a glob, an address (hf://OWNER/DATASET, s3://...), or a reader as a recipe writes it:
'{type: text, path: wiki.txt, unit: line}'. What ends in .yaml or .yml is a recipe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from components.core.artifacts import Artifact
from components.core.config import apply_overrides, parse_assignments, validation_problems
from components.core.documents import Document, parse_yaml
from components.core.errors import ConfigError, ContractBroken
from components.core.recipe import DataSection, OfKind, Recipe, Spec
from components.data.readers.auto import reader_for
from components.services.data import DataService
from components.services.model import ModelService
from components.services.workspace import Workspace
from flows.cli_common import console
from flows.session import notices, read, session, split


@dataclass(frozen=True)
class Opened:
    """A data section, where its rows are checked, and the model they are checked for, if there is one."""

    section: DataSection
    workspace: Workspace
    data: DataService
    recipe: Recipe | None = None
    base: Artifact | None = None

    def validate(self) -> Artifact:
        """The checked data set; a DataError if the contract fails."""
        return self.data.validate(self.section, self.base)

    def look(self) -> Artifact:
        """The good rows, also if there are too many bad ones: a look is no training."""
        try:
            return self.validate()
        except ContractBroken as error:
            note = f"note: {str(error).splitlines()[0]}; the good rows are shown"
            console(stderr=True).print(note, style="yellow", highlight=False, markup=False)
            contract = self.section.contract.model_copy(update={"max_bad_fraction": 1.0})
            return self.data.validate(self.section.model_copy(update={"contract": contract}), self.base)


@contextmanager
def opened(
    what: str, set_: Sequence[str] | None, env: Sequence[str] | None = None, format: str | None = None
) -> Iterator[Opened]:
    """A recipe's data, its base model in the store; or a source alone, without a model, nothing held out."""
    from flows.environment import be_quiet

    be_quiet()
    with session(set_, recipe=True) as app:
        recipe = read(app, Path(what), set_, env)[0] if is_recipe(what) else None
        for note in notices() if recipe else ():
            console(stderr=True).print(f"note: {note}", style="yellow", highlight=False, markup=False)
        section = recipe.data if recipe else source_section(what, format, split(set_)[1])
        with app.container(recipe) as services:
            base = services.get(ModelService).fetch(recipe.model) if recipe else None
            yield Opened(section, app.workspace, services.get(DataService), recipe, base)


def is_recipe(what: str) -> bool:
    """Whether this names a recipe, not rows."""
    return what.lower().endswith((".yaml", ".yml"))


def require_recipe(what: str, command: str) -> None:
    """Refuse what only 'inspect', 'validate' and 'stats' take."""
    if not is_recipe(what):
        raise ConfigError(
            f"'{what}' is no recipe (.yaml); '{command}' needs one. A source without a recipe: data inspect"
        )


def reader_keys(source: str) -> dict[str, Any]:
    """How a recipe writes the reader of a source."""
    if source.lstrip().startswith("{"):
        keys = parse_yaml(source, "the reader", {})
        if not isinstance(keys, dict):
            raise ConfigError(f"write a reader as {{type: NAME, path: ...}}, found {source!r}")
        return keys
    if is_recipe(source):
        raise ConfigError(f"'{source}' is a recipe; name the file, directory or address that its rows come from")
    name, reader = reader_for(source)
    if name == "hub":
        return {"type": "hub", "name": source}
    # of a directory a named reader takes the endings it knows, which may not be those that were told by their content
    if Path(source).expanduser().is_dir():
        return {"type": "auto", "path": source}
    own = {key: getattr(reader.config, key) for key in sorted(reader.config.model_fields_set - {"path"})}
    return {"type": name, "path": source, **own}


def form_keys(format: str) -> dict[str, Any]:
    """`alpaca`, or a form as a recipe writes it: '{type: alpaca, columns: {instruction: task}}'."""
    keys = parse_yaml(format, "the format", {}) if format.lstrip().startswith("{") else {"type": format}
    return dict(keys)


def form_spec(format: str) -> Spec:
    """The form of that name or notation; a ConfigError says what is wrong with it."""
    try:
        spec = OfKind("format").parse(form_keys(format))
    except ValueError as error:
        raise _named(error, "format") from error
    assert spec is not None
    return spec


def source_section(source: str, format: str | None = None, assignments: Sequence[str] | None = None) -> DataSection:
    """A data section with one source, of which no rows are held out unless `--set data.split.eval=0.1` says so."""
    data: dict[str, Any] = {"train": reader_keys(source)}
    if format:
        data["format"] = form_keys(format)
    document = Document(Path("data"), {"data": data}, {})
    overrides = parse_assignments(assignments or ())
    strange = [f"--set {o.key}: a source has no keys but data.*" for o in overrides if not o.key.startswith("data.")]
    if strange:
        raise ConfigError(strange)
    apply_overrides(document, overrides)
    alone = data.get("eval") is None and data.get("split") is None
    try:
        section = DataSection.model_validate({**data, "split": {}} if alone else data)
    except ValidationError as error:
        problems = validation_problems(error, DataSection)
        raise ConfigError([f"{'.'.join(map(str, ('data', *where)))}: {text}" for where, text in problems]) from error
    # a recipe must hold rows out; a look at one file must not part it
    return section.model_copy(update={"split": None}) if alone else section


def _named(error: ValueError, key: str) -> ConfigError:
    from components.core.config import NestedConfigError

    if isinstance(error, NestedConfigError):
        problems = validation_problems(error.error, error.model, (key,), error.beside)
        return ConfigError([f"{'.'.join(map(str, where))}: {text}" for where, text in problems])
    return error if isinstance(error, ConfigError) else ConfigError(str(error))
