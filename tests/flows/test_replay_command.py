"""`postmill replay` of a registered version, as a user calls it: the model is made again and compared."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.flow, pytest.mark.timeout(600)]


def postmill(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "POSTMILL_"))}
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=ROOT,
        env={**kept, "POSTMILL_ROOT": str(root), "COLUMNS": "120"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Where the tiny recipe registered version 1."""
    root = tmp_path_factory.mktemp("replayed")
    recipe = tiny.write_recipe(root / "tiny.yaml", tiny.recipe(root, tiny_model))
    done = postmill(root, "run", str(recipe))
    assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.mark.parametrize("options", [(), ("--whole",)], ids=["model", "whole"])
def test_the_same_bytes(root: Path, options: tuple[str, ...]) -> None:
    """On the same machine every stage that leads to the version has the same bytes, and nothing is left over (C65)."""
    done = postmill(root, "replay", "tiny", "1", "--here", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "exact: all" in done.stdout
    assert not (root / "replays" / "tiny-1").exists()


def test_a_row_that_is_gone(root: Path) -> None:
    """Data that is not what it was is named, and nothing is run (C65)."""
    data = root / "rows" / "train.jsonl"
    before = data.read_bytes()
    data.write_bytes(before.replace(b"user", b"User", 1))
    try:
        done = postmill(root, "replay", "tiny", "1", "--here")
    finally:
        data.write_bytes(before)
    assert done.returncode != 0
    assert "train.jsonl" in done.stderr
