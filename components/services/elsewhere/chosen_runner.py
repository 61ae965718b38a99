"""The runner that the settings ask for. They are read before plugins are, which may bring one, so it is found later."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ValidationError

from components.core.component import StrictConfig
from components.core.config import validation_problems
from components.core.errors import ConfigError
from components.core.recipe import OfKind, Spec
from components.core.settings import Settings


class _Choice(StrictConfig):
    runner: Annotated[Spec, OfKind("runner")]


def chosen_runner(settings: Settings) -> Any:
    """The runner, built; a ConfigError if there is none of that name, or its keys do not fit."""
    try:
        choice = _Choice.model_validate({"runner": settings.runner})
    except ValidationError as error:
        told = [f"{'.'.join(map(str, at))}: {text}" for at, text in validation_problems(error, _Choice)]
        raise ConfigError(told) from error
    return choice.runner.build()
