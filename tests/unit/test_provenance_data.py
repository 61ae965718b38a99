"""Locked data: a file that changed stops the run, and is recorded if the run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import DataError
from components.core.events import DataChanged
from components.core.recipe import Recipe, load_recipe, lock_path
from components.data.provenance import write_lock
from components.services.data import DataService
from components.services.workspace import Workspace
from tests import tiny


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A recipe file with a lock beside it."""
    path = tiny.write_recipe(tmp_path / "r.yaml", tiny.recipe(tmp_path, tmp_path / "model"))
    write_lock(lock_path(path), files(load_recipe(path)))
    return path


def files(recipe: Recipe) -> dict[str, dict[str, str]]:
    return {split: dict(spec.build().fingerprint()) for split, spec in recipe.data.readers().items()}


def flip_one_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[30] ^= 1
    path.write_bytes(bytes(content))


def validate(path: Path, *changes: str, heard: list[Any] | None = None) -> Any:
    workspace = Workspace(path.parent)
    workspace.bus.on(DataChanged, (heard if heard is not None else []).append)
    return DataService(workspace).validate(load_recipe(path, changes).data)


def test_unchanged_data_pass(path: Path) -> None:
    """A lock beside the recipe is used without being named, and unchanged files pass it (bar 7)."""
    assert load_recipe(path).data.lock == lock_path(path)
    assert validate(path).meta["changed"] == []


def test_one_flipped_byte_stops_the_run(path: Path) -> None:
    """A changed file is named with both digests and the ways out (bar 7)."""
    locked = files(load_recipe(path))["train"]
    train = path.parent / "rows" / "train.jsonl"
    flip_one_byte(train)
    found = files(load_recipe(path))["train"]
    with pytest.raises(DataError) as caught:
        validate(path)
    for text in (str(train), locked[str(train)][:16], found[str(train)][:16], "data lock", "--allow-dirty"):
        assert text in str(caught.value)


def test_allowed_changes_are_recorded(path: Path) -> None:
    """`allow_dirty` goes on; the artifact and an event for the trackers say what changed (bar 7)."""
    flip_one_byte(path.parent / "rows" / "train.jsonl")
    heard: list[Any] = []
    artifact = validate(path, "data.allow_dirty=true", "data.contract.max_bad_fraction=1", heard=heard)
    assert len(artifact.meta["changed"]) == 1
    assert "train.jsonl: locked" in artifact.meta["changed"][0]
    assert [event.files for event in heard] == [artifact.meta["changed"]]
    again = validate(path, "data.allow_dirty=true", "data.contract.max_bad_fraction=1", heard=heard)
    assert again.meta["changed"] == artifact.meta["changed"]
    assert len(heard) == 2


def test_files_that_came_or_went(path: Path) -> None:
    """A file that is not in the lock, and one that is in it but not read, are changes too (bar 7)."""
    lock = json.loads(lock_path(path).read_text())
    eval_file = next(name for name in lock["files"] if name.endswith("eval.jsonl"))
    lock["files"]["gone.jsonl"] = lock["files"].pop(eval_file)
    lock_path(path).write_text(json.dumps(lock))
    with pytest.raises(DataError, match=r"eval\.jsonl: not in the lock, found [0-9a-f]{16}\n  gone\.jsonl: locked"):
        validate(path)


@pytest.mark.parametrize("content", ["", "[]", '{"files": 3}', "{"])
def test_damaged_lock(path: Path, content: str) -> None:
    """A damaged lock is one error with the command that writes it again."""
    lock_path(path).write_text(content)
    with pytest.raises(DataError, match=r"r\.lock' is damaged: .*postmill data lock"):
        validate(path)


def test_missing_lock(path: Path) -> None:
    """A lock that the recipe names must be there."""
    with pytest.raises(DataError, match=r"the lock 'absent\.lock' does not exist"):
        validate(path, "data.lock=absent.lock")
