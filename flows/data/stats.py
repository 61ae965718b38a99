"""`postmill data stats`: how long the rows are, what of them is trained on, what would be cut, what an epoch costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from components.core.artifacts import Artifact
from flows.data.display import splits_of
from flows.data.source import Opened

HEIGHT = 6
LIMITS = (512, 1024, 2048)
QUANTILES = ("p5", "p25", "p50", "p75", "p95", "p99", "p100")
_EIGHTHS = " ▁▂▃▄▅▆▇█"


def print_stats(console: Console, dataset: Artifact, opened: Opened) -> None:
    """The figures of a validated data set; tokens and costs where it was tokenised for a model."""
    report = dataset.read_json("report.json")
    figures = report["splits"]
    tokenised = any("tokens" in figures[split] for split in figures)
    console.print(_lengths(report))
    if tokenised:
        console.print(_limits(dataset, report, opened))
        unknown = sum(figures[split]["tokens"]["unknown"] for split in figures if "tokens" in figures[split])
        if unknown:
            console.print(f"unknown to the tokenizer: {unknown:,} tokens", style="yellow", highlight=False)
    measure = "tokens" if tokenised else "characters"
    if figures.get("train", {}).get(measure):
        print_histogram(console, figures["train"][measure]["histogram"], f"{measure} of the train rows")
    if report["model"]:
        _print_cost(console, report, opened)
    else:
        console.print("no model, no tokens: name a recipe to see them", style="dim", highlight=False)


def _lengths(report: Mapping[str, Any]) -> Table:
    columns = (
        Column(name, justify="right") for name in ("rows", "mean", *QUANTILES[:-1], "longest", "total", "trained on")
    )
    table = Table("split", "of", *columns)
    for split in splits_of(report):
        rows, first = report["rows"][split], True
        for name in ("tokens", "characters", "messages"):
            figures = report["splits"][split].get(name)
            if not figures:
                continue
            table.add_row(
                split if first else "",
                name,
                f"{rows:,}" if first else "",
                f"{figures['mean']:,}",
                *(f"{figures['quantiles'][q]:,}" for q in QUANTILES),
                f"{figures['total']:,}" if "total" in figures else "",
                f"{figures['trained_fraction']:.1%}" if "total" in figures else "",
            )
            first = False
        table.add_section()
    return table


def _limits(dataset: Artifact, report: Mapping[str, Any], opened: Opened) -> Table:
    """How many rows are longer than some limits: what a training step would cut."""
    limits = limits_of(opened)
    columns = (Column(name, justify="right") for name in limits)
    table = Table("longer than", *columns)
    for split in splits_of(report):
        if report["rows"][split]:
            lengths = token_counts(dataset, split)
            over = [int((lengths > limit).sum()) for limit in limits.values()]
            cells = [f"{n:,} ({n / len(lengths):.1%})" if n else "-" for n in over]
            table.add_row(split, *cells)
    return table


def limits_of(opened: Opened) -> dict[str, int]:
    """Numbers of tokens, by what they are: round ones, what the training steps take, the model's context."""
    names: dict[int, str] = dict.fromkeys(LIMITS, "")
    for position, spec in enumerate(opened.recipe.train if opened.recipe else ()):
        limit = getattr(spec.config, "max_length", None)
        if isinstance(limit, int):
            names[limit] = f"train.{position}.max_length"
    if opened.base:
        config = opened.base.read_json("config.json")
        context = config.get("max_position_embeddings") or config.get("n_positions")
        names |= {int(context): "context"} if context else {}
    return {f"{limit:,}{f' ({name})' if name else ''}": limit for limit, name in sorted(names.items())}


def token_counts(dataset: Artifact, split: str) -> Any:
    """Tokens of every row, numpy; of a preference pair those of the longer side."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    with pa.memory_map(str(dataset.path / f"{split}.arrow")) as source:
        table = pa.ipc.open_stream(source).read_all()
        columns = [name for name in table.column_names if name.endswith("input_ids")]
        return np.max([pc.list_value_length(table[name]).to_numpy() for name in columns], axis=0)


def print_histogram(console: Console, histogram: Mapping[str, Sequence[float]], title: str) -> None:
    """Bars of block characters; the last one takes the longest percent."""
    counts, edges = histogram["counts"], histogram["edges"]
    wide = max(1, min(4, (console.width - 12) // len(counts)))
    console.print(Text(f"\n{title}", style="bold"))
    top = max(counts)
    for level in range(HEIGHT - 1, -1, -1):
        label = f"{int(top):>8,} " if level == HEIGHT - 1 else " " * 9
        bars = "".join(_block(count / top * HEIGHT - level) * wide for count in counts)
        console.print(Text(f"{label}│").append(bars.rstrip(), style="green"), soft_wrap=True)
    console.print(Text(f"{' ' * 9}└{'─' * (wide * len(counts))}"), soft_wrap=True)
    low, middle, high = (f"{edges[at]:,.0f}" for at in (0, len(counts) // 2, -1))
    axis = low.ljust(wide * (len(counts) // 2)) + middle
    console.print(
        Text(f"{' ' * 10}{axis.ljust(max(wide * len(counts) - len(high) - 1, len(axis) + 1))}{high}+"), soft_wrap=True
    )


def _block(height: float) -> str:
    # what is there at all is seen
    eighths = min(max(height, 0), 1) * 8
    return _EIGHTHS[max(round(eighths), 1 if height > 0 else 0)]


def _print_cost(console: Console, report: Mapping[str, Any], opened: Opened) -> None:
    model = report["model"]
    tokens, operations = model["tokens_per_epoch"], model["flops_per_epoch"]
    text = f"\none epoch: {tokens:,} tokens"
    if operations:
        text += f", about {operations:.2g} operations (6 for each of {model['weights'] / 1e6:,.0f} M weights and token)"
    console.print(text, highlight=False, soft_wrap=True)
    for position, spec in enumerate(opened.recipe.train if opened.recipe else ()):
        console.print(f"train.{position} ({spec.type}): {_seen(spec.config, report)}", highlight=False, soft_wrap=True)


def _seen(config: Any, report: Mapping[str, Any]) -> str:
    """How much of the data a training step sees."""
    steps, batch = getattr(config, "max_steps", None), getattr(config, "batch_size", None)
    if not (isinstance(steps, int) and isinstance(batch, int)):
        return "it does not say how many rows it sees"
    drawn = steps * batch * (getattr(config, "accumulate", 1) or 1)
    if getattr(config, "packing", False):
        epochs = drawn * config.max_length / max(report["model"]["tokens_per_epoch"], 1)
        return f"{steps:,} steps see {drawn:,} packs of {config.max_length:,} tokens, about {epochs:.2g} epochs"
    return f"{steps:,} steps see {drawn:,} rows, {drawn / max(report['rows']['train'], 1):.2g} epochs"
