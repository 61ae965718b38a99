"""`postmill data validate`: the whole contract, said as tables, whether it holds or not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from components.core.errors import ContractBroken, DataError, PostmillError
from components.data.validation import QUARANTINE
from flows.data.display import print_rules, splits_table
from flows.data.source import Opened


def validate(console: Console, data: Opened, html: Path | None) -> None:
    """Check and print; a DataError with the first line of what is wrong if the contract fails."""
    if html and not html.parent.is_dir():
        raise PostmillError(f"--html: the directory '{html.parent}' does not exist")
    try:
        dataset = data.validate()
    except ContractBroken as error:
        _print(console, error.kept, html)
        # the examples stand above
        told = [line for line in str(error).splitlines() if not line.startswith("  ")]
        raise DataError("\n".join(told)) from error
    _print(console, dataset.path, html)
    for changed in dataset.meta.get("changed", ()):
        console.print(f"changed since it was locked: {changed}", style="yellow", highlight=False, markup=False)
    if data.recipe:
        data.data.require(data.recipe, dataset)
    console.print("the contract holds", style="bold green")


def _print(console: Console, folder: Path, html: Path | None) -> None:
    report: Mapping[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    console.print(splits_table(report))
    print_rules(console, report)
    if html:
        shutil.copyfile(folder / "report.html", html)
    if sum(report["quarantined"].values()):
        _say(console, f"bad rows: {os.path.relpath(folder / QUARANTINE)}")
    _say(console, f"report:   {os.path.relpath(html or folder / 'report.html')}")


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
