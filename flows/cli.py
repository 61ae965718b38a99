"""The command line. Every command imports what it needs when it runs, so that `--help` is instant.

postmill run configs/quickstart.yaml
"""

from __future__ import annotations

import io
import os
import sys
import time
from typing import Annotated, Any

import typer

from flows import cli_config, cli_data, cli_lineage, cli_models, cli_plugins, cli_schedule, cli_stage, cli_ui
from flows.cli_common import Environments, Overrides, RecipePath, clear_errors, console, importing
from flows.cli_data import AllowDirty, dirty

app = typer.Typer(
    name="postmill",
    help="From a base language model to a small, fast, registered model, with the proof that it is good enough.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(cli_config.app)
app.add_typer(cli_data.app)
app.add_typer(cli_plugins.app)
app.add_typer(cli_models.app)
cli_lineage.add_to(app)
app.add_typer(cli_schedule.app)
app.add_typer(cli_ui.app)
app.add_typer(cli_stage.app)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"postmill {version('postmill')}")
        raise typer.Exit


@app.callback()
def options(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    """Options of the program itself; `--version` prints and exits."""


@app.command()
@clear_errors
def run(recipe: RecipePath, set_: Overrides = None, env: Environments = None, allow_dirty: AllowDirty = False) -> None:
    """Run a recipe: validate, train, and as far as it says so optimize, benchmark, judge, register."""
    started, screen, set_ = time.monotonic(), console(), dirty(set_, allow_dirty)
    from components.trackers.mlflow import preload
    from flows.claims import mark_crashed
    from flows.display import Display
    from flows.environment import be_quiet, prepare
    from flows.servers import embedded_server
    from flows.session import notices, read, session
    from flows.termination import stops_on_sigterm

    be_quiet()  # before a recipe is read: libraries look only once
    with session(set_, recipe=True) as application:
        plan, _ = read(application, recipe, set_, env)
        application.check(plan)
        root = application.settings.folder
        _say(screen, [*prepare(root), *notices()])
        with stops_on_sigterm(), embedded_server(root) as ready:
            screen.print(f"[bold]{plan.name}[/]  {recipe}  (starting the orchestrator)", highlight=False)
            with importing():
                preload()
                from flows.pipeline import pipeline

                ready()
            _say(screen, mark_crashed(root))
            with Display(screen, application.bus):
                outcome = pipeline(plan.dump())
    _finish(screen, plan, application.workspace, outcome, time.monotonic() - started)


def _say(screen: Any, notes: list[str]) -> None:
    for note in notes:
        screen.print(f"note: {note}", style="yellow", highlight=False, markup=False)


def _finish(console: Any, plan: Any, workspace: Any, outcome: Any, seconds: float) -> None:
    from components.core.errors import GateNotPassed
    from components.services.cost import cost_line
    from flows.display import print_reasons, results_table, training_table
    from flows.display_search import print_search
    from flows.results import read_cost, read_results, read_search, read_training

    folder = workspace.reports / plan.name
    board, verdict = read_results(folder)
    console.print()
    if verdict is None:
        console.print(training_table(plan, read_training(folder)))
    print_search(console, read_search(folder), os.path.relpath(folder))
    if board.subjects():
        console.print(results_table(plan, board, verdict))
    if verdict is not None:
        print_reasons(console, verdict)
    report = os.path.relpath(folder / "report.md")
    console.print(f"\n{seconds:.0f} s in all. Evidence: {report}", highlight=False)
    if cost := read_cost(folder):
        console.print(cost_line(cost), highlight=False, markup=False)
    if verdict is None:
        _where(console, outcome)
        return
    if outcome.chosen is None:
        raise GateNotPassed("no variant passed the gate; nothing was registered. The reasons stand above.")
    if outcome.version is None:
        console.print(f"Accepted: {outcome.chosen}. The recipe registers nothing (no 'register' section).")
        return
    _registered(console, outcome)


def _where(console: Any, outcome: Any) -> None:
    """The folders of what was made, for recipes that end before a verdict."""
    for name, place in outcome.artifacts.items():
        if name != "base":
            console.print(f"{name}: {os.path.relpath(place)}", highlight=False, soft_wrap=True, markup=False)


def _registered(console: Any, outcome: Any) -> None:
    word = "registered" if outcome.new_version else "registered already"
    name, alias = outcome.model, outcome.alias  # the alias of the recipe, or the later stage that it stands in
    console.print(f"[bold green]{outcome.chosen} {word}: {name} version {outcome.version}, {alias}[/]")
    console.print("Next:", highlight=False)
    for command, why in (
        (f'postmill generate {name}/{outcome.version} "My kettle arrived broken, order A-10423."', "try the model"),
        (f"postmill promote {name} {outcome.version} --to production", "promote it"),
        ("postmill ui", "see in MLflow why it was accepted"),
    ):
        console.print(f"  {command}   [dim]# {why}[/]", highlight=False, soft_wrap=True)


@app.command()
@clear_errors
def check(
    recipe: RecipePath, set_: Overrides = None, env: Environments = None, allow_dirty: AllowDirty = False
) -> None:
    """Validate a recipe and its data without training; print plan, estimates and what the model will see.

    The base model is fetched into the store, where a run finds it.
    """
    from flows.check import print_check
    from flows.environment import be_quiet
    from flows.session import notices, read, session

    be_quiet()
    set_ = dirty(set_, allow_dirty)
    with session(set_, recipe=True) as application:
        _say(console(), notices())
        plan, _ = read(application, recipe, set_, env)
        application.check(plan)
        print_check(console(), plan, application)


@app.command()
@clear_errors
def components(
    kind: Annotated[str | None, typer.Argument(help="Only this kind")] = None, set_: Overrides = None
) -> None:
    """List the registered components, and which plugin a component comes from."""
    from components.core.component import first_line
    from components.core.kinds import registry
    from components.core.registry import BUILT_IN
    from flows.session import session

    with session(set_) as application:
        versions = {f"plugin {name}": report.version for name, report in application.plugins.reports.items()}
        for name in [kind] if kind else registry.kinds():
            entries = registry.names(name)
            typer.secho(name if entries else f"{name} (none)", bold=True)
            width = max([16, *map(len, entries)])
            for entry in entries:
                owner = registry.entry(name, entry).owner
                origin = "" if owner == BUILT_IN else f"  [{owner} {versions.get(owner, '')}]"
                broken = registry.broken(name, entry)
                text = f"cannot be loaded: {broken}" if broken else first_line(registry.get(name, entry))
                typer.echo(f"  {entry:<{width}} {text}{origin}")


@app.command()
@clear_errors
def health(as_json: Annotated[bool, typer.Option("--json", help="For machines")] = False) -> None:
    """Whether plugins, services and databases of this directory can do their work; exit code 1 if one cannot."""
    from flows.doctor import as_json as dump
    from flows.doctor import print_health
    from flows.session import session

    with session() as application:
        found = application.health()
    typer.echo(dump(found)) if as_json else print_health(console(), found)
    _exit_if_failed(found)


@app.command()
@clear_errors
def doctor(as_json: Annotated[bool, typer.Option("--json", help="For machines")] = False) -> None:
    """Look for what is wrong with this machine and installation; exit code 1 if something is broken."""
    from flows.doctor import as_json as dump
    from flows.doctor import diagnose, print_health
    from flows.session import session

    with session() as application:
        found = diagnose(application.settings.folder)
    typer.echo(dump(found)) if as_json else print_health(console(), found)
    _exit_if_failed(found)


def _exit_if_failed(found: Any) -> None:
    from components.core.health import worst

    if worst(health.status for health in found.values()) == "failed":
        raise typer.Exit(1)


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
    from flows.environment import prepare
    from flows.session import session

    with session() as application, application.container() as services:
        prepare(application.settings.folder)
        for piece in services.get(InferenceService).stream(model, prompt, system, max_new_tokens):
            typer.echo(piece, nl=False)
    typer.echo()


def main() -> None:
    """Entry point of the `postmill` command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # progress is visible in a pipe or a log file too
    app()


if __name__ == "__main__":
    main()
