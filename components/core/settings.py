"""How Postmill runs here, as opposed to what a run does (the recipe): root directory, plugins, logs, features.

Priority, highest first: `--set` on the command line > `POSTMILL_ROOT=...` in the environment > the same in `.env` >
`postmill.json` > `postmill.yaml` (both in the working directory) > defaults.

Try it: `postmill config show --origin`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from dotenv import dotenv_values
from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from components.core.component import StrictConfig
from components.core.config import ENV_PREFIX, Override, apply_overrides, validation_problems
from components.core.documents import Document, load_document
from components.core.errors import ConfigError
from components.core.plugins import PluginSettings

FILES = ("postmill.json", "postmill.yaml")
DOTENV = ".env"


class Monitoring(StrictConfig):
    """What is written about runs besides the tracker."""

    enabled: bool = True
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "WARNING"
    folder: Path = Field(Path("logs"), description="journals of runs, below root")


class Settings(BaseSettings):
    """The settings of this process."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    root: Path = Field(Path("."), description="directory of artifacts, runs and reports")
    environment: tuple[str, ...] = Field((), description="overlays of every recipe: environments/NAME.yaml")
    plugins: PluginSettings = PluginSettings()
    monitoring: Monitoring = Monitoring()
    features: dict[str, bool] = Field({}, description="switches: sinks by name, and what plugins offer")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        files = [FileSource(settings_cls, Path(name)) for name in FILES if Path(name).is_file()]
        return (init_settings, env_settings, DotenvSource(settings_cls), *files)

    @property
    def folder(self) -> Path:
        """`root`, absolute."""
        return self.root.expanduser().absolute()

    def feature(self, name: str) -> bool:
        """Whether a feature is on; every feature is unless the settings switch it off."""
        return self.features.get(name, True)


class FileSource(PydanticBaseSettingsSource):
    """One settings file, read by the same strict reader as recipes."""

    def __init__(self, settings_cls: type[BaseSettings], path: Path) -> None:
        super().__init__(settings_cls)
        self.document = load_document(path)

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self.document.data.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self.document.data


class DotenvSource(EnvSettingsSource):
    """`.env`, read like the environment; keys of a recipe that stand there too are left alone."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in dotenv(Path(DOTENV)).items()}


def dotenv(path: Path) -> dict[str, str]:
    """The variables of a `.env` file; none if there is no file."""
    return {name: value for name, value in dotenv_values(path).items() if value is not None}


def load_settings(overrides: Iterable[Override] = ()) -> Settings:
    """The settings of this process, `overrides` (from `--set`) on top; a ConfigError lists every mistake."""
    given = Document(Path("--set"), {}, {})
    apply_overrides(given, overrides)
    try:
        return Settings(**given.data)
    except SettingsError as error:
        said = [place for key, place in _written(given) if str(error).find(f'"{key[0]}"') > 0]
        raise ConfigError(
            f"{', '.join(said)}: not readable; write a list as JSON, for example '[\"plugins\"]'"
        ) from error
    except ValidationError as error:
        problems = validation_problems(error, Settings)
        raise ConfigError([f"{_place(where, given)}: {_dotted(where)}: {text}" for where, text in problems]) from error


def _place(where: tuple[str | int, ...], given: Document) -> str:
    """The source that a wrong value came from."""
    wanted = tuple(map(str, where))
    for key, place in _written(given):
        if key[: len(wanted)] == wanted or wanted[: len(key)] == key:
            return place
    return "settings"


def origins(given: Document | None = None) -> dict[str, str]:
    """For every setting that is not at its default: dotted key -> the source that won."""
    won: dict[str, str] = {}
    for key, place in _written(given):
        won.setdefault(".".join(key), place)
    return won


def _written(given: Document | None = None) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every key that some source sets, and where, the strongest source first."""
    if given:
        yield from _leaves(given)
    for place, environ in (("environment", os.environ), (DOTENV, dotenv(Path(DOTENV)))):
        for name in environ:
            key = tuple(name.upper().removeprefix(ENV_PREFIX).lower().split("__"))
            if name.upper().startswith(ENV_PREFIX) and key[0] in Settings.model_fields:
                yield key, f"{place} {name}"
    for name in FILES:
        if Path(name).is_file():
            yield from _leaves(load_document(Path(name)))


def _leaves(document: Document) -> Iterator[tuple[tuple[str, ...], str]]:
    inner = {key[:-1] for key in document.places if key}
    return ((key, place) for key, place in document.places.items() if key and key not in inner)


def _dotted(where: tuple[str | int, ...]) -> str:
    return ".".join(map(str, where))
