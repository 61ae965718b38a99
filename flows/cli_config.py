"""`postmill config`: what the configuration is, where every key of it comes from, and what it may be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli_common import Environments, Overrides, RecipeOption, clear_errors, console

app = typer.Typer(name="config", help="Show, check and describe the configuration.", no_args_is_help=True)


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

    from components.core.config import apply_overrides
    from components.core.documents import Document
    from components.core.secret import masked
    from components.core.settings import origins
    from flows.session import read, session, split

    with session(set_) as app:
        given = Document(Path("--set"), {}, {})
        apply_overrides(given, split(set_)[0])
        sections: dict[str, Any] = {"settings": app.settings.model_dump(mode="json")}
        won = {"settings": origins(given)}
        if recipe is not None:
            plan, document = read(app, recipe, set_, env)
            sections["recipe"] = plan.dump()
            won["recipe"] = {".".join(key): place for key, place in document.places.items()}
    if origin:
        for name, plain in sections.items():
            console().print(_table(name, plain, won[name]))
        return
    typer.echo(masked(yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)), nl=False)


def _table(name: str, plain: dict[str, Any], won: dict[str, str]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    from components.core.secret import masked

    table = Table("key", "value", "from", title=name, title_justify="left")
    for key, value in _leaves(plain, ""):
        place = _origin(key, won)
        text = masked(json.dumps(value, ensure_ascii=False))
        table.add_row(escape(key), escape(text), escape(place), style="dim" if place == "default" else None)
    return table


def _origin(key: str, won: dict[str, str]) -> str:
    """The place of a key, or of the list or plain value that it is part of."""
    if key in won:
        return won[key]
    parent = key.rpartition(".")[0]
    inside_a_written_value = parent in won and not any(other.startswith(f"{parent}.") for other in won)
    return won[parent] if inside_a_written_value else "default"


def _leaves(value: Any, prefix: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict | list):
        items = [(str(position), item) for position, item in enumerate(value)]
    else:
        return [(prefix.rstrip("."), value)]
    return [leaf for key, item in items for leaf in _leaves(item, f"{prefix}{key}.")]


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
        live = LiveConfig(lambda: read(app, recipe, None, env), app.bus)
        app.bus.on(ConfigChanged, lambda event: _print_changes(event.changes))
        app.bus.on(ConfigRejected, lambda event: _print_problems(event.problems))
        typer.echo(f"{recipe} is valid; watching {', '.join(str(file) for file in live.files)}")
        live.watch()


def _print_problems(problems: Sequence[str]) -> None:
    for text in problems:
        typer.secho(text, fg="red")


def _print_changes(changes: Any) -> None:
    for key, (old, new) in changes.items():
        typer.echo(f"{key}: {old!r} -> {new!r}")
