"""Every probe of this machine and installation, asked one after the other, and how findings are shown.

postmill doctor
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from components.core.health import Health, Status, asked, worst
from components.core.kinds import registry

MARKS: dict[Status, str] = {"ok": "[green]✓ ok[/]", "degraded": "[yellow]! degraded[/]", "failed": "[red]✗ failed[/]"}


def diagnose(root: Path) -> dict[str, Health]:
    """What every registered probe finds, by name; `root` is where runs live."""
    return {name: asked(partial(_ask, name, root)) for name in registry.names("probe")}


def _ask(name: str, root: Path) -> Health:
    cls = registry.get("probe", name)
    config = {"root": root} if "root" in cls.Config.model_fields else {}
    with registry.create("probe", name, **config) as probe:
        answer: Health = probe.ask()
        return answer


def print_health(console: Console, found: Mapping[str, Health]) -> None:
    """A table of findings, and one line that says how many are not ok."""
    table = Table(show_edge=False, box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("finding", overflow="fold")
    for name, health in found.items():
        table.add_row(escape(name), MARKS[health.status], escape(health.detail))
    console.print(table, highlight=False)
    bad = [name for name, health in found.items() if health.status != "ok"]
    colour = {"ok": "green", "degraded": "yellow", "failed": "red"}[worst(health.status for health in found.values())]
    summary = f"{len(bad)} of {len(found)} not ok: {', '.join(bad)}" if bad else f"all {len(found)} ok"
    console.print(f"\n[{colour}]{escape(summary)}[/]", highlight=False)


def as_json(found: Mapping[str, Health]) -> str:
    """The same for machines: the worst status, and every finding with its figures."""
    checks = {
        name: {"status": health.status, "detail": health.detail, "metrics": dict(health.metrics)}
        for name, health in found.items()
    }
    status = worst(health.status for health in found.values())
    return json.dumps({"status": status, "checks": checks}, indent=2, default=str)
