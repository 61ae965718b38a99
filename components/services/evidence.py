"""The evidence of a run: every figure, every per-row result, the verdict, and one page that a person reads.

It is attached to the MLflow run, and through the run to the registered version.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from components.core.artifacts import Artifact, Store, write_json
from components.core.machine import human_bytes, machine
from components.core.recipe import Recipe
from components.interfaces import Metric, Scoreboard
from components.services.benchmarking import scoreboard
from components.services.judging import Verdict
from components.services.report.passes import passes_markdown
from components.services.report.training import training_figures, training_markdown
from components.training.plot import loss_plot

REPORT = "report.md"
TRAINING = "training.json"
NOTES = "notes.json"
"""What benchmarks say besides figures: intervals, settings, hashes, and what each pass of a chain came to."""
VERDICT = "verdict.json"
"""Not there if the recipe has nothing to judge."""


def metrics_of(recipe: Recipe) -> list[Metric]:
    """Every metric that the recipe's benchmarks report, in order."""
    return [metric for spec in recipe.benchmark for metric in spec.component.reports(spec.config)]


def show(metric: Metric, value: float | None) -> str:
    """A figure the way a person reads it, with its unit where the title does not carry it."""
    if value is None:
        return "-"
    if metric.unit == "share":
        return f"{value:.1%}"
    if metric.unit == "bytes":
        return human_bytes(value)
    if metric.unit == "nats":
        return f"{value:.4f}"
    return f"{value:,.1f}" if value >= 10 else f"{value:,.2f}" if value >= 0.1 else f"{value:.3g}"


def write_evidence(
    out: Path,
    recipe: Recipe,
    dataset: Artifact,
    measured: Sequence[Artifact],
    verdict: Verdict | None,
    skipped: Mapping[str, str],
    chain: Sequence[Artifact] = (),
) -> Path:
    """Write the evidence folder; returns it. `verdict`: None if nothing was judged. `skipped`: steps that were left
    out, and why. `chain`: what was trained, see `training_chain`."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    board = scoreboard(measured)
    figures = {subject: board.metrics(subject) for subject in board.subjects()}
    write_json(out / "figures.json", figures)
    write_json(out / NOTES, [m.model_dump(include={"subject", "benchmark", "notes"}) for m in board.measurements])
    if verdict is not None:
        write_json(out / VERDICT, verdict.model_dump())
    write_json(out / "skipped.json", dict(skipped))
    write_json(out / "machine.json", vars(machine()))
    write_json(out / "data.json", {k: v for k, v in dataset.meta.items() if k != "system"})
    shutil.copyfile(dataset.path / "quarantine.jsonl", out / "quarantine.jsonl")
    shutil.copyfile(dataset.path / "report.html", out / "data.html")
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe.dump(), sort_keys=False), encoding="utf-8")
    with (out / "rows.jsonl").open("w", encoding="utf-8") as handle:
        for measurement in board.measurements:
            for row in measurement.rows:
                line = {"subject": measurement.subject, "benchmark": measurement.benchmark, **row}
                handle.write(json.dumps(line, ensure_ascii=False) + "\n")
    return write_training(out, chain, markdown(recipe, board, verdict, skipped))


def training_chain(trained: Artifact, store: Store) -> list[Artifact]:
    """The training steps that lead to this artifact, the first one first; none if nothing was trained."""
    chain: list[Artifact] = []
    while trained.stage == "train":
        chain.insert(0, trained)
        trained = store.get(trained.parents["model"])
    return chain


def write_training(out: Path, chain: Sequence[Artifact], before: str = "# training\n") -> Path:
    """Write what trained artifacts say of themselves: curves, `training.json`, and the section of the report, which
    begins with `before`. Returns the folder, which keeps what else is in it."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("loss*.png"):
        old.unlink()
    figures = training_figures(chain)
    write_json(out / TRAINING, figures)
    for step in figures:
        if step["curve"]:
            loss_plot(step, out / step["curve"])
    (out / REPORT).write_text(before + training_markdown(figures), encoding="utf-8")
    return out


def markdown(recipe: Recipe, board: Scoreboard, verdict: Verdict | None, skipped: Mapping[str, str]) -> str:
    """The table of all subjects and the reasons of the verdict, as Markdown."""
    lines = [f"# {recipe.name}: {_title(verdict)}", "", *_table(metrics_of(recipe), board, verdict)]
    for judged in verdict.variants if verdict else ():
        lines += ["", f"## {judged.variant}: {'accepted' if judged.accepted else 'rejected'}", ""]
        lines += [f"- {'pass' if check.passed else 'FAIL'} ({check.gate}): {check.summary}" for check in judged.checks]
    lines += passes_markdown([vars(measurement) for measurement in board.measurements], show)
    if skipped:
        lines += ["", "## skipped", "", *(f"- {step}: {reason}" for step, reason in skipped.items())]
    return "\n".join(lines).rstrip("\n") + "\n"


def _title(verdict: Verdict | None) -> str:
    if verdict is None:
        return "trained, nothing to judge"
    return f"accepted, {verdict.chosen}" if verdict.chosen else "not accepted"


def _table(metrics: Sequence[Metric], board: Scoreboard, verdict: Verdict | None) -> list[str]:
    """A line a subject; nothing where nothing was measured."""
    if not board.subjects():
        return []
    header = ["model", *(metric.title for metric in metrics), *(["verdict"] if verdict else [])]
    lines = [_row(header), _row(["---"] * len(header))]
    for subject in board.subjects():
        found = board.metrics(subject)
        last = [ruling(verdict, subject)] if verdict else []
        lines.append(_row([subject, *(show(m, found.get(m.name)) for m in metrics), *last]))
    return lines


def ruling(verdict: Verdict | None, subject: str) -> str:
    """`chosen`, `accepted`, `rejected`, or nothing for a subject that is not a variant."""
    if verdict is None:
        return ""
    if subject == verdict.chosen:
        return "chosen"
    judged = {entry.variant: entry.accepted for entry in verdict.variants}
    return {True: "accepted", False: "rejected"}[judged[subject]] if subject in judged else ""


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
