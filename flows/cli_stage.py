"""`postmill stage`: one step of the pipeline, for DVC. `postmill dvc init`: the `dvc.yaml` of a recipe."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_common import RecipePath, clear_errors, console

app = typer.Typer(rich_markup_mode=None)
dvc = typer.Typer(name="dvc", help="Run recipes with DVC.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(dvc)
FIRST, REGISTER = "data", "register"


@app.command()
@clear_errors
def stage(
    name: Annotated[str, typer.Argument(help="data, train, optimize@VARIANT, benchmark, judge, report or register")],
    recipe: RecipePath,
) -> None:
    """Run one stage of dvc.yaml on what lies in outputs/; 'register' comes after them all."""
    from flows.environment import be_quiet

    be_quiet()  # before a recipe is read: libraries look only once
    warnings.simplefilter("ignore", FutureWarning)  # of libraries about each other
    from flows import stage as stages
    from flows.display import Display
    from flows.dvc_file import require_current

    with stages.application() as application:
        plan = stages.read(recipe)
        if name == FIRST:
            require_current(recipe)
        with Display(console(), application.bus):
            if name != REGISTER:
                stages.run_stage(application, plan, name)
                return
            outcome = stages.register(application, plan)
    _tell(outcome)


def _tell(outcome: object) -> None:
    from components.core.errors import GateNotPassed
    from components.services.recording import Outcome

    assert isinstance(outcome, Outcome)
    if outcome.chosen is None:
        raise GateNotPassed("no variant passed the gate; nothing was registered. See outputs/report/report.md")
    if outcome.version is None:
        typer.echo(f"Accepted: {outcome.chosen}. The recipe registers nothing (no 'register' section).")
        return
    word = "registered" if outcome.new_version else "registered already"
    typer.echo(f"{outcome.chosen} {word}: {outcome.model} version {outcome.version}, at {outcome.alias}")


@dvc.command()
@clear_errors
def init(
    recipe: RecipePath,
    out: Annotated[Path, typer.Option("--out", help="File to write; it is overwritten")] = Path("dvc.yaml"),
) -> None:
    """Write the dvc.yaml of a recipe: its stages, parameters, metrics and plots."""
    from flows.dvc_file import dvc_yaml

    out.write_text(dvc_yaml(recipe), encoding="utf-8")
    typer.echo(f"{out} written for {recipe}; run it: dvc repro")
