"""What a person sees of registered models: their versions and moves, and two of them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from components.interfaces import Metric
from components.services.benchmarking import known_metrics
from components.services.comparison import Comparison, Paired
from components.services.evidence import show
from components.services.model_registry import VersionEntry
from components.services.replay import Replay

SHOWN = ("exact_match", "mean_kl", "tokens_per_s", "bytes")
"""Figures that a list of versions has room for; those of a version are in its card and in `compare`."""
LONGEST = 60
KEYS = 20
"""Keys of the recipes that are listed; --json has all."""


def print_history(console: Console, name: str, versions: Sequence[VersionEntry], moves: Sequence[Any]) -> None:
    """Every version, then every move."""
    console.print(_versions_table(name, versions))
    if moves:
        console.print(_moves_table(name, moves))


def _versions_table(name: str, versions: Sequence[VersionEntry]) -> Table:
    table = Table(title=f"{name}: versions", title_justify="left")
    table.add_column("version", justify="right", no_wrap=True)
    for title in ("stage", "aliases", "variant"):
        table.add_column(title)
    metrics, known = [], known_metrics()
    for metric in SHOWN:
        if any(f"metric.{metric}" in entry.tags for entry in versions):
            metrics.append(known.get(metric, Metric(metric, "", "higher", metric)))
            table.add_column(metrics[-1].title, justify="right", no_wrap=True)
    table.add_column("commit", no_wrap=True)
    for entry in versions:
        figures = [_figure(metric, entry.tags.get(f"metric.{metric.name}")) for metric in metrics]
        commit = entry.tags.get("git.commit", "")[:8] + ("*" if entry.tags.get("git.dirty") == "true" else "")
        stage, variant = entry.tags.get("stage", "-"), entry.tags.get("postmill.variant", "-")
        table.add_row(entry.version, stage, ", ".join(entry.aliases) or "-", escape(variant), *figures, commit or "-")
    return table


def _figure(metric: Metric, value: str | None) -> str:
    return show(metric, float(value)) if value else "-"


def _moves_table(name: str, moves: Sequence[Any]) -> Table:
    table = Table(title=f"{name}: moves", title_justify="left")
    table.add_column("when (UTC)", no_wrap=True)
    for title in ("what", "version", "before", "by", "why"):
        table.add_column(title)
    for move in moves:
        when = move.at.replace("T", " ").rstrip("Z")
        table.add_row(
            when, f"{move.action} to {move.to}", move.version, move.before or "-", escape(move.by), escape(move.why)
        )
    return table


def print_comparison(console: Console, found: Comparison) -> None:
    """Figures side by side, then what holds row by row, then the keys that differ."""
    console.print(_figures_table(found))
    if found.paired:
        console.print(_paired_table(found))
    else:
        console.print("No row was answered by both, so nothing can be said of the difference row by row.")
    if not found.same_data:
        console.print("The two were measured on data sets that are not the same.", style="yellow")
    console.print(_recipe_table(found) if found.recipe else "The recipes are the same.")
    if len(found.recipe) > KEYS:
        console.print(f"and {len(found.recipe) - KEYS} keys more; --json has all")


def _figures_table(found: Comparison) -> Table:
    first, second = found.first, found.second
    table = Table(title=f"{first.title} ({first.variant}) and {second.title} ({second.variant})", title_justify="left")
    table.add_column("figure", no_wrap=True)
    for title in (first.title, second.title, "difference"):
        table.add_column(escape(title), justify="right")
    known = known_metrics()
    for name in dict.fromkeys([*first.figures, *second.figures]):
        metric = known.get(name, Metric(name, "", "higher", name))
        mine, theirs = first.figures.get(name), second.figures.get(name)
        unit = f" [dim]{metric.unit}[/]" if metric.unit in ("ms", "nats") else ""
        both = mine is not None and theirs is not None
        difference = _signed(metric, theirs - mine) if both else "-"  # type: ignore[operator]
        table.add_row(f"{metric.title}{unit}", show(metric, mine), show(metric, theirs), difference)
    return table


def _signed(metric: Metric, value: float) -> str:
    if value == 0:
        return "same"
    better = (value > 0) == (metric.better == "higher")
    return f"[{'green' if better else 'red'}]{'+' if value > 0 else '-'}{show(metric, abs(value))}[/]"


def _paired_table(found: Comparison) -> Table:
    table = Table(title="on the rows that both answered", title_justify="left")
    table.add_column("metric", no_wrap=True)
    for title in ("rows", found.first.title, found.second.title, "difference", "95% interval", "worse on", "better on"):
        table.add_column(escape(title), justify="right")
    known = known_metrics()
    for pair in found.paired:
        table.add_row(*_paired_cells(pair, known.get(pair.metric, Metric(pair.metric, "", "higher", pair.metric))))
    return table


def _paired_cells(pair: Paired, metric: Metric) -> list[str]:
    plain = "{:+.1%}" if metric.unit == "share" else "{:+.4g}"
    worse, better = pair.only_first, pair.only_second
    if metric.better == "lower":
        worse, better = better, worse
    interval = f"{plain.format(pair.low)} .. {plain.format(pair.high)}"
    means = [show(metric, pair.first), show(metric, pair.second)]
    return [metric.title, str(pair.rows), *means, plain.format(pair.difference), interval, str(worse), str(better)]


def _recipe_table(found: Comparison) -> Table:
    table = Table(title="keys of the recipes that differ", title_justify="left")
    for title in ("key", found.first.title, found.second.title):
        table.add_column(escape(title), overflow="fold")
    for key, values in list(found.recipe.items())[:KEYS]:
        table.add_row(escape(key), *(escape("-" if value is None else str(value)[:LONGEST]) for value in values))
    return table


_COLOURS = {"exact": "green", "within tolerance": "yellow", "different": "red", "missing": "red"}


def print_replay(console: Console, title: str, found: Replay) -> None:
    """A line a stage, the verdict, and where it first differs."""
    table = Table(title=f"{title}, run again", title_justify="left")
    for column in ("stage", "then", "now", "verdict"):
        table.add_column(column, no_wrap=True)
    for stage in found.stages:
        word = f"[{_COLOURS[stage.likeness]}]{stage.likeness}[/]"
        table.add_row(escape(stage.title), stage.original[:12], stage.replayed[:12] or "-", word)
    console.print(table)
    first = found.first_difference
    if first is None:
        console.print(f"[green]exact: all {len(found.stages)} stages have the same bytes[/]")
        return
    console.print(f"[{_COLOURS[found.likeness]}]{found.likeness}[/], first in: {escape(first.title)}")
    for note in first.notes:
        console.print(f"  {escape(note)}", highlight=False, soft_wrap=True)
