"""What is done with registered models: promote, roll back, look back, compare.

postmill promote triage 4 --to production --why "better on long messages"
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from flows.cli_common import clear_errors, console, quick

app = typer.Typer(rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="MODEL", help="A registered model, for example triage")]
Side = Annotated[
    str, typer.Argument(help="MODEL@alias, MODEL/version, or a folder of evidence: reports/triage, reports/triage:int4")
]
By = Annotated[str, typer.Option("--by", help="Who decides; default: USER@HOST")]
Why = Annotated[str, typer.Option("--why", help="Why, for the record")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines")]


@app.command()
@quick
@clear_errors
def promote(
    model: Name,
    version: str,
    to: Annotated[str, typer.Option("--to", help="Stage (candidate, staging, production, archived) or any alias")],
    by: By = "",
    why: Why = "",
) -> None:
    """Move a version to a stage, after checking its evidence and every file."""
    from components.services.promotion import PromotionService
    from flows.session import session

    with session() as application, application.open_sinks(), application.container() as services:
        move = services.get(PromotionService).promote(model, version, to, by, why)
    _tell(model, move)


@app.command()
@quick
@clear_errors
def rollback(
    model: Name,
    alias: Annotated[str, typer.Option("--alias", help="The stage or alias to move back")] = "production",
    by: By = "",
    why: Why = "",
) -> None:
    """Point a stage back at the version that stood there before, after the same checks."""
    from components.services.promotion import PromotionService
    from flows.session import session

    with session() as application, application.open_sinks(), application.container() as services:
        move = services.get(PromotionService).rollback(model, alias, by, why)
    _tell(model, move)


def _tell(model: str, move: Any) -> None:
    before = f", before: version {move.before}" if move.before not in ("", move.version) else ""
    word = "is now" if move.number else "is already"
    typer.secho(f"{model}@{move.to} {word} version {move.version}{before}", fg="green")


@app.command()
@quick
@clear_errors
def history(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Only this model; default: all")] = None,
    as_json: AsJson = False,
) -> None:
    """Versions with their stages and figures, and every move: when, who, why."""
    from components.services.promotion import PromotionService
    from flows.display_models import print_history
    from flows.session import session

    with session() as application, application.container() as services:
        service = services.get(PromotionService)
        names = [model] if model else service.registry.names()
        found = {name: (service.versions(name), service.history(name)) for name in names}
    if as_json:
        typer.echo(json.dumps({name: _plain(*each) for name, each in found.items()}, indent=2, ensure_ascii=False))
        return
    if not found:
        typer.echo("no model is registered yet")
    for name, (versions, moves) in found.items():
        print_history(console(), name, versions, moves)


def _plain(versions: Any, moves: Any) -> dict[str, Any]:
    listed = [{"version": v.version, "aliases": list(v.aliases), "tags": dict(v.tags)} for v in versions]
    return {"versions": listed, "moves": [move.model_dump() for move in moves]}


@app.command()
@clear_errors
def compare(first: Side, second: Side, as_json: AsJson = False) -> None:
    """Two models side by side: figures, the rows both answered, and what was done differently."""
    from components.services.comparison import ComparisonService
    from flows.display_models import print_comparison
    from flows.session import session

    with session() as application, application.container() as services:
        found = services.get(ComparisonService).compare(first, second)
    if as_json:
        typer.echo(json.dumps(found.plain(), indent=2, ensure_ascii=False))
    else:
        print_comparison(console(), found)


@app.command()
@clear_errors
def replay(
    model: Name,
    version: str,
    whole: Annotated[bool, typer.Option("--whole", help="Benchmarks and gate too")] = False,
    here: Annotated[bool, typer.Option("--here", help="With the present code instead of the version's commit")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the work area")] = False,
) -> None:
    """Run a version again from its own code and data; compare every stage by hash. Exit code 1 if it differs."""
    import shutil

    from flows.display_models import print_replay
    from flows.environment import be_quiet
    from flows.replay import replay as run_again
    from flows.session import session

    be_quiet()
    with session() as application:
        found, area = run_again(application, model, version, whole, here)
    print_replay(console(), f"{model} version {version}", found)
    differs = found.likeness in ("different", "missing")
    if keep or differs:
        typer.echo(f"work area: {area}")
    else:
        shutil.rmtree(area)
    raise typer.Exit(int(differs))
