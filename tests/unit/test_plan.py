"""The plan of a run, and its estimates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.core.machine import machine
from components.core.recipe import Recipe, parse_recipe
from flows.plan import Rows, estimate, rows_of, steps
from tests import tiny

ROWS = Rows(count=100, tokens=50.0)


def recipe(tmp_path: Path, **train: Any) -> Recipe:
    plain = tiny.recipe(tmp_path, tmp_path / "model", train=[{"type": "sft", "batch_size": 2, **train}])
    return parse_recipe({name: plain[name] for name in ("name", "model", "data", "train")})


def seconds(tmp_path: Path, **train: Any) -> float:
    return estimate(recipe(tmp_path, **train), 1_000_000, machine(), ROWS).train_seconds


def test_a_recipe_that_only_trains(tmp_path: Path) -> None:
    """The plan ends with training where the recipe does; what is not said is not shown."""
    assert [line.split()[0] for line in steps(recipe(tmp_path))] == ["fetch", "validate", "train"]
    assert "None" not in steps(recipe(tmp_path))[-1]
    assert "epochs=2.0" in steps(recipe(tmp_path, epochs=2))[-1]


def test_training_time(tmp_path: Path) -> None:
    """Time follows the tokens: of the steps, or of the passes over the rows, whichever end first; packs are full."""
    ten = seconds(tmp_path, max_steps=10)
    assert seconds(tmp_path, max_steps=20) == pytest.approx(2 * ten)
    assert seconds(tmp_path) == pytest.approx(6 * ten)  # sixty steps where nothing is said
    assert seconds(tmp_path, epochs=1) == pytest.approx(5 * ten)  # 100 rows, two a step
    assert seconds(tmp_path, epochs=1, max_steps=20) == pytest.approx(2 * ten)
    assert seconds(tmp_path, max_steps=10, packing=True, max_length=100) == pytest.approx(2 * ten)


def test_rows_of_a_report() -> None:
    """The number of training rows and their mean length, as far as the data report knows them."""
    report = {"rows": {"train": 4}, "splits": {"train": {"tokens": {"total": 40}}}}
    assert rows_of(report) == Rows(4, 10.0)
    assert rows_of(report | {"splits": {"train": {}}}) == Rows(4)
