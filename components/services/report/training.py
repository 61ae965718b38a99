"""What the evidence of a run says about training: its figures as a table, what happened on the way, and samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from components.core.artifacts import MANIFEST, Artifact
from components.core.machine import human_bytes

SAMPLES = 3
"""Samples of the last step that a page shows; `training.json` has all."""
LINES = 3
"""Lines of an answer that a page shows, each cut to WIDTH."""
WIDTH = 160


def training_figures(chain: Sequence[Artifact]) -> list[dict[str, Any]]:
    """Everything that each step recorded, with its type, key, digest and the name of its curve."""
    figures = []
    for number, artifact in enumerate(chain, 1):
        kind = str(artifact.read_json(MANIFEST)["identity"]["config"].get("type", artifact.kind))
        curve = "loss.png" if len(chain) == 1 else f"loss-{number}-{kind}.png"
        known = {"type": kind, "key": artifact.key, "digest": artifact.digest}
        figures.append({**artifact.meta, **known, "curve": curve if _drawable(artifact.meta.get("losses")) else None})
    return figures


def _drawable(losses: Any) -> bool:
    """A trainer of a plugin may record what it likes."""
    return isinstance(losses, list) and bool(losses) and all(isinstance(loss, int | float) for loss in losses)


def training_markdown(figures: Sequence[Mapping[str, Any]]) -> str:
    """The section `## training` of a report; nothing without a training step."""
    if not figures:
        return ""
    lines = ["", "## training", "", _row(COLUMNS), _row(["---"] * len(COLUMNS))]
    lines += [_row([read(step) for read in COLUMNS.values()]) for step in figures]
    told = [f"- {_cell(step['type'])}: {line}" for step in figures for line in happened(step)]
    lines += ["", *told] if told else []
    for step in figures:
        lines += _samples(step)
    return "\n".join(lines) + "\n"


def _number(name: str, form: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda step: "-" if step.get(name) is None else format(step[name], form)


def _memory(step: Mapping[str, Any]) -> str:
    return human_bytes(step["peak_rss"]) if step.get("peak_rss") else "-"


def _speed(step: Mapping[str, Any]) -> str:
    choice = (step.get("speed") or {}).get("choice") or {}
    said = [f"{name.replace('_', ' ')} {_word(value)}" for name, value in choice.items() if value is not None]
    return _cell(", ".join(said)) or "-"


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "step": lambda step: _cell(step["type"]),
    "steps": _number("steps", ","),
    "final loss": _number("final_loss", ".4g"),
    "tokens": _number("tokens", ","),
    "tokens/s": _number("tokens_per_s", ",.0f"),
    "utilisation": _number("utilisation", ".0%"),
    "peak memory": _memory,
    "determinism": lambda step: _cell(step.get("determinism") or "-"),
    "speed": _speed,
}


def happened(step: Mapping[str, Any]) -> list[str]:
    """What a reader must know beside the figures, one line each."""
    lines = [f"curve in `{step['curve']}`"] if step["curve"] else []
    evaluations = [entry for entry in step.get("evaluations") or () if entry.get("loss") is not None]
    if evaluations:
        first, last = evaluations[0], evaluations[-1]
        lines.append(
            f"eval loss {first['loss']:.4g} at step {first['step']}, {last['loss']:.4g} at step {last['step']}"
        )
    lines += [f"best evaluation at step {step['best_step']}"] if step.get("best_step") else []
    lines += [f"resumed from step {number}" for number in step.get("resumed_from") or ()]
    for entry in step.get("adapted") or ():
        reason, action = (_cell(entry.get(name, "-")) for name in ("reason", "action"))
        lines.append(f"adapted at step {entry['step']}: {reason}; {action}")
    guards = step.get("guards") or ()
    guards = guards.items() if isinstance(guards, Mapping) else [("", guard) for guard in guards]
    lines += [f"guard {_cell(name)}: {_cell(value)}" if name else f"guard: {_cell(value)}" for name, value in guards]
    return lines


def _samples(step: Mapping[str, Any]) -> list[str]:
    """What the model answered at the end, as an indented block, in which nothing is Markdown."""
    samples: Sequence[Mapping[str, Any]] = step.get("samples") or ()
    last = [sample for sample in samples if sample["step"] == samples[-1]["step"]][:SAMPLES]
    if not last:
        return []
    lines = ["", f"Samples of {_cell(step['type'])} at step {last[0]['step']}:", ""]
    for sample in last:
        answer = [line for line in sample["answer"].splitlines() if line.strip()]
        shown = answer[:LINES] + ["…"] * (len(answer) > LINES)
        lines += [f"    > {_cut(sample['prompt'])}", *(f"    {_cut(line)}" for line in shown or ["(nothing)"]), "    "]
    return lines[:-1]


def _word(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _cut(text: str) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def _cell(value: Any) -> str:
    """Text that stays within its cell or line."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _row(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"
