"""Checkpoints exist whole or not at all, belong to one run, and bring back every bit of a run's state."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.core.errors import TrainingError
from components.training import checkpoints
from components.training.checkpoints import CheckpointFolder, differences, forget, nearest
from components.training.state import (
    load_optimizer,
    load_tensors,
    random_state,
    restore_random_state,
    restore_weights,
    save_optimizer,
    save_tensors,
    trained_weights,
)

IDENTITY = {"train": {"learning_rate": 0.001, "lora": {"r": 4}}, "rows": "abc"}


def folder(root: Path, keep_last: int = 2, **changes: Any) -> CheckpointFolder:
    return CheckpointFolder(root, {**IDENTITY, **changes}, keep_last)


def content(text: str) -> Any:
    def write(place: Path) -> Mapping[str, Any]:
        (place / "weights").write_text(text)
        return {"said": text}

    return write


def test_saved_and_found(tmp_path: Path) -> None:
    """What was saved is found with its notes, the latest last; nothing else is in the folder's listing (B16)."""
    place = folder(tmp_path)
    with place.claimed():
        for step in (2, 10):
            place.save(step, content(str(step)))
        assert [found.step for found in place.all()] == [2, 10]
        latest = place.latest()
    assert latest is not None
    assert (latest.step, latest.notes) == (10, {"said": "10"})
    assert (latest.path / "weights").read_text() == "10"


def test_only_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    """Older checkpoints go, but the best one stays however old it is (B16)."""
    place = folder(tmp_path, keep_last=2)
    with place.claimed():
        for step in (1, 2, 3, 4, 5):
            place.save(step, content(""), best=2 if step >= 2 else None)
        assert [found.step for found in place.all()] == [2, 4, 5]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyError("bug")])
def test_a_failed_save_leaves_the_last_one(tmp_path: Path, error: Exception) -> None:
    """A save that fails leaves no trace; a full disk is told with the remedy, a bug as it is."""
    place = folder(tmp_path)

    def fail(staging: Path) -> Mapping[str, Any]:
        (staging / "weights").write_text("half")
        raise error

    with place.claimed():
        place.save(4, content("good"))
        kind, words = (
            (TrainingError, "step 4 is intact. Make room") if isinstance(error, OSError) else (KeyError, "bug")
        )
        with pytest.raises(kind, match=words):
            place.save(8, fail)
        assert [found.step for found in place.all()] == [4]
    assert {file.name for file in tmp_path.iterdir()} <= {"identity.json", "step-00000004", ".lock"}


def test_incomplete_ones_are_never_listed(tmp_path: Path) -> None:
    """A directory without a manifest is no checkpoint, and what a kill left while saving is swept."""
    place = folder(tmp_path)
    with place.claimed():
        place.save(4, content("good"))
    (tmp_path / "step-00000008").mkdir()
    (tmp_path / ".saving-abc").mkdir()
    with place.claimed():
        latest = place.latest()
        assert latest is not None
        assert latest.step == 4
        assert not (tmp_path / ".saving-abc").exists()


def test_damaged_bytes_are_not_trusted(tmp_path: Path) -> None:
    """A checkpoint whose bytes changed is set aside, and the one before it is used."""
    place = folder(tmp_path)
    with place.claimed():
        place.save(4, content("good"))
        place.save(8, content("good"))
        (tmp_path / "step-00000008" / "weights").write_text("bad!")
        latest = place.latest()
        assert latest is not None
        assert latest.step == 4
    assert (tmp_path / ".damaged-step-00000008").is_dir()


def test_another_run_is_refused_with_a_diff(tmp_path: Path) -> None:
    """A folder with checkpoints of another configuration is refused, and every difference is named."""
    place = folder(tmp_path)
    with place.claimed():
        place.save(4, content("good"))
    other = folder(tmp_path, train={"learning_rate": 0.002, "lora": {"r": 4}})
    with pytest.raises(TrainingError, match=r"(?s)of another run \(at step 4\).*train.learning_rate: 0.001 -> 0.002"):
        other.claimed().__enter__()
    with place.claimed():
        assert place.latest() is not None


def test_a_folder_without_checkpoints_is_taken_over(tmp_path: Path) -> None:
    """A run that never saved keeps nobody out, and what it had computed in advance goes."""
    first = folder(tmp_path)
    with first.claimed():
        first.cache.mkdir()
    with folder(tmp_path, rows="other").claimed():
        assert not first.cache.exists()


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    """The second process is turned away at once, and the first one goes on."""
    place = folder(tmp_path)
    with place.claimed():
        with pytest.raises(TrainingError, match=r"another process is training in .*checkpoint.folder"):
            folder(tmp_path).claimed().__enter__()
        place.save(4, content("good"))
    with folder(tmp_path).claimed():
        pass


