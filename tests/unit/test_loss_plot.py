"""The picture of a training run."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.training.plot import loss_plot, smoothed
from tests.conftest import ROOT


def history(steps: int = 40, **changes: Any) -> dict[str, Any]:
    """A run as a trainer records it."""
    rates = [1e-3 * (1 - step / steps) for step in range(steps)]
    plain: dict[str, Any] = {
        "type": "sft",
        "losses": [3.0 * math.exp(-step / 8) for step in range(steps)],
        "learning_rates": rates,
        "grad_norms": [0.5 + rate for rate in rates],
        "evaluations": [{"step": 20, "loss": 0.6}, {"step": 40, "loss": 0.2, "tokens": 3}, {"step": 40, "score": 1.0}],
        "resumed_from": [12],
        "adapted": [{"step": 13, "reason": "memory", "action": "smaller batches"}],
        "tokens": 12000,
        "tokens_per_s": 2140.4,
        "final_loss": 0.0231,
    }
    return plain | changes


def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]) -> Any:
    """The figure that is written, to look into."""
    from matplotlib.backends import backend_agg

    kept: list[Any] = []
    write = backend_agg.FigureCanvasAgg.print_png

    def keep(self: Any, *args: Any, **kwargs: Any) -> None:
        kept.append(self.figure)
        write(self, *args, **kwargs)

    monkeypatch.setattr(backend_agg.FigureCanvasAgg, "print_png", keep)
    loss_plot(given, tmp_path / "loss.png")
    return kept[0]


def test_everything_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses, evaluations, rate, norm and marks stand in two panels with title, labels and units (B15, B17)."""
    figure = drawn(tmp_path, monkeypatch, history())
    losses, below, right = figure.axes
    assert losses.get_title(loc="left") == "sft: 40 steps, 12,000 tokens, 2,140 tokens/s, final loss 0.0231"
    assert [losses.get_ylabel(), below.get_ylabel(), right.get_ylabel()] == [
        "loss (nats)",
        "learning rate",
        "gradient norm",
    ]
    assert below.get_xlabel() == "optimizer step"
    assert [text.get_text() for text in losses.get_legend().get_texts()] == [
        "training",
        "training, smoothed",
        "evaluation",
    ]
    raw, _, points, *marks = losses.get_lines()
    assert list(raw.get_ydata()) == history()["losses"]
    assert (list(points.get_xdata()), list(points.get_ydata())) == ([20, 40], [0.6, 0.2])
    assert [mark.get_xdata()[0] for mark in marks] == [12.5, 13.5]
    assert [text.get_text() for text in losses.texts] == ["resumed, adapted"]
    assert losses.get_yscale() == "log"


@pytest.mark.parametrize(
    "given",
    [
        {"losses": [2.5]},
        {"losses": [0.0, 0.0, 0.0]},
        {"losses": [float("nan")] * 9},
        {"losses": [2.0, float("inf"), -1.0, *([1.0] * 9)], "evaluations": [{"step": 0, "loss": 3.0}]},
        {"losses": [1.0] * 9, "grad_norms": [1.0] * 9, "evaluations": [], "resumed_from": []},
        {"losses": [1.0] * 9, "learning_rates": [0.0] * 9, "adapted": [{"step": 0}, {"step": 9}], "final_loss": 1},
        history(3000, resumed_from=list(range(0, 3000, 100))),
    ],
    ids=["one step", "all zero", "no number", "odd numbers", "norms only", "rates only", "long"],
)
def test_any_run_has_a_picture(given: dict[str, Any], tmp_path: Path) -> None:
    """Short, broken and sparse runs have their picture too, without a warning (B17)."""
    out = loss_plot(given, tmp_path / "loss.png")
    assert out.read_bytes().startswith(b"\x89PNG")


def test_same_run_same_bytes(tmp_path: Path) -> None:
    """The same figures give the same file, whoever draws it and when; other figures another one (B17)."""
    one, again = (loss_plot(history(), tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert one == again
    assert b"Software" not in one
    assert loss_plot(history(tokens=1), tmp_path / "c.png").read_bytes() != one


def test_no_global_state(tmp_path: Path) -> None:
    """Drawing does not load pyplot, which keeps every figure and asks for a screen."""
    code = """
import pathlib, sys
from components.training.plot import loss_plot
loss_plot({"losses": [1, 2]}, pathlib.Path(sys.argv[1]))
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "loss.png")], check=True, cwd=ROOT)


def test_smoothing() -> None:
    """A smoothed line keeps a constant, follows a trend without lag, and steps over what is not a number (B17)."""
    assert smoothed([2.0] * 20) == pytest.approx([2.0] * 20)
    line = [float(step) for step in range(100)]
    assert smoothed(line)[20:80] == pytest.approx(line[20:80])
    assert smoothed([1.0, float("nan"), 1.0]) == pytest.approx([1.0, 1.0, 1.0])
    assert math.isnan(smoothed([float("inf")])[0])
