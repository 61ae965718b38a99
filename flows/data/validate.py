"""`postmill data validate`: the whole contract, said as tables, whether it holds or not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from components.core.errors import DataError, PostmillError
from components.data.validation import QUARANTINE
from flows.data.display import asked, print_examples, print_ignored, rules_table, splits_table
from flows.data.source import Opened


def validate(console: Console, data: Opened, html: Path | None) -> None:
    """Check and print; a DataError with the first line of what is wrong if the contract fails."""
    if html and not html.parent.is_dir():
        raise PostmillError(f"--html: the directory '{html.parent}' does not exist")
    kept = data.workspace.reports / "data"
    before = _written(kept)
    try:
        dataset = data.validate()
    except DataError as error:
        # the stage throws its directory away and keeps these; anything else went wrong before rows were counted
        if _written(kept) == before:
            raise
        _print(console, kept, html)
        raise DataError(str(error).partition("\n")[0]) from error
    _print(console, dataset.path, html)
    for changed in dataset.meta.get("changed", ()):
        console.print(f"changed since it was locked: {changed}", style="yellow", highlight=False, markup=False)
    console.print("the contract holds", style="bold green")


def _written(kept: Path) -> int | None:
    report = kept / "report.json"
    return report.stat().st_mtime_ns if report.is_file() else None


def _print(console: Console, folder: Path, html: Path | None) -> None:
    report: Mapping[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    console.print(splits_table(report))
    # broken rules first
    console.print(rules_table(report, sorted(asked(report)[0], key=lambda rule: -sum(rule["broken"].values()))))
    print_examples(console, report)
    print_ignored(console, report)
    if html:
        shutil.copyfile(folder / "report.html", html)
    if sum(report["quarantined"].values()):
        _say(console, f"bad rows: {os.path.relpath(folder / QUARANTINE)}")
    _say(console, f"report:   {os.path.relpath(html or folder / 'report.html')}")


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
