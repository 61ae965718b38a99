"""`postmill data`: look at rows, check them, rewrite them, and find out which models saw them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli_common import Environments, Overrides, RecipePath, clear_errors, console

app = typer.Typer(
    name="data",
    help="Look at data, check it, rewrite it, find out what saw it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
AllowDirty = Annotated[
    bool, typer.Option("--allow-dirty", help="Go on though files changed since they were locked; it is recorded")
]
Source = Annotated[
    str,
    typer.Argument(help="File, directory, glob or address (hf://OWNER/DATASET), or a reader: '{type: ..., path: ...}'"),
]
RecipeOrSource = Annotated[str, typer.Argument(metavar="RECIPE|SOURCE", help="Recipe (.yaml), or what 'inspect' takes")]
Form = Annotated[str | None, typer.Option("--format", help="How the rows read, for example alpaca; default: detected")]


def dirty(set_: Sequence[str] | None, allow: bool) -> list[str]:
    """`--allow-dirty` as what it is short for."""
    return [*(set_ or ()), *(["data.allow_dirty=true"] if allow else [])]


@app.command()
@clear_errors
def inspect(
    source: Source, rows: Annotated[int, typer.Option(min=0, help="Rows to show")] = 3, format_: Form = None
) -> None:
    """Show what is in a source, how its rows read, and how a recipe names it. Needs no recipe."""
    from flows.data.inspect import inspect as show
    from flows.session import session

    with session():
        show(console(), source, rows, format_)


@app.command()
@clear_errors
def validate(
    what: RecipeOrSource,
    set_: Overrides = None,
    env: Environments = None,
    format_: Form = None,
    allow_dirty: AllowDirty = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report as a page to this file")] = None,
) -> None:
    """Check all rows against the data contract; exit code 1 if too many are bad.

    With a recipe, its model's tokenizer takes part. A source is checked alone, nothing held out, without a model.
    """
    from flows.data.source import opened
    from flows.data.validate import validate as check

    with opened(what, dirty(set_, allow_dirty), env, format_) as data:
        check(console(), data, html)


@app.command()
@clear_errors
def preview(
    recipe: RecipePath,
    split: Annotated[str, typer.Option("--split", help="train, eval or test")] = "train",
    rows: Annotated[int, typer.Option(min=1, help="Rows to show")] = 3,
    start: Annotated[int, typer.Option(min=0, help="The first of them, from 0, bad rows not counted")] = 0,
    tokens: Annotated[bool, typer.Option("--tokens", help="One token a line, with its id")] = False,
    set_: Overrides = None,
    env: Environments = None,
    allow_dirty: AllowDirty = False,
) -> None:
    """Show rows as the model sees them; what is trained on is green, in a pipe in brackets."""
    from components.core.safeload import load_tokenizer
    from flows.data.display import print_rows
    from flows.data.source import opened, require_recipe

    require_recipe(str(recipe), "preview")
    with opened(str(recipe), dirty(set_, allow_dirty), env) as data:
        assert data.base is not None
        print_rows(console(), data.look(), load_tokenizer(data.base.path), split, rows, start, tokens)


@app.command()
@clear_errors
def stats(
    what: RecipeOrSource,
    set_: Overrides = None,
    env: Environments = None,
    format_: Form = None,
    allow_dirty: AllowDirty = False,
) -> None:
    """Show lengths, tokens, what would be cut and what an epoch costs; without a recipe, characters only."""
    from flows.data.source import opened
    from flows.data.stats import print_stats

    with opened(what, dirty(set_, allow_dirty), env, format_) as data:
        print_stats(console(), data.look(), data)


@app.command()
@clear_errors
def convert(
    source: Source,
    out: Annotated[Path, typer.Argument(help="File to write: .jsonl or .json, also with .gz")],
    to: Annotated[str, typer.Option("--to", help="Format to write, for example messages")],
    from_: Annotated[str | None, typer.Option("--from", help="Format to read; default: detected")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave bad rows out, and write them to OUT's name.rejected.jsonl")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT")] = False,
) -> None:
    """Write the rows of a source in another format. Nothing is written if a row is bad."""
    from flows.data.convert import convert as rewrite
    from flows.data.convert import tell
    from flows.session import session

    with session():
        if not tell(console(), console(stderr=True), rewrite(source, out, to, from_, force, skip_bad)):
            raise typer.Exit(1)


@app.command()
@clear_errors
def lock(recipe: RecipePath, set_: Overrides = None, env: Environments = None) -> None:
    """Write RECIPE.lock: the sha256 of every file that the rows come from. A run then refuses changed files."""
    from flows.data.lock import lock as write
    from flows.data.source import require_recipe
    from flows.session import read, session

    require_recipe(str(recipe), "lock")
    with session(set_, recipe=True) as application:
        write(console(), read(application, recipe, set_, env)[0].data, recipe)


@app.command()
@clear_errors
def find(
    row: Annotated[str, typer.Argument(help="JSON row, FILE:LINE, a digest or how it begins, or what the user says")],
    said: Annotated[bool, typer.Option("--said", help="Compare what the user says only, whatever the answer")] = False,
    format_: Form = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines")] = False,
) -> None:
    """Find the data sets, models and registered versions that saw a row; exit code 1 if none did."""
    from components.services.lineage import LineageService
    from flows.data.find import asked, print_found
    from flows.environment import be_quiet
    from flows.session import session

    be_quiet()
    with session() as application, application.container() as services:
        lineage, ask = services.get(LineageService), asked(row, said, format_)
        found = lineage.find(ask.wanted)
        if as_json:
            _print_json({"column": ask.wanted.column, "digits": ask.wanted.digits, "found": [s.plain() for s in found]})
        else:
            elsewhere = len(lineage.find(ask.said)) if ask.said and not found else 0
            print_found(console(), ask, found, len(lineage.datasets), elsewhere)
    if not found:
        raise typer.Exit(1)


def _print_json(value: Any) -> None:
    import json

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
