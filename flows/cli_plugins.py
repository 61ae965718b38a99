"""`postmill plugin`: which plugins there are, what became of them, and how to begin one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli_common import Overrides, clear_errors, console

app = typer.Typer(name="plugin", help="List plugins, or begin one.", no_args_is_help=True)
COLOURS = {"loaded": "green", "blocked": "dim", "skipped": "yellow", "failed": "red"}


@app.command("list")
@clear_errors
def list_(set_: Overrides = None) -> None:
    """Every plugin found, what it brings, and why one is not loaded."""
    from rich.markup import escape
    from rich.table import Column, Table

    from flows.session import session

    with session(set_) as application:
        reports = list(application.plugins.reports.values())
        if not application.settings.plugins.enabled:
            typer.echo("plugins are switched off (plugins.enabled)")
            return
    if not reports:
        typer.echo("no plugins found. Begin one: postmill plugin new NAME")
        return
    table = Table(
        *(Column(name, overflow="fold") for name in ("plugin", "version", "from", "state", "brings / reason"))
    )
    for report in reports:
        colour = COLOURS[report.outcome]
        detail = report.reason or ", ".join(report.provides)
        state = f"[{colour}]{report.outcome}[/]"
        table.add_row(report.name, report.version, escape(report.origin), state, escape(detail))
    console().print(table)


@app.command()
@clear_errors
def new(
    name: Annotated[str, typer.Argument(help="Lower-case name, for example acme")],
    folder: Annotated[Path, typer.Option(help="Where to make the folder postmill-NAME")] = Path("."),
) -> None:
    """Write the skeleton of a plugin: an installable package with one component and a passing test."""
    from flows.scaffold import new_plugin, next_steps

    for file in new_plugin(name, folder):
        typer.echo(file)
    typer.echo("\n  ".join(["\nNext:", *next_steps(name, folder), "postmill plugin list"]))
