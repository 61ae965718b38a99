"""What all commands share: options, the console, and errors as one message."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

RecipePath = Annotated[Path, typer.Argument(help="Recipe file, for example configs/quickstart.yaml")]
RecipeOption = Annotated[Path | None, typer.Argument(help="Recipe file, for example configs/quickstart.yaml")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set train.0.max_steps=10")]
Environments = Annotated[list[str] | None, typer.Option("--env", help="Overlay: environments/NAME.yaml by the recipe")]


def clear_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Print a PostmillError as one message and exit with its code; anything else is a bug and keeps its traceback."""

    @wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        from components.core.errors import ConfigError, PostmillError

        try:
            return command(*args, **kwargs)
        except PostmillError as error:
            from components.core.secret import masked

            problems = error.problems if isinstance(error, ConfigError) else [str(error)]
            for problem in problems:
                typer.secho(f"error: {masked(problem)}", fg="red", err=True)
            raise typer.Exit(error.exit_code) from error

    return wrapper


@contextmanager
def importing() -> Iterator[None]:
    """Thousands of modules are imported in this block, and none of them is garbage: without it, a second goes into
    searching them for cycles, now and when the process ends."""
    gc.disable()
    atexit.register(gc.freeze)  # what is frozen is not searched once more at the end
    try:
        yield
    finally:
        gc.enable()


def quick(command: Callable[..., Any]) -> Callable[..., Any]:
    """For a command that lasts two seconds, most of which MLflow is imported."""

    @wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with importing(), _hidden("polars", "scipy"):
            return command(*args, **kwargs)

    return wrapper


@contextmanager
def _hidden(*packages: str) -> Iterator[None]:
    """As if these were not installed: MLflow imports them wherever they are, for frames that a registry does not have.
    Python reads None as "there is no such module"."""
    modules: dict[str, Any] = sys.modules
    absent = [name for name in packages if name not in modules and "mlflow" not in modules]
    modules.update(dict.fromkeys(absent))
    try:
        yield
    finally:
        for name in absent:
            del modules[name]


def console(stderr: bool = False) -> Any:
    """A rich console; a file or a pipe has no width of its own, and the tables need about this much."""
    from rich.console import Console

    return Console(stderr=stderr, width=None if sys.stdout.isatty() else 120)
