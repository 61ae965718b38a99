"""`postmill ui`: the pages of MLflow and Prefect on the runs and models of this directory."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack, suppress
from typing import Annotated

import typer

from flows.cli_common import clear_errors, console

app = typer.Typer()
Port = Annotated[int, typer.Option("--port", min=1, max=65535, help="Of MLflow's pages")]
PrefectPort = Annotated[
    int | None, typer.Option("--prefect-port", min=1, max=65535, help="Of Prefect's pages; default: 4200 or a free one")
]
TrackingUri = Annotated[
    str | None, typer.Option("--tracking-uri", help="Database of MLflow to show, for example postgresql://...")
]


@app.command()
@clear_errors
def ui(
    port: Port = 5000,
    prefect_port: PrefectPort = None,
    tracking_uri: TrackingUri = None,
    prefect: Annotated[bool, typer.Option(help="Prefect's pages too, not only MLflow's")] = True,
) -> None:
    """Open the pages of MLflow (runs, evidence, models) and Prefect (flows, schedules, approvals).

    While this runs, every command below the same directory uses Prefect's server instead of starting one of its own.
    """
    from flows.environment import be_quiet
    from flows.servers import ServerFailed, mlflow_server, prefect_server, reach
    from flows.session import session

    be_quiet()
    if tracking_uri:
        os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped too
    with session() as application, ExitStack() as servers:
        root, screen = application.settings.folder, console()
        screen.print("starting; this takes about twenty seconds")
        process, mlflow, log = servers.enter_context(mlflow_server(root, port))
        pages = {"MLflow": mlflow}
        if prefect:  # both at the same time
            pages["Prefect"] = servers.enter_context(prefect_server(root, prefect_port)).removesuffix("/api")
        reach(process, f"{mlflow}/health", log)
        for name, url in pages.items():
            screen.print(f"{name:<8} {url}", highlight=False)
        screen.print("(stop with Ctrl-C)", highlight=False)
        with suppress(KeyboardInterrupt):  # how it is meant to end
            process.wait()
            raise ServerFailed(f"MLflow's server ended with code {process.returncode}; its log is '{log}'")
