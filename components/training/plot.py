"""The curve of a training run as a picture: `loss_plot(artifact.meta, Path("loss.png"))`.

Losses raw and smoothed, evaluations, and below them learning rate and gradient norm, with a mark where training was
resumed or adapted. Same figures, same bytes: no date, no name of a program.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Okabe and Ito's colours, which colour-blind people tell apart
TRAIN, EVAL, RATE, NORM, MARK = "#0072B2", "#D55E00", "#009E73", "#B1578D", "#555555"
LOG_FROM = 20.0
"""Losses that fall by more than this factor are drawn on a logarithmic axis."""
CLOSE = 0.12
"""Marks that stand closer, as a part of the width, share their words: these would lie on each other."""
FEW = 8
"""Fewer losses are drawn as points, and not smoothed."""


def loss_plot(history: Mapping[str, Any], out: Path) -> Path:
    """Write the curve of one training step as PNG; returns its path. `history`: the `meta` of a trained artifact."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    losses = [float(loss) for loss in history["losses"]]
    below = [name for name in ("learning_rates", "grad_norms") if history.get(name)]
    figure = Figure(figsize=(9, 6 if below else 4.2), dpi=130, layout="constrained")
    ratios = [2.6, 1] if below else [1]
    panels = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
    _losses(panels[0], losses, history.get("evaluations") or ())
    if below:
        _second(panels[1], history)
    _marks(panels, history, len(losses))
    panels[0].set_title(_title(history, losses), loc="left", fontsize=11, pad=20 if _has_marks(history) else 8)
    panels[-1].set_xlabel("optimizer step")
    first = min([1, *(entry["step"] for entry in history.get("evaluations") or ())])
    panels[-1].set_xlim(first - 0.5, max(len(losses), 2) + 0.5)
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(str(out), metadata={"Software": None})
    return out


def smoothed(values: Sequence[float]) -> list[float]:
    """Each value with its neighbours, nearer ones count more (a Gaussian); without the lag of a running mean."""
    import numpy as np

    reach = max(2, round(math.sqrt(len(values)) / 2))
    given = np.asarray(values, dtype=float)
    known = np.isfinite(given)
    offsets = np.arange(-3 * reach, 3 * reach + 1)
    kernel = np.exp(-0.5 * (offsets / reach) ** 2)
    middle = slice(3 * reach, 3 * reach + len(given))
    sums = np.convolve(np.where(known, given, 0.0), kernel)[middle]
    weights = np.convolve(known.astype(float), kernel)[middle]
    return [float(value) for value in np.where(weights > 0, sums / np.maximum(weights, 1e-12), math.nan)]


def _losses(axes: Any, losses: Sequence[float], evaluations: Sequence[Mapping[str, Any]]) -> None:
    steps, smooth = range(1, len(losses) + 1), smoothed(losses)
    few = len(losses) < FEW
    if few:
        axes.plot(steps, losses, color=TRAIN, lw=1.5, marker="o", ms=5, label="training")
    else:
        axes.plot(steps, losses, color=TRAIN, lw=0.8, alpha=0.45, label="training")
        axes.plot(steps, smooth, color=TRAIN, lw=2, label="training, smoothed")
    points = [(entry["step"], entry["loss"]) for entry in evaluations if _is_number(entry.get("loss"))]
    if points:
        axes.plot(*zip(*points, strict=True), color=EVAL, lw=1, ls="--", marker="D", ms=5, label="evaluation", zorder=3)
    drawn = [*smooth, *(loss for _, loss in points)]
    real = [value for value in drawn if math.isfinite(value)]
    if real and min([*real, *losses]) > 0 and max(real) / min(real) > LOG_FROM:
        axes.set_yscale("log")
        axes.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylabel("loss (nats)")
    axes.legend(loc="upper right", edgecolor="none", framealpha=0.85, fontsize=9)
    _plain(axes)


def _second(axes: Any, history: Mapping[str, Any]) -> None:
    """Learning rate on the left, gradient norm on the right; either alone stands on the left."""
    known = [("learning_rates", "learning rate", RATE), ("grad_norms", "gradient norm", NORM)]
    for number, (name, title, color) in enumerate(entry for entry in known if history.get(entry[0])):
        here = axes if number == 0 else axes.twinx()
        values = history[name]
        here.plot(range(1, len(values) + 1), values, color=color, lw=1.3 if number == 0 else 0.9)
        here.set_ylabel(title, color=color)
        here.set_ylim(bottom=0)
        here.tick_params(axis="y", labelcolor=color)
        if name == "learning_rates":
            here.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        _plain(here, right=number == 1)


def _plain(axes: Any, right: bool = False) -> None:
    axes.spines["top"].set_visible(False)
    axes.spines["right"].set_visible(right)
    if not right:
        axes.grid(visible=True, color="#DDDDDD", lw=0.6)
        axes.set_axisbelow(True)


def _marks(panels: Any, history: Mapping[str, Any], last: int) -> None:
    # both happen after the step they name; 0 is before the first
    marks = [(int(step) + 0.5, "resumed", "--") for step in history.get("resumed_from") or ()]
    marks += [(int(entry["step"]) + 0.5, "adapted", ":") for entry in history.get("adapted") or ()]
    groups: list[tuple[float, list[str]]] = []
    for place, word, style in sorted(marks):
        for axes in panels:
            axes.axvline(place, color=MARK, lw=1.1, ls=style, zorder=1)
        if not groups or place - groups[-1][0] > CLOSE * last:
            groups.append((place, []))
        groups[-1][1].append(word)
    for place, words in groups:
        said = ", ".join(dict.fromkeys(words))
        side = "left" if place < 0.85 * last else "right"
        where = {"xy": (place, 1), "xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        panels[0].annotate(said, **where, xytext=(0, 3), ha=side, va="bottom", fontsize=8, color=MARK)


def _has_marks(history: Mapping[str, Any]) -> bool:
    return bool(history.get("resumed_from") or history.get("adapted"))


def _title(history: Mapping[str, Any], losses: Sequence[float]) -> str:
    parts = [f"{len(losses):,} step{'s' * (len(losses) != 1)}"]
    parts += [f"{history['tokens']:,} tokens"] if history.get("tokens") else []
    parts += [f"{history['tokens_per_s']:,.0f} tokens/s"] if history.get("tokens_per_s") else []
    parts += [f"final loss {history.get('final_loss', losses[-1]):.3g}"]
    return f"{history.get('type', 'training')}: {', '.join(parts)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
