"""How Postmill runs here, as opposed to what a run does (the recipe): root directory, plugins, logs, features.

Priority, highest first: `--set` on the command line > `POSTMILL_ROOT=...` in the environment > the same in `.env` >
`postmill.json` > `postmill.yaml` (both in the working directory) > defaults. Files and values are read like a recipe's.

Try it: `postmill config show --origin`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import BeforeValidator, Field, PositiveFloat, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from components.core.component import StrictConfig
from components.core.config import ENV_PREFIX, Override, apply_overrides, environment_overrides, validation_problems
from components.core.documents import Document, load_document, merge, read_text
from components.core.errors import ConfigError
from components.core.plugins import PluginSettings
from components.core.secret import DOTENV, refuse_literals

FILES = ("postmill.json", "postmill.yaml")
"""The stronger one first."""


class Monitoring(StrictConfig):
    """What is written about runs besides the tracker."""

    enabled: bool = True
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"
    folder: Path = Field(Path("logs"), description="journals of runs, below root")


class Price(StrictConfig):
    """What a machine costs, so that runs can be told in money."""

    per_hour: PositiveFloat = Field(description="of one machine")
    currency: str = Field("EUR", min_length=1, max_length=12)


def _by_name(value: Any) -> Any:
    """`dask` is short for `{type: dask}`."""
    return {"type": value} if isinstance(value, str) else value


class Settings(StrictConfig):
    """The settings of this process. Made in code they are what they are given; `load_settings` asks the sources."""

    root: Path = Field(Path("."), description="directory of artifacts, runs and reports")
    environment: tuple[str, ...] = Field((), description="overlays of every recipe: environments/NAME.yaml")
    plugins: PluginSettings = PluginSettings()
    monitoring: Monitoring = Monitoring()
    features: dict[str, bool] = Field({}, description="sinks to switch on or off, by name")
    sinks: dict[str, dict[str, Any]] = Field({}, description="configuration of sinks, by name")
    runner: Annotated[dict[str, Any], BeforeValidator(_by_name)] = Field(
        {"type": "threads"}, description="where work is done: the name of a runner, or its type and keys"
    )
    cost: Price | None = Field(None, description="price of this machine; null: runs are not told in money")

    @property
    def folder(self) -> Path:
        """`root`, absolute."""
        return self.root.expanduser().absolute()

    def feature(self, name: str) -> bool:
        """Whether a feature is on; every feature is unless the settings switch it off."""
        return self.features.get(name, True)


class DocumentSource(PydanticBaseSettingsSource):
    """One source of settings, read already."""

    def __init__(self, settings_cls: type[BaseSettings], document: Document) -> None:
        super().__init__(settings_cls)
        self.document = document

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self.document.data.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self.document.data


class SourcedSettings(BaseSettings, Settings):  # type: ignore[misc]  # their configurations are merged by pydantic
    """Settings that pydantic-settings puts together from documents, the strongest first.

    The documents are read by our own readers: pydantic-settings' pass over variables that name nothing, and do not
    know the line that a value came from.
    """

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # its own readers stay unused
        cls, settings_cls: type[BaseSettings], init_settings: InitSettingsSource, **_: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return tuple(DocumentSource(settings_cls, document) for document in init_settings.init_kwargs["documents"])


def documents(overrides: Iterable[Override]) -> list[Document]:
    """What `overrides` (from `--set`), the environment, `.env` and the files say, the strongest first."""
    said = [("--set", list(overrides))]
    for place, environ in reversed(environments()):
        said.append((place, environment_overrides(environ, place, Settings.model_fields)))
    found = []
    for place, given in said:
        document = Document(Path(place), {}, {})
        apply_overrides(document, given)
        found.append(document)
    return [*found, *(load_document(Path(name)) for name in FILES if Path(name).is_file())]


def read_settings(overrides: Iterable[Override] = ()) -> tuple[Settings, Document]:
    """The settings of this process, and the places they come from; a ConfigError lists every mistake."""
    layers = documents(overrides)
    places = Document(Path("settings"), {}, {})
    for document in reversed(deepcopy(layers)):
        merge(places, document)  # layers that disagree whether something is a list or a mapping are found here
    try:
        settings = SourcedSettings(documents=layers)  # type: ignore[call-arg]  # taken by its sources
        refuse_literals(settings.sinks, "sinks")
        return settings, places
    except ValidationError as error:
        problems = validation_problems(error, Settings)
        told = [f"{places.locate(at)}: {'.'.join(map(str, at))}: {text}" for at, text in problems]
        raise ConfigError(told) from error


def load_settings(overrides: Iterable[Override] = ()) -> Settings:
    """The settings of this process."""
    return read_settings(overrides)[0]


def environments() -> list[tuple[str, Mapping[str, str]]]:
    """The variables that may configure Postmill, by the place they stand in, the weaker place first."""
    return [(DOTENV, dotenv(Path(DOTENV))), ("environment", os.environ)]


def dotenv(path: Path) -> dict[str, str]:
    """The variables of a `.env` file; none if there is no file."""
    if not path.is_file():
        return {}
    text = read_text(path)
    for line in parse_stream(io.StringIO(text)):
        if line.error and ENV_PREFIX in line.original.string:
            raise ConfigError(f"{path}:{line.original.line}: a variable is written {ENV_PREFIX}NAME=value")
    return {name: value for name, value in dotenv_values(stream=io.StringIO(text)).items() if value is not None}