def test_forgetting_leaves_what_is_not_ours(tmp_path: Path) -> None:
    """When the run is over its checkpoints go, and other files in a folder of the user's stay."""
    place = folder(tmp_path / "mine")
    with place.claimed():
        place.save(4, content("good"))
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    forget(tmp_path / "mine")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    forget(tmp_path / "never-made")


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    """A folder that holds files of the user's is not taken, so nothing of theirs can be tidied away."""
    (tmp_path / "cache").mkdir()
    with pytest.raises(TrainingError, match=r"holds other things \('cache'\); name a new or an empty folder"):
        folder(tmp_path).claimed().__enter__()
    assert (tmp_path / "cache").is_dir()
    forget(tmp_path)
    assert (tmp_path / "cache").is_dir()


def test_a_kill_in_the_first_moment(tmp_path: Path) -> None:
    """A folder that was claimed and killed before it said whose it is can be claimed again."""
    (tmp_path / ".lock").touch()
    (tmp_path / ".identity.json").write_text("{")
    with folder(tmp_path).claimed():
        assert (tmp_path / "identity.json").is_file()


def test_beginning_anew_takes_a_folder_over(tmp_path: Path) -> None:
    """With `resume: false` the checkpoints of another run make way."""
    place = folder(tmp_path)
    with place.claimed():
        place.save(4, content("old"))
    with CheckpointFolder(tmp_path, {"rows": "other"}, anew=True).claimed():
        assert not place.all()


def test_the_nearest_run_is_named(tmp_path: Path) -> None:
    """Among the folders of other runs the one with the fewest differences is shown."""
    assert nearest(tmp_path, IDENTITY) == ""
    for name, changes in (("a", {"rows": "x", "train": {}}), ("b", {"rows": "x"})):
        with folder(tmp_path / name, **changes).claimed():
            folder(tmp_path / name, **changes).save(7, content(""))
    found = nearest(tmp_path, IDENTITY)
    assert "the nearest is at step 7" in found
    assert found.endswith("  rows: x -> abc")


def test_differences_name_nested_keys() -> None:
    """Changed, new and missing values are told by their dotted keys."""
    found = differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 5}, "e": 4})
    assert found == ["a.c: 2 -> 5", "d: 3 -> absent", "e: absent -> 4"]


@pytest.mark.parametrize("rule", [torch.optim.AdamW, torch.optim.SGD])
def test_optimizer_comes_back(tmp_path: Path, rule: Any) -> None:
    """An optimizer that is read back makes bit-equal steps (B16)."""
    settings = {"momentum": 0.9} if rule is torch.optim.SGD else {"fused": True}

    def network() -> tuple[Any, Any]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(8, 8)
        return layer, rule(layer.parameters(), lr=0.1, **settings)

    def step(layer: Any, optimizer: Any) -> None:
        layer(torch.arange(8.0)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    first, optimizer = network()
    step(first, optimizer)
    save_tensors(trained_weights(first), tmp_path / "weights.safetensors")
    save_optimizer(optimizer, tmp_path)
    second, again = network()
    restore_weights(second, load_tensors(tmp_path / "weights.safetensors"))
    load_optimizer(again, tmp_path)
    for layer, rule_ in ((first, optimizer), (second, again)):
        step(layer, rule_)
    assert torch.equal(first.weight, second.weight)
    assert not list(tmp_path.glob("*.pt"))


def test_random_numbers_come_back(tmp_path: Path) -> None:
    """All generators go on where they stood, also one that holds half a pair of normal numbers."""
    random.gauss(0, 1)
    np.random.randn()
    save_tensors(random_state(), tmp_path / "random.safetensors")

    def draw() -> list[float]:
        return [random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand(), torch.rand(1).item()]

    expected = draw()
    assert draw() != expected
    restore_random_state(load_tensors(tmp_path / "random.safetensors"))
    assert draw() == expected


def test_weights_of_another_network(tmp_path: Path) -> None:
    """Weights that this network does not train are refused with the name of one."""
    with pytest.raises(TrainingError, match="other weights than this run trains, for example 'bias'"):
        restore_weights(torch.nn.Linear(2, 2, bias=False), trained_weights(torch.nn.Linear(2, 2)))


def test_nothing_in_a_checkpoint_can_run_code(tmp_path: Path) -> None:
    """A checkpoint is safetensors and JSON only."""
    place = folder(tmp_path)
    with place.claimed():
        saved = place.save(1, lambda out: save_tensors(random_state(), out / "random-0.safetensors") or {})
    assert {file.suffix for file in saved.path.iterdir()} <= {".safetensors", ".json"}
    assert json.loads((saved.path / checkpoints.MANIFEST).read_text())["step"] == 1
