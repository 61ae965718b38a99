"""What stages leave for `dvc metrics`, `dvc plots` and people: figures of training and of every model, the evidence.

outputs/metrics/train/sft.json      outputs/plots/loss/sft.csv       a training step
outputs/metrics/models/int4.json    outputs/plots/models.csv         a model that was measured
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.core.artifacts import Artifact, write_json
from components.core.events import BenchmarkMeasured, EvidenceWritten
from components.services.benchmarking import scoreboard
from components.services.evidence import ruling, training_chain, write_evidence
from components.services.judging import read_verdict
from components.services.search import add_search
from components.services.workspace import Workspace
from flows.stage_step import Step

METRICS = {"train": Path("metrics/train"), "report": Path("metrics/models")}
"""Folders below `outputs/` with one JSON file a training step, or a model."""
PLOTS = {"train": Path("plots/loss"), "report": Path("plots/models.csv")}
EVIDENCE = Path("report")


def write_training(step: Step, trained: Artifact) -> None:
    """The figures and the curve of every training step that led to this artifact."""
    chain = training_chain(trained, step.run.get(Workspace).store)
    for number, artifact in enumerate(chain, 1):
        kind = str(artifact.meta.get("trainer", artifact.kind))
        name = kind if len(chain) == 1 else f"{number}-{kind}"
        figures = {k: v for k, v in artifact.meta.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        _write_metrics(step.folder / METRICS["train"] / f"{name}.json", figures)
        losses = enumerate(artifact.meta.get("losses") or (), 1)
        _write_points(step.folder / PLOTS["train"] / f"{name}.csv", ["step", "loss"], losses)


def write_report(step: Step) -> None:
    """The evidence as a folder, and a file of figures for every model."""
    verdict = read_verdict(step.verdict) if step.verdict else None
    chain = training_chain(step.trained, step.run.get(Workspace).store)
    folder = step.folder / EVIDENCE
    write_evidence(folder, step.plan, step.dataset, step.measured, verdict, step.skipped, chain)
    if step.search is not None:
        add_search(folder, step.search)
    tell(step)
    chosen = step.verdict.meta["chosen"] if step.verdict else None
    step.run.get(Workspace).bus.emit(EvidenceWritten(folder=str(folder), chosen=chosen))
    board = scoreboard(step.measured)
    found = {subject: board.metrics(subject) for subject in board.subjects()}
    for subject, metrics in found.items():
        word = ruling(verdict, subject)
        _write_metrics(
            step.folder / METRICS["report"] / f"{subject}.json", metrics | ({"verdict": word} if word else {})
        )
    names = list(dict.fromkeys(name for metrics in found.values() for name in metrics))
    rows = ([subject, *(metrics.get(name, "") for name in names)] for subject, metrics in found.items())
    _write_points(step.folder / PLOTS["report"], ["model", *names], rows)


def tell(step: Step) -> None:
    """Say on the bus what was measured; a tracker of this process writes it down."""
    bus = step.run.get(Workspace).bus
    for artifact in step.measured:
        for subject, metrics in artifact.meta["metrics"].items():
            bus.emit(BenchmarkMeasured(benchmark=artifact.stage, subject=subject, metrics=metrics))


def _write_metrics(path: Path, figures: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, figures)


def _write_points(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([header, *rows])
