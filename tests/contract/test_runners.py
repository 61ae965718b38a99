"""What every runner promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.core.kinds import registry
from components.runners._base import Workers
from tests.contract.common import check_component, named


def mark(folder: str) -> None:
    """A piece of work: says in its folder that it was done."""
    (Path(folder) / "done").touch()


@named("runner")
def test_component(name: str) -> None:
    """One line of summary, a strict and frozen Config; making one starts nothing (A28)."""
    check_component("runner", name)


@named("runner")
def test_size(name: str) -> None:
    """A runner knows how many can work at the same time, and one that was never used can be stopped (C62)."""
    runner = registry.create("runner", name)
    assert runner.size >= 1
    assert registry.create("runner", name, workers=3).size == 3
    if isinstance(runner, Workers):
        runner.stop()


def test_work_is_done_elsewhere(tmp_path: Path) -> None:
    """Work that is handed over is done when `run` returns (C62)."""
    runner = registry.create("runner", "processes", workers=1)
    runner.run(mark, str(tmp_path))
    runner.stop()
    assert (tmp_path / "done").is_file()


def test_no_class_is_needed_for_a_name() -> None:
    """A name that nobody registered is refused with those that there are."""
    with pytest.raises(ValueError, match="dusk.*did you mean 'dask'"):
        registry.create("runner", "dusk")
