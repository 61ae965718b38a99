"""The sample task's data: reproducible, valid, and without a template in both splits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.core.recipe import DataSection
from components.services.data import DataService
from components.services.workspace import Workspace
from examples.triage.checks import check_pools, check_wording
from examples.triage.generate import write_dataset
from examples.triage.phrases import templates
from examples.triage.schema import KEYS

FILES = ("train.jsonl", "eval.jsonl", "preferences.jsonl", "README.md")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("triage")
    write_dataset(out, 17)
    return out


def test_same_seed_gives_the_committed_bytes(generated: Path) -> None:
    """The data that DVC holds is what the generator writes with seed 17."""
    committed = Path(__file__).parents[2] / "data" / "triage"
    assert committed.is_dir(), "run: dvc pull data.dvc"
    for name in FILES:
        assert (generated / name).read_bytes() == (committed / name).read_bytes(), name


def test_no_template_serves_both_splits() -> None:
    """Training and evaluation share no template, not even with other case, slots or punctuation."""
    assert not {text for _, text in templates("train")} & {text for _, text in templates("held_out")}
    check_pools()
    check_wording()


def test_every_row_passes_the_contract(generated: Path, tmp_path: Path) -> None:
    """2,000 training and 300 held-out rows at least, none bad, none in both splits."""
    readers = {split: {"type": "jsonl", "path": str(generated / f"{split}.jsonl")} for split in ("train", "eval")}
    section = DataSection.model_validate({**readers, "contract": {"max_bad_fraction": 0}})
    dataset = DataService(Workspace(tmp_path)).validate(section)
    assert dataset.meta["rules"] == {}
    assert dataset.meta["rows"]["train"] >= 2_000
    assert dataset.meta["rows"]["eval"] >= 300


def test_preferences_prefer_the_valid_record(generated: Path) -> None:
    """Every chosen answer is a record with exactly the task's keys, and differs from the rejected one."""
    faults = set()
    for line in (generated / "preferences.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert tuple(json.loads(chosen)) == KEYS
        assert chosen != rejected
        faults.add(row["fault"])
    assert len(faults) >= 4
