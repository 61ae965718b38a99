"""The artifact store: content-addressed, atomic, verified, safe for several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.core import artifacts
from components.core.artifacts import MANIFEST, Artifact, Identity, Parent, Store
from components.core.errors import ArtifactError

CHANGES: dict[str, Any] = {
    "stage": "other",
    "config": {"a": 2},
    "parents": {"model": "x"},
    "code": "c2",
    "versions": {"torch": "2"},
}


def identity(**changes: Any) -> Identity:
    """The identity of a small piece of work."""
    plain: dict[str, Any] = {"stage": "train", "config": {"a": 1}, "parents": {}, "code": "c1", "versions": {}}
    return Identity(**(plain | changes))


def writing(text: str = "weights", calls: list[int] | None = None) -> Callable[[Path], dict[str, Any]]:
    """Work that writes two files and counts how often it was done."""

    def make(out: Path) -> dict[str, Any]:
        if calls is not None:
            calls.append(1)
        (out / "deep").mkdir()
        (out / "a.txt").write_text(text)
        (out / "deep" / "b.txt").write_text(text * 2)
        return {"loss": 0.5}

    return make


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


def build(store: Store, make: Any = None, **changes: Any) -> Artifact:
    """Build in the store, without parents."""
    return store.build(identity(**changes), "model", {}, make or writing())


def visible(store: Store) -> list[str]:
    """Names in the store that are neither locks nor notes of what was verified."""
    return sorted(p.name for p in store.root.glob("*/*") if p.suffix not in (".lock", ".verified"))


@pytest.mark.parametrize("part", CHANGES)
def test_key_changes_with_every_part(part: str) -> None:
    """Whatever shapes the output changes the key (F6)."""
    assert identity().key() != identity(**{part: CHANGES[part]}).key()


def test_key_ignores_order_of_keys() -> None:
    """The order of keys in a configuration says nothing, so it does not change the key."""
    assert identity(config={"a": 1, "b": 2}).key() == identity(config={"b": 2, "a": 1}).key()


def test_build_then_find(store: Store) -> None:
    """What was built is found with the same digest, meta and size; the work is done once."""
    calls: list[int] = []
    first = build(store, writing(calls=calls))
    assert build(store, writing(calls=calls)) == first == store.find("train", identity().key())
    assert (calls, first.meta, first.size) == ([1], {"loss": 0.5}, 21)
    assert (first.path / "deep" / "b.txt").read_text() == "weightsweights"


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    """Equal files have equal digests whatever key or store they stand under."""
    one, two = build(Store(tmp_path / "1")), build(Store(tmp_path / "2"), config={"a": 9})
    assert one.digest == two.digest
    assert one.digest != build(Store(tmp_path / "3"), writing("other")).digest


def test_failure_leaves_nothing(store: Store) -> None:
    """If the work fails half way nothing is visible, and the next attempt succeeds (C53)."""

    def broken(out: Path) -> None:
        (out / "half.txt").write_text("half")
        raise RuntimeError("power")

    with pytest.raises(RuntimeError, match="power"):
        build(store, broken)
    assert visible(store) == []
    assert build(store).meta == {"loss": 0.5}


def test_interrupt_leaves_nothing(store: Store) -> None:
    """Ctrl-C in the middle leaves nothing either."""

    def interrupted(out: Path) -> None:
        (out / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(store, interrupted)
    assert visible(store) == []


def damage_bit(place: Path) -> None:
    (place / "a.txt").write_text("weightz")


def remove_file(place: Path) -> None:
    (place / "deep" / "b.txt").unlink()


def add_file(place: Path) -> None:
    (place / "extra.bin").write_text("x")


def cut_manifest(place: Path) -> None:
    text = (place / MANIFEST).read_text()
    (place / MANIFEST).write_text(text[: len(text) // 2])


def empty_manifest(place: Path) -> None:
    (place / MANIFEST).write_text("[]")


def no_manifest(place: Path) -> None:
    (place / MANIFEST).unlink()


@pytest.mark.parametrize("harm", [damage_bit, remove_file, add_file, cut_manifest, empty_manifest, no_manifest])
def test_tampered_is_not_found_and_rebuilt(store: Store, harm: Callable[[Path], None]) -> None:
    """An artifact whose files are not those of its manifest does not exist, and is made again."""
    first = build(store)
    harm(first.path)
    assert store.find("train", first.key) is None
    calls: list[int] = []
    assert build(store, writing(calls=calls)) == first
    assert calls == [1]
    assert (first.path / "a.txt").read_text() == "weights"


def test_manifest_without_keys(store: Store) -> None:
    """A manifest that is JSON but lacks its keys is damage like any other."""
    first = build(store)
    (first.path / MANIFEST).write_text("{}")
    assert store.find("train", first.key) is None


def test_leftover_staging_is_swept(store: Store) -> None:
    """What a killed builder left beside the place is removed by the next builder of that key."""
    key = identity().key()
    leftover = store.root / "train" / f".{key}-killed"
    leftover.mkdir(parents=True)
    (leftover / "half.txt").write_text("half")
    build(store)
    assert visible(store) == [key]


def test_parents_are_recorded(store: Store) -> None:
    """An artifact knows its inputs by role and gets them back, verified."""
    parent = build(store)
    child = store.build(identity(stage="optimize"), "onnx", {"source": parent}, writing("child"))
    assert child.parents == {"source": parent.as_parent()}
    assert store.get(child.parents["source"]) == parent


def test_get_refuses_missing_and_changed(store: Store) -> None:
    """A reference to something gone or changed is an ArtifactError that says what to do."""
    parent = build(store)
    with pytest.raises(ArtifactError, match="is missing or changed; run the recipe again"):
        store.get(Parent(stage="train", key="0" * 32, digest=parent.digest))
    with pytest.raises(ArtifactError, match="missing or changed"):
        store.get(Parent(stage="train", key=parent.key, digest="0" * 64))
    damage_bit(parent.path)
    with pytest.raises(ArtifactError, match="missing or changed"):
        store.get(parent.as_parent())


def test_artifact_survives_json(store: Store) -> None:
    """A reference is plain data: steps hand it on as JSON."""
    artifact = build(store)
    assert Artifact.model_validate_json(artifact.model_dump_json()) == artifact


def test_relative_root_is_fixed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store at a relative path stays where it was when the working directory changes."""
    monkeypatch.chdir(tmp_path)
    store = Store(Path("here"))
    monkeypatch.chdir(os.sep)
    assert build(store).path.is_relative_to(tmp_path)


