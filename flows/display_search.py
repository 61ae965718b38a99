"""What a person sees of a search: a row a trial, the front and the winners set off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from components.services.search import search_cells


def print_search(console: Console, found: Mapping[str, Any] | None, folder: str) -> None:
    """The table of all trials, and where the picture is; nothing without a search."""
    if found is not None:
        console.print(search_table(found))
        console.print(f"Pareto front: {folder}/pareto.html, {folder}/pareto.png\n", highlight=False, soft_wrap=True)


def search_table(found: Mapping[str, Any]) -> Table:
    """Every trial by the objectives, and what became of it."""
    table = Table(title=f"search: {len(found['trials'])} trials ({found['sampler']})", title_justify="left")
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("passes")
    for objective in found["objectives"]:
        unit = f"\n[dim]{objective['unit']}[/]" if objective["unit"] in ("ms", "nats") else ""
        table.add_column(f"{objective['title']}{unit}", justify="right", no_wrap=True)
    table.add_column("what became of it")
    for trial, cells in zip(found["trials"], search_cells(found), strict=True):
        table.add_row(*map(escape, cells), style=_style(found, trial))
    return table


def _style(found: Mapping[str, Any], trial: Mapping[str, Any]) -> str:
    if trial["number"] in found["winners"].values():
        return "bold green"
    return "default" if trial["number"] in found["front"] else "red" if trial["state"] == "failed" else "dim"
