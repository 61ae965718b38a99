"""A run and its replay, compared stage by stage; the code and the data of a version, brought back."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from components.core.artifacts import Artifact, Identity, Store, hash_file
from components.core.errors import ArtifactError, DataError, PostmillError
from components.services.replay import bring_data, check_out, compare_runs
from components.services.stage_record import read_stages, record_stages, write_stages


def build(store: Store, stage: str, weights: torch.Tensor, parents: dict[str, Artifact], **identity: Any) -> Artifact:
    """An artifact that holds one tensor."""

    def make(out: Path) -> None:
        save_file({"w": weights}, out / "model.safetensors")

    known = {"config": {"type": stage}, "code": "c1", "versions": {"torch": "2.0"}} | identity
    digests = {role: parent.digest for role, parent in parents.items()}
    return store.build(Identity(stage=stage, parents=digests, **known), "model", parents, make)


def run(root: Path, *changes: tuple[str, torch.Tensor], **identity: Any) -> tuple[Store, Any]:
    """A run of three stages; `changes`: other weights for some of them."""
    store, values = Store(root / "artifacts"), dict(changes)
    data = build(store, "data", torch.zeros(1), {})
    model = build(store, "model", values.get("model", torch.ones(4)), {})
    trained = build(
        store, "train", values.get("train", torch.ones(4) * 2), {"model": model, "dataset": data}, **identity
    )
    variant = build(store, "optimize", values.get("optimize", torch.ones(4) * 3), {"model": trained})
    return store, record_stages({"base": model, "trained": trained, "int8": variant}, data, store)


def compared(tmp_path: Path, *changes: tuple[str, torch.Tensor], **identity: Any) -> Any:
    mine, then = run(tmp_path / "then")
    theirs, now = run(tmp_path / "now", *changes, **identity)
    return compare_runs(then.leading_to("int8"), now.leading_to("int8"), (mine.root, theirs.root))


def test_the_record_holds_what_led_to_a_subject(tmp_path: Path) -> None:
    """A record lists the stages of a subject, parents first, and survives being written (F6)."""
    _, record = run(tmp_path)
    assert [stage.stage for stage in record.leading_to("int8")] == ["data", "model", "train", "optimize"]
    assert [stage.stage for stage in record.leading_to("base")] == ["model"]
    assert record.leading_to("unheard of") == []
    write_stages(tmp_path, record)
    assert read_stages(tmp_path) == record


def test_evidence_without_a_record_is_told(tmp_path: Path) -> None:
    """Evidence of a run that kept no record is named."""
    with pytest.raises(ArtifactError, match=r"stages.json' is missing: this evidence is of a run that kept no record"):
        read_stages(tmp_path)


def test_the_same_bytes_are_exact(tmp_path: Path) -> None:
    """A replay with the same bytes in every stage is exact."""
    found = compared(tmp_path)
    assert (found.likeness, found.first_difference, len(found.stages)) == ("exact", None, 4)


@pytest.mark.parametrize(
    ("weights", "likeness", "note"),
    [
        (torch.tensor([2.0, 2.0, 2.0, 2.001]), "within tolerance", "'w' differs by up to 0.0005 of its largest value"),
        (torch.tensor([2.0, 2.0, 2.0, 2.2]), "different", "'w' differs by up to 0.1"),
        (torch.tensor([2.0, 2.0, 2.0, float("nan")]), "different", "'w' differs by up to inf"),
        (torch.ones(5) * 2, "different", r"'w' has shape [4] then, [5] now"),
    ],
)
def test_tensors_are_compared_where_hashes_differ(
    tmp_path: Path, weights: torch.Tensor, likeness: str, note: str
) -> None:
    """The first stage that differs is named, and how far its tensors are apart."""
    found = compared(tmp_path, ("train", weights))
    assert found.likeness == likeness
    assert found.first_difference.title == "train train"
    assert note in found.first_difference.notes[0]


def test_what_shaped_it_differently_is_named(tmp_path: Path) -> None:
    """Another library or other code is told beside the difference."""
    found = compared(tmp_path, ("train", torch.ones(4) * 9), code="c2", versions={"torch": "3.0"})
    assert found.first_difference.notes[1:] == ("torch: 2.0 then, 3.0 now", "code: c1 then, c2 now")


def test_without_the_original_hashes_still_tell(tmp_path: Path) -> None:
    """When the store is gone, a difference is still found, and it is said that tensors could not be compared."""
    mine, then = run(tmp_path / "then")
    theirs, now = run(tmp_path / "now", ("train", torch.ones(4) * 2.0001))
    found = compare_runs(then.leading_to("int8"), now.leading_to("int8"), (tmp_path / "nowhere", theirs.root))
    assert found.likeness == "different"
    assert "is gone from the store" in found.first_difference.notes[0]  # type: ignore[union-attr]


def test_a_stage_that_was_not_run_again_is_missing(tmp_path: Path) -> None:
    """A replay that ends early misses the stages that it did not reach."""
    mine, then = run(tmp_path / "then")
    found = compare_runs(then.leading_to("int8"), then.leading_to("trained"), (mine.root, mine.root))
    assert [stage.likeness for stage in found.stages] == ["exact", "exact", "exact", "missing"]


def git(place: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@t")
    done = subprocess.run(["git", *identity, *arguments], cwd=place, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_code_of_a_commit(tmp_path: Path) -> None:
    """The work area holds the files of the commit; the repository stays as it is."""
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "--quiet")
    commits = []
    for text in ("old", "new"):
        (repository / "code.py").write_text(text)
        git(repository, "add", ".")
        git(repository, "commit", "--quiet", "-m", text)
        commits.append(git(repository, "rev-parse", "HEAD"))
    check_out(repository, commits[0], tmp_path / "area")
    assert (tmp_path / "area" / "code.py").read_text() == "old"
    assert (repository / "code.py").read_text() == "new"
    with pytest.raises(PostmillError, match=r"commit 0123456789ab cannot be checked out .*--here"):
        check_out(repository, "0123456789abcdef", tmp_path / "other")
    with pytest.raises(PostmillError, match="names no commit"):
        check_out(repository, "", tmp_path / "third")


def test_data_is_brought_back_by_its_hash(tmp_path: Path) -> None:
    """A file is taken where its hash is that of the run; one that changed is named, never taken instead."""
    source, area = tmp_path / "source", tmp_path / "area"
    (source / "data").mkdir(parents=True)
    area.mkdir()
    rows = source / "data" / "rows.jsonl"
    rows.write_text("{}\n")
    files = {"train": {"data/rows.jsonl": hash_file(rows)}}
    bring_data(files, source, area)
    assert (area / "data" / "rows.jsonl").read_text() == "{}\n"
    rows.write_text("{1}\n")
    bring_data(files, source, area)  # there already
    (area / "data" / "rows.jsonl").unlink()
    with pytest.raises(DataError, match=r"data file 'data/rows.jsonl' is not what the version was trained on"):
        bring_data(files, source, area)
