"""`postmill config`: what the configuration is, where every key of it comes from, and what it may be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli_common import Environments, Overrides, RecipeOption, clear_errors, console

app = typer.Typer(name="config", help="Show, check and describe the configuration.", no_args_is_help=True)
UNCUT = 10_000
"""Columns of a pipe: a line is one key, however long."""


@app.command()
@clear_errors
def show(
    recipe: RecipeOption = None,
    origin: Annotated[bool, typer.Option("--origin", help="Which source won, for every key")] = False,
    set_: Overrides = None,
    env: Environments = None,
) -> None:
    """Print the settings and, if one is named, a recipe with every layer on it."""
    import yaml

    from components.core.errors import ConfigError
    from components.core.secret import masked
    from components.core.settings import read_settings
    from flows.session import read, session, split

    for_settings, for_recipe = split(set_)
    if recipe is None and for_recipe:
        raise ConfigError([f"--set {text}: not a setting, and no recipe is named" for text in for_recipe])
    with session(set_, recipe=True) as app:
        layers: dict[str, Any] = {"settings": read_settings(for_settings)}
        if recipe is not None:
            layers["recipe"] = read(app, recipe, set_, env)
    if origin:
        screen = console()
        if not screen.is_terminal:
            screen.width = UNCUT
        for name, (config, document) in layers.items():
            screen.print(_table(name, _dump(config), document))
        return
    sections = {name: _dump(config) for name, (config, _) in layers.items()}
    typer.echo(masked(yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)), nl=False)


def _dump(config: Any) -> dict[str, Any]:
    plain: dict[str, Any] = config.model_dump(mode="json", by_alias=True)
    return plain


def _table(name: str, plain: dict[str, Any], document: Any) -> Any:
    from rich.markup import escape
    from rich.table import Column, Table

    from components.core.secret import masked

    columns = (Column(title, overflow="fold") for title in ("key", "value", "from"))
    table = Table(*columns, title=name, title_justify="left")
    for where, value in _leaves(plain, ()):
        place = _origin(where, document)
        text = masked(json.dumps(value, ensure_ascii=False))
        cells = (escape(cell) for cell in (".".join(where), text, place))
        table.add_row(*cells, style="dim" if place == "default" else None)
    return table


def _origin(where: tuple[str, ...], document: Any) -> str:
    """The place of a key, or of the plain value that stands for it (a preset's name); `default` if nobody set it."""
    target = document.data
    for key in where:
        if isinstance(target, dict):
            if key not in target:
                return "default"
            target = target[key]
        elif isinstance(target, list):
            target = target[int(key)]
    return str(document.locate(where))


def _leaves(value: Any, where: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict | list):
        items = [(str(position), item) for position, item in enumerate(value)]
    else:
        return [(where, value)]
    return [leaf for key, item in items for leaf in _leaves(item, (*where, key))]


@app.command()
@clear_errors
def schema() -> None:
    """Print the JSON Schema of a recipe, for completion in an editor."""
    from components.core.schema import recipe_schema
    from flows.session import session

    with session():
        typer.echo(json.dumps(recipe_schema(), indent=2))


@app.command()
@clear_errors
def watch(recipe: Annotated[Path, typer.Argument(help="Recipe file")], env: Environments = None) -> None:
    """Check a recipe whenever it is saved: what changed, or why it is refused. Stop with Ctrl-C."""
    from components.core.events import ConfigChanged, ConfigRejected
    from components.services.configuration import LiveConfig
    from flows.session import read, session

    with session() as app:
        live = LiveConfig(lambda: _checked(app, read(app, recipe, None, env)), app.bus)
        app.bus.on(ConfigChanged, lambda event: _print_changes(event.changes))
        app.bus.on(ConfigRejected, lambda event: _print_problems(event.problems))
        typer.echo(f"{recipe} is valid; watching {', '.join(str(file) for file in live.files)}")
        live.watch()


def _checked(app: Any, found: tuple[Any, Any]) -> tuple[Any, Any]:
    """A recipe and its places, once it is known that its services fit."""
    app.check(found[0])
    return found


def _print_problems(problems: Sequence[str]) -> None:
    from components.core.secret import masked

    for text in problems:
        typer.secho(masked(text), fg="red")


def _print_changes(changes: Any) -> None:
    from components.core.secret import masked

    for key, (old, new) in changes.items():
        typer.echo(masked(f"{key}: {old!r} -> {new!r}"))
