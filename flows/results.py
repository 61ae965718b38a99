"""Read back what a run left in its evidence folder, for the table at the end and for tools."""

from __future__ import annotations

import json
from pathlib import Path

from components.interfaces import Measurement, Scoreboard
from components.services.judging import Verdict


def read_results(folder: Path) -> tuple[Scoreboard, Verdict]:
    """The scoreboard (figures only) and the verdict of the last run."""
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    board = Scoreboard(
        [Measurement(subject=name, benchmark="all", metrics=metrics) for name, metrics in figures.items()]
    )
    return board, Verdict.model_validate_json((folder / "verdict.json").read_text(encoding="utf-8"))
