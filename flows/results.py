"""Read back what a run left in its evidence folder, for the table at the end and for tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.interfaces import Measurement, Scoreboard
from components.services.cost import COST
from components.services.evidence import TRAINING, VERDICT
from components.services.judging import Verdict
from components.services.search import REPORT


def read_results(folder: Path) -> tuple[Scoreboard, Verdict | None]:
    """The scoreboard (figures only) and the verdict of the last run; None if nothing was judged."""
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    board = Scoreboard(
        [Measurement(subject=name, benchmark="all", metrics=metrics) for name, metrics in figures.items()]
    )
    verdict = folder / VERDICT
    return board, Verdict.model_validate_json(verdict.read_text(encoding="utf-8")) if verdict.is_file() else None


def read_training(folder: Path) -> list[dict[str, Any]]:
    """What every training step of the last run recorded, in order."""
    steps: list[dict[str, Any]] = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
    return steps


def read_search(folder: Path) -> dict[str, Any] | None:
    """What a search found; None if there was none."""
    file = folder / REPORT
    found: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return found


def read_cost(folder: Path) -> dict[str, Any] | None:
    """What a run cost; None without a price in the settings."""
    file = folder / COST
    found: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return found
