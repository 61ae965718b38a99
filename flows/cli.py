"""The command line. Every command imports what it needs when it runs, so that `--help` is instant.

postmill run configs/quickstart.yaml
"""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="postmill",
    help="From a base language model to a small, fast, registered model, with the proof that it is good enough.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
RecipePath = Annotated[Path, typer.Argument(help="Recipe file, for example configs/quickstart.yaml")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set train.0.max_steps=10")]
SETTING_NAMES = ("POSTMILL_ROOT",)


def clear_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Print a PostmillError as one message and exit with its code; anything else is a bug and keeps its traceback."""

    @wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        from components.core.errors import ConfigError, PostmillError

        try:
            return command(*args, **kwargs)
        except PostmillError as error:
            problems = error.problems if isinstance(error, ConfigError) else [str(error)]
            for problem in problems:
                typer.secho(f"error: {problem}", fg="red", err=True)
            raise typer.Exit(error.exit_code) from error

    return wrapper


def _load(path: Path, assignments: list[str] | None) -> Any:
    from components.core.config import environment_overrides
    from components.core.recipe import load_recipe

    return load_recipe(path, assignments or (), environment_overrides(os.environ, ignore=SETTING_NAMES))


def _console(stderr: bool = False) -> Any:
    from rich.console import Console

    # a file or a pipe has no width of its own; the table needs about this much
    return Console(stderr=stderr, width=None if sys.stdout.isatty() else 120)


@app.command()
@clear_errors
def run(recipe: RecipePath, set_: Overrides = None) -> None:
    """Run a recipe: validate, train, optimize, benchmark, judge, register."""
    started = time.monotonic()
    console, plan = _console(), _load(recipe, set_)
    from components.services.workspace import Workspace, default_root, use
    from components.trackers.mlflow import preload
    from flows.display import Display
    from flows.environment import prepare

    root = default_root()
    for notice in prepare(root):
        console.print(f"note: {notice}", style="yellow", highlight=False)
    _stop_cleanly_on_sigterm()
    preload()
    console.print(f"[bold]{plan.name}[/]  {recipe}  (starting the orchestrator)", highlight=False)
    workspace = Workspace(root)
    with use(workspace), Display(console, workspace.bus):
        from flows.pipeline import pipeline

        outcome = pipeline(plan.dump())
    _finish(console, plan, workspace, outcome, time.monotonic() - started)


def _stop_cleanly_on_sigterm() -> None:
    # SystemExit runs the exit handlers, one of which stops Prefect's embedded server
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def _finish(console: Any, plan: Any, workspace: Any, outcome: Any, seconds: float) -> None:
    from components.core.errors import GateNotPassed
    from flows.display import print_reasons, results_table
    from flows.results import read_results

    board, verdict = read_results(workspace.reports / plan.name)
    console.print()
    console.print(results_table(plan, board, verdict))
    print_reasons(console, verdict)
    report = os.path.relpath(workspace.reports / plan.name / "report.md")
    console.print(f"\n{seconds:.0f} s in all. Evidence: {report}", highlight=False)
    if outcome.chosen is None:
        raise GateNotPassed("no variant passed the gate; nothing was registered. The reasons stand above.")
    if outcome.version is None:
        console.print(f"Accepted: {outcome.chosen}. The recipe registers nothing (no 'register' section).")
        return
    word = "registered" if outcome.new_version else "registered already"
    name, alias = outcome.model, outcome.alias
    console.print(f"[bold green]{outcome.chosen} {word}: {name} version {outcome.version}, alias {alias}[/]")
    console.print("Next:", highlight=False)
    for command, why in (
        (f'postmill generate {name}@{alias} "My kettle arrived broken, order A-10423."', "try the model"),
        (f"postmill promote {name} {outcome.version} --to production", "promote it"),
        ("postmill ui", "see in MLflow why it was accepted"),
    ):
        console.print(f"  {command}   [dim]# {why}[/]", highlight=False, soft_wrap=True)


@app.command()
@clear_errors
def check(recipe: RecipePath, set_: Overrides = None) -> None:
    """Validate a recipe and its data without running it; print plan, estimates and what the model will see."""
    plan = _load(recipe, set_)
    from flows.check import print_check

    print_check(_console(), plan)


@app.command()
@clear_errors
def components(kind: Annotated[str | None, typer.Argument(help="Only this kind")] = None) -> None:
    """List the registered components."""
    from components.core.kinds import registry

    for name in [kind] if kind else registry.kinds():
        typer.secho(name, bold=True)
        for entry in registry.names(name):
            typer.echo(f"  {entry:<16} {registry.get(name, entry).summary()}")


@app.command()
@clear_errors
def generate(
    model: Annotated[str, typer.Argument(help="MODEL, MODEL@alias or MODEL/version")],
    prompt: Annotated[str, typer.Argument(help="What the user says")],
    system: Annotated[str | None, typer.Option(help="System message; default: the one of the training rows")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=8192)] = 256,
) -> None:
    """Answer a prompt with a registered model, through ONNX Runtime."""
    from components.services.inference import InferenceService
    from components.services.workspace import Workspace, default_root
    from flows.environment import prepare

    prepare(default_root())
    service = InferenceService(Workspace(default_root()))
    for piece in service.stream(model, prompt, system, max_new_tokens):
        typer.echo(piece, nl=False)
    typer.echo()


@app.command()
@clear_errors
def promote(
    model: str,
    version: str,
    to: Annotated[str, typer.Option("--to", help="Alias to move, for example staging or production")],
) -> None:
    """Point an alias at a version whose evidence and files check out."""
    from components.services.model_registry import RegistryService
    from components.services.workspace import Workspace, default_root

    RegistryService(Workspace(default_root())).promote(model, version, to)
    typer.secho(f"{model}@{to} is now version {version}", fg="green")


@app.command()
@clear_errors
def ui(port: Annotated[int, typer.Option(min=1, max=65535)] = 5000) -> None:
    """Open the MLflow UI on the runs and models of this directory."""
    from components.services.workspace import default_root
    from components.trackers.mlflow import SETTINGS, connect, tracking_uri

    root = default_root()
    connect(root)
    environment = {**os.environ, **SETTINGS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = ["mlflow", "ui", "--backend-store-uri", tracking_uri(root), "--port", str(port), "--workers", "1"]
    typer.echo(f"http://127.0.0.1:{port}   (stop with Ctrl-C)")
    os.execvpe(sys.executable, [sys.executable, "-m", *command], environment)


def main() -> None:
    """Entry point of the `postmill` command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # progress is visible in a pipe or a log file too
    app()


if __name__ == "__main__":
    main()