def _builder(root: str, log: str) -> None:
    import time

    def make(out: Path) -> dict[str, Any]:
        with open(log, "a") as handle:
            handle.write("built\n")
        time.sleep(0.3)
        return writing()(out)

    build(Store(Path(root)), make)


def test_two_processes_build_once(tmp_path: Path) -> None:
    """Two processes that want the same thing do the work once; the second gets what the first made."""
    log = tmp_path / "log"
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_builder, args=(str(tmp_path / "a"), str(log))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert log.read_text() == "built\n"


def test_what_was_read_is_not_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later process trusts what an earlier one read, as long as nothing was touched: gigabytes take no time (A28)."""
    made = build(store)
    monkeypatch.setattr(artifacts, "_seen", {})
    monkeypatch.setattr(artifacts, "hash_directory", lambda _: pytest.fail("read again"))
    assert store.find(made.stage, made.key) == made


def test_a_change_that_hides_is_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other bytes of the same size, with the time set back, are found by a later process all the same (A28)."""
    made = build(store)
    file = next(path for path in sorted(made.path.rglob("*")) if path.is_file() and path.name != MANIFEST)
    times = file.stat()
    file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    monkeypatch.setattr(artifacts, "_seen", {})
    assert store.find(made.stage, made.key) is None


def test_a_store_that_cannot_be_written_to(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a note of what was verified an artifact is verified anew, and found."""
    made = build(store)
    for note in store.root.glob("*/*.verified"):
        note.unlink()
    monkeypatch.setattr(artifacts, "_seen", {})
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(PermissionError("read-only")))
    assert store.find(made.stage, made.key) == made
