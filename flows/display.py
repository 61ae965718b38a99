"""What a person sees while a recipe runs: one live line per stage, and one table at the end.

Subscribes to the bus; on a terminal the lines are live (rich), otherwise each stage prints one line when it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from components.core.events import (
    DataValidated,
    Event,
    EventBus,
    StageCached,
    StageFailed,
    StageFinished,
    StageProgress,
    StageSkipped,
    StageStarted,
)
from components.core.machine import human_bytes
from components.core.recipe import Recipe
from components.interfaces import Scoreboard
from components.services.evidence import metrics_of, ruling, show
from components.services.judging import Verdict
from flows.display_training import TrainingDisplay, bar_width

COLUMNS = (
    *("exact_match", "json_valid", "nll", "perplexity", "bits_per_byte", "mean_kl", "top1_agreement"),
    *("ttft_ms", "tokens_per_s", "peak_rss", "bytes"),
)
QUIET_S = 60.0
"""Where no bar can be drawn, a stage says how far it is this often."""
STYLES = {"chosen": "bold green", "accepted": "green", "rejected": "red"}


class Display:
    """Progress of a run on a console. Use as a context manager around the run."""

    def __init__(self, console: Console, bus: EventBus) -> None:
        self.console = console
        wide = bar_width(console)
        self.progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            *([BarColumn(bar_width=wide)] if wide else []),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._rows: dict[str, TaskID] = {}
        self._told: dict[str, float] = {}
        self._since: dict[str, float] = {}
        handlers: dict[type[Event], Callable[[Any], None]] = {
            StageStarted: self._on_stage_started,
            StageCached: self._on_stage_cached,
            StageProgress: self._on_stage_progress,
            StageFinished: self._on_stage_finished,
            StageFailed: self._on_stage_failed,
            StageSkipped: self._on_stage_skipped,
            DataValidated: self._on_data_validated,
        }
        handlers |= TrainingDisplay(console, lambda **fields: self._update("train", **fields)).handlers()
        self._off = [bus.on(event, handler) for event, handler in handlers.items()]

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        for off in self._off:
            off()
        self.progress.stop()

    def _on_stage_started(self, event: StageStarted) -> None:
        label = _label(event)
        self._since[label] = time.monotonic()
        self._rows.pop(label, None)  # of two steps with the same name the later one runs
        self._rows[label] = self.progress.add_task(label, total=None, note="")

    def _on_stage_cached(self, event: StageCached) -> None:
        self._without_work(_label(event), "unchanged, from the store")

    def _on_stage_skipped(self, event: StageSkipped) -> None:
        self._without_work(_label(event), f"skipped: {event.reason}")

    def _without_work(self, label: str, text: str) -> None:
        row = self.progress.add_task(label, total=1, note=f"[dim]{escape(text)}[/]")
        self.progress.update(row, completed=1)
        self._print(f"{label}: {text}")

    def _on_stage_finished(self, event: StageFinished) -> None:
        label = _label(event)
        size = human_bytes(event.size)
        self._update(label, total=1, completed=1, note=f"[dim]{size}[/]")
        self._print(f"{label}: {time.monotonic() - self._since[label]:.1f} s, {size}")

    def _on_stage_failed(self, event: StageFailed) -> None:
        self._update(_label(event), note="[red]failed[/]")
        self._print(f"{_label(event)}: failed")

    def _on_stage_progress(self, event: StageProgress) -> None:
        label, note = _label(event), f"{event.done}/{event.total}"
        self._update(label, total=event.total, completed=event.done, note=note)
        if time.monotonic() - self._told.setdefault(label, time.monotonic()) >= QUIET_S:  # a file shows that it goes on
            self._told[label] = time.monotonic()
            self._print(f"{label}: {note}")

    def _on_data_validated(self, event: DataValidated) -> None:
        bad = sum(event.quarantined.values())
        counts = ", ".join(f"{count:,} {split}" for split, count in event.rows.items())
        self.console.print(f"  rows: {counts}; quarantined: {bad}", highlight=False)

    def _update(self, label: str, **fields: Any) -> None:
        row = self._find(label)
        if row is not None:
            self.progress.update(row, **fields)

    def _find(self, label: str) -> TaskID | None:
        """The line of a stage; a benchmark reports progress under the subject's name alone, the end of its label."""
        stage, _, name = label.partition(" ")
        alike = [row for known, row in self._rows.items() if known.startswith(stage) and known.endswith(name.strip())]
        return self._rows.get(label) or (alike[-1] if alike else None)

    def _print(self, text: str) -> None:
        if not self.console.is_terminal:
            self.console.print(f"  {escape(text)}", highlight=False, soft_wrap=True)


def _label(event: StageStarted | StageCached | StageProgress | StageFinished | StageFailed | StageSkipped) -> str:
    return f"{event.stage:<9} {event.name}"


def results_table(recipe: Recipe, board: Scoreboard, verdict: Verdict | None) -> Table:
    """Base, trained and every variant by the figures that decide."""
    shown = [metric for metric in metrics_of(recipe) if metric.name in COLUMNS]
    variants = ", variants" if recipe.optimize else ""
    table = Table(title=f"{recipe.name}: base, trained{variants}", title_justify="left")
    table.add_column("model", no_wrap=True)
    for metric in shown:
        unit = f"\n[dim]{metric.unit}[/]" if metric.unit in ("ms", "nats") else ""
        table.add_column(f"{metric.title}{unit}", justify="right", no_wrap=True)
    if verdict:
        table.add_column("verdict", no_wrap=True)
    for subject in board.subjects():
        found, word = board.metrics(subject), ruling(verdict, subject)
        cells = [show(metric, found.get(metric.name)) for metric in shown]
        table.add_row(subject, *cells, *([f"[{STYLES.get(word, 'default')}]{word}[/]"] if verdict else []))
    return table


def training_table(recipe: Recipe, steps: Sequence[Mapping[str, Any]]) -> Table:
    """What every training step did: from which loss to which, on how much, how fast."""
    table = Table(title=f"{recipe.name}: trained", title_justify="left")
    table.add_column("step", no_wrap=True)
    for title in ("steps", "loss", "eval loss", "tokens", "tokens/s", "seconds"):
        table.add_column(title, justify="right", no_wrap=True)
    for step in steps:
        evaluated = [entry["loss"] for entry in step.get("evaluations") or () if entry.get("loss") is not None]
        table.add_row(
            escape(str(step["type"])),
            _count(step.get("steps")),
            _from_to(step.get("losses")),
            _from_to(evaluated),
            _count(step.get("tokens")),
            _count(step.get("tokens_per_s")),
            _count(step.get("train_seconds")),
        )
    return table


def _count(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else "-"


def _from_to(values: Any) -> str:
    """`[4.1, 3.0, 2.2]` -> `4.1 -> 2.2`; a trainer of a plugin may record what it likes."""
    if not isinstance(values, list) or not values or not all(isinstance(value, int | float) for value in values):
        return "-"
    return f"{values[0]:.3g} -> {values[-1]:.3g}" if len(values) > 1 else f"{values[0]:.3g}"


def print_reasons(console: Console, verdict: Verdict) -> None:
    """Why each variant was accepted or not, one line a check."""
    for judged in verdict.variants:
        console.print(f"[bold]{judged.variant}[/] {'accepted' if judged.accepted else '[red]rejected[/]'}")
        for check in judged.checks:
            mark = "[green]✓[/]" if check.passed else "[red]✗[/]"
            console.print(f"  {mark} {escape(check.summary)}", highlight=False)
