"""`postmill lineage` and `postmill report`: where a model comes from and where it went, and the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli_common import clear_errors, console

Model = Annotated[str | None, typer.Argument(metavar="MODEL", help="MODEL@alias, MODEL/version, or MODEL (newest)")]
Row = Annotated[
    str | None, typer.Option("--of", metavar="ROW", help="Backwards: what saw this row; takes what 'data find' takes")
]
Said = Annotated[bool, typer.Option("--said", help="With --of: compare what the user says only, whatever the answer")]
Form = Annotated[str | None, typer.Option("--format", help="With --of: how the row reads; default: detected")]
Json = Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write the graph as JSON; - for the terminal")]
Page = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the graph as one HTML page")]
Folder = Annotated[Path, typer.Argument(help="Folder of evidence, for example reports/quickstart")]


def add_to(app: typer.Typer) -> None:
    """Put the commands into the application."""
    app.command()(clear_errors(lineage))
    app.command()(clear_errors(report))


def lineage(
    model: Model = None,
    of: Row = None,
    said: Said = False,
    format_: Form = None,
    json_: Json = None,
    html: Page = None,
) -> None:
    """Show where a registered model comes from, or with --of where a row went; exit code 1 if nothing saw the row."""
    from components.core.errors import ConfigError
    from components.services.lineage_graph import LineageGraphService
    from flows.data.find import asked
    from flows.environment import be_quiet
    from flows.lineage import as_json, print_lineage, write, write_page
    from flows.session import session

    if (model is None) == (of is None):
        raise ConfigError("say which: a registered model (triage@production), or a row (--of)")
    be_quiet()
    with session() as application, application.container() as services:
        service = services.get(LineageGraphService)
        if of is None:
            graph = service.of_model(str(model))
        else:
            ask = asked(of, said, format_)
            graph = service.of_row(ask.wanted, ask.about)
    if json_ == "-":
        typer.echo(as_json(graph))
    elif json_:
        write(Path(json_), f"{as_json(graph)}\n")
    if html:
        write_page(html, graph)
    if json_ != "-":
        print_lineage(console(), graph, forward=of is not None)
    if of is not None and len(graph.nodes) == 1:
        typer.secho("no data set here holds it", err=True)
        raise typer.Exit(1)


def report(folder: Folder) -> None:
    """Write the page of a run again, report.html, from what its folder of evidence holds."""
    from components.services.lineage_graph import LineageGraphService
    from components.services.report.page import write_page
    from components.services.timings import last_timings
    from flows.environment import be_quiet
    from flows.session import session

    be_quiet()
    with session() as application, application.container() as services:
        service, settings = services.get(LineageGraphService), application.settings
        graph = service.of_folder(folder)
        dataset = service.dataset(graph) if graph else None
        timings = last_timings(settings.folder / settings.monitoring.folder, folder)
        typer.echo(write_page(folder, graph, timings, dataset))
