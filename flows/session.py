"""What every command begins with: settings, plugins, and a recipe laid over with environment and command line."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from components.core.config import (
    ALIASES,
    Override,
    alias_overrides,
    environment_overrides,
    keys_of,
    parse_assignments,
    unknown_variables,
)
from components.core.documents import Document
from components.core.errors import ConfigError
from components.core.recipe import Recipe, read_recipe, recipe_model
from components.core.secret import DOTENV, masked
from components.core.settings import Settings, environments, load_settings
from components.services.application import Application

log = logging.getLogger(__name__)


@contextmanager
def session(assignments: Sequence[str] | None = None, recipe: bool = False) -> Iterator[Application]:
    """The application of this process; `assignments` (`--set`) may name keys of a recipe too where there is one."""
    from tasks import events  # noqa: F401  registers the sink that tells Prefect

    for_settings, for_recipe = split(assignments)
    if for_recipe and not recipe:
        known = ", ".join(Settings.model_fields)
        raise ConfigError([f"--set {text}: no such setting (known: {known})" for text in for_recipe])
    settings = load_settings(for_settings)
    log_to_terminal(settings.monitoring.log_level)
    with Application(settings) as app:
        if not recipe:
            for problem in unknown():  # a mistake for a command that reads a recipe, worth a word to every other
                log.warning(problem)
        yield app


class _Masking(logging.Formatter):
    """Blots out secrets, in tracebacks too."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


def log_to_terminal(level: str) -> None:
    """Show our own loggers, not the root: Prefect would print every error a second time, with its traceback."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Masking("%(levelname)s %(name)s: %(message)s"))
    for package in ("components", "tasks", "flows"):
        logger = logging.getLogger(package)
        logger.setLevel(level)
        logger.handlers = [handler]


def split(assignments: Sequence[str] | None) -> tuple[list[Override], list[str]]:
    """`--set` for the settings, and `--set` for the recipe."""
    given = list(assignments or ())
    parsed = parse_assignments(given)
    ours = [override.key.partition(".")[0] in Settings.model_fields for override in parsed]
    mine = [override for override, is_ours in zip(parsed, ours, strict=True) if is_ours]
    return mine, [text for text, is_ours in zip(given, ours, strict=True) if not is_ours]


def read(
    app: Application, path: Path, assignments: Sequence[str] | None, overlays: Sequence[str] | None
) -> tuple[Recipe, Document]:
    """A recipe with every layer on it, and where each key came from."""
    chosen = overlays or app.settings.environment
    recipe, document = read_recipe(path, split(assignments)[1], surroundings(), chosen)
    document.files += [Path(DOTENV)] if Path(DOTENV).is_file() else []
    return recipe, document


def surroundings() -> list[Override]:
    """What `.env` and, above it, the environment say about a recipe."""
    keys = list(keys_of(recipe_model()))
    found: list[Override] = []
    for place, environ in environments():
        found += [*alias_overrides(environ, place), *environment_overrides(environ, place, keys)]
    problems = unknown()
    if problems:
        raise ConfigError(problems)
    return found


def unknown() -> list[str]:
    """Variables with our prefix that name neither a setting nor a key of a recipe."""
    known = [*keys_of(recipe_model()), *Settings.model_fields]
    return [problem for place, environ in environments() for problem in unknown_variables(environ, place, known)]


def notices() -> list[str]:
    """Variables without our prefix that change this run: they may be there for another program."""
    said = {name: environ[name] for _, environ in environments() for name in ALIASES if name in environ}
    return [f"{name}={value} sets {ALIASES[name]}" for name, value in said.items()]
