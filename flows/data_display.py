"""Data sets on a terminal: what a validation found, and rows as the model sees them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from components.core.artifacts import Artifact
from components.core.dataset import index

PREFIXES = ("", "chosen_", "rejected_")


def print_data(console: Console, dataset: Artifact) -> None:
    """Counts by split and rule, lengths, and a few bad rows."""
    report = dataset.read_json("report.json")
    console.print(_splits(report))
    broken = [rule for rule in report["contract"] if rule["broken"]]
    for rule in broken:
        for example in rule["examples"][:2]:
            console.print(
                f"  {example['file']}:{example['line']}: {rule['rule']}: {example['reason']}",
                highlight=False, markup=False,
            )  # fmt: skip
    if report["ignored"]:
        console.print(f"not asked for: {', '.join(report['ignored'])}", style="dim", highlight=False)


def _splits(report: Mapping[str, Any]) -> Table:
    table = Table("split", "good", "bad", "characters (median)", "tokens (median / longest)", "trained on")
    for split, figures in report["splits"].items():
        tokens = figures.get("tokens")
        table.add_row(
            split,
            f"{report['rows'][split]:,}",
            f"{report['quarantined'][split]:,}",
            f"{figures['characters']['quantiles']['p50']:,}" if figures["characters"] else "-",
            f"{tokens['quantiles']['p50']:,} / {tokens['quantiles']['p100']:,}" if tokens else "-",
            f"{tokens['trained_fraction']:.0%}" if tokens else "-",
        )
    return table


def print_rows(console: Console, dataset: Artifact, tokenizer: Any, split: str, count: int, start: int = 0) -> None:
    """Rows as tokens: green is trained on."""
    for row in islice(iter(index(dataset, split)), start, start + count):
        for prefix in PREFIXES:
            if f"{prefix}input_ids" in row:
                console.print(coloured(tokenizer, row[f"{prefix}input_ids"], row[f"{prefix}spans"]))


def coloured(tokenizer: Any, ids: list[int], spans: list[int]) -> Text:
    """The text of the tokens, those inside the spans (first, end, first, end, ...) in green."""
    trained = {token for first, end in zip(spans[::2], spans[1::2], strict=True) for token in range(first, end)}
    text = Text()
    for place, token in enumerate(ids):
        text.append(tokenizer.decode([token]), style="bold green" if place in trained else "dim")
    return text
