"""`postmill schedule`: serve the deployments of prefect.yaml, with nothing else installed and nothing else running."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli_common import clear_errors, console

app = typer.Typer()


@app.command()
@clear_errors
def schedule(
    only: Annotated[
        list[str] | None, typer.Argument(help="Deployments to serve, for example weekly; default: all")
    ] = None,
    file: Annotated[Path, typer.Option("--file", help="Where the deployments are written")] = Path("prefect.yaml"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List them with their next runs, and serve nothing")
    ] = False,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Of the server; default: 4200 or a free one")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Runs at a time, of all deployments together")] = 4,
) -> None:
    """Serve the deployments of prefect.yaml: schedules fire while this runs, and Prefect's UI can start each of them.

    Uses the server of PREFECT_API_URL, or the one that runs for this directory, or starts one.
    """
    from flows.environment import be_quiet
    from flows.servers import prefect_server
    from flows.session import session

    _logs_to_the_server()
    be_quiet()  # before Prefect is imported: it reads its settings once
    with session() as application:
        root = application.settings.folder
        os.environ.setdefault("PREFECT_HOME", str(root / ".prefect"))
        if dry_run:
            _print(console(), _plan(file, only))
            return
        screen = console()
        screen.print("starting the orchestrator")
        with prefect_server(root, port) as url, ExitStack() as held:
            from flows.claims import claimed, mark_abandoned, mark_crashed
            from flows.schedule import serve

            planned = _plan(file, only)
            for each in planned:
                held.enter_context(claimed(root, f"serving {each.name}"))
            for note in [*mark_crashed(root), *mark_abandoned(root, [each.name for each in planned])]:
                screen.print(f"note: {note}", style="yellow", highlight=False, markup=False)
            _print(screen, planned)
            screen.print(f"{url.removesuffix('/api')}   (stop with Ctrl-C)", highlight=False)
            serve(planned, limit, url)


def _logs_to_the_server() -> None:
    """Nobody sits before this terminal: what runs say belongs on their pages, where it is looked for."""
    os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "true")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO")


def _plan(file: Path, only: list[str] | None) -> Any:
    from flows.deployments import plan

    return plan(file, only or ())


def _print(screen: Any, planned: Any) -> None:
    from rich.table import Table

    table = Table("deployment", "schedule", "next runs", "at a time")
    for each in planned:
        entry = each.entry
        schedules = [
            f"{when.cron or when.rrule or when.interval} {when.timezone or ''}".strip() for when in entry.schedules
        ]
        limit = entry.concurrency_limit
        bound = "any" if limit is None else str(limit.limit)
        shown = [time.strftime("%a %Y-%m-%d %H:%M", when.astimezone().timetuple()) for when in each.next]
        table.add_row(each.name, "\n".join(schedules) or "by hand", "\n".join(shown), bound)
    screen.print(table)
