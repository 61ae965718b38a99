"""Checkpoints that exist whole or not at all: written beside their place, fsynced, manifest last, renamed.

    folder/step-00000040/    weights, optimizer, schedule, random numbers, and a manifest with the sha256 of each file
    folder/identity.json     what the run is: configuration, data, model, seed, code, libraries

transformers writes in place and resumes from the highest number; a kill while it saves poisons the next start
(transformers#35782). Here a directory without a valid manifest is no checkpoint, one whose bytes changed is refused,
and a folder belongs to one run: another configuration, or a second process, is turned away with the reason.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core.artifacts import MANIFEST, commit_directory, hash_directory, write_json
from components.core.errors import TrainingError
from components.core.machine import free_disk, human_bytes

PREFIX = "step-"
PATTERN = PREFIX + "[0-9]" * 8
STAGING = ".saving-"
IDENTITY = "identity.json"
CHECKPOINTS = "checkpoints"
"""Folder below the root of a workspace, with one folder for each set of inputs."""


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: where it is, after which step, and what was noted with it."""

    path: Path
    step: int
    notes: Mapping[str, Any]

    def intact(self) -> bool:
        """Whether every file still has the digest of the manifest."""
        return bool(hash_directory(self.path) == _manifest(self.path)["files"])


class CheckpointFolder:
    """The checkpoints of one run."""

    def __init__(self, root: Path, identity: Mapping[str, Any], keep_last: int = 2, anew: bool = False) -> None:
        self.root, self.identity, self.keep_last, self.anew = root, dict(identity), keep_last, anew

    @property
    def cache(self) -> Path:
        """For what a run computes before it trains and wants to find again; it goes when another run takes over."""
        return self.root / "cache"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder for this process; a TrainingError if it belongs to another process or another run."""
        from filelock import FileLock, Timeout

        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise TrainingError(
                f"another process is training in '{self.root}'; wait for it, or give this run a folder of its own "
                "(checkpoint.folder)"
            ) from None
        try:
            self._settle()
            yield
        finally:
            lock.release()

    def _settle(self) -> None:
        """Take the folder for this run: sweep what a kill left, and compare identities."""
        self._refuse_other_files()
        for leftover in self.root.glob(f"{STAGING}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if self.anew:
            self.clear()
        known, mine = self.root / IDENTITY, json.loads(json.dumps(self.identity, default=str))
        other = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else None
        if other == mine:
            return
        if other is not None and self.all():
            raise TrainingError(
                f"the checkpoints in '{self.root}' are of another run (at step {self.all()[-1].step}):\n"
                + "\n".join(f"  {line}" for line in differences(other, mine))
                + "\nundo the change to go on with that run, or give this one a folder of its own "
                "(checkpoint.folder), or remove the old one"
            )
        shutil.rmtree(self.cache, ignore_errors=True)
        scratch = self.root / f".{IDENTITY}"
        write_json(scratch, mine)
        scratch.replace(known)

    def _refuse_other_files(self) -> None:
        """Runs tidy up in their folder, so it must hold nothing else when the first of them takes it."""
        ours = (".lock", f".{IDENTITY}")  # what a kill in the first moment leaves
        others = [file.name for file in self.root.iterdir() if file.name not in ours]
        if others and not (self.root / IDENTITY).is_file():
            raise TrainingError(
                f"'{self.root}' holds other things ('{others[0]}'); name a new or an empty folder (checkpoint.folder)"
            )

    def all(self) -> list[Checkpoint]:
        """Committed checkpoints, the oldest first."""
        places = sorted(self.root.glob(PATTERN))
        manifests = {place: _manifest(place) for place in places}
        return [Checkpoint(place, found["step"], found["notes"]) for place, found in manifests.items() if found]

    def latest(self) -> Checkpoint | None:
        """The last checkpoint whose bytes are as they were written; damaged ones are set aside, not trusted."""
        for found in reversed(self.all()):
            if found.intact():
                return found
            found.path.rename(found.path.with_name(f".damaged-{found.path.name}"))
        return None

    def save(self, step: int, write: Callable[[Path], Mapping[str, Any]], best: int | None = None) -> Checkpoint:
        """Commit what `write(directory)` puts there, and remove older ones but `keep_last` and the `best` step.

        `write` returns notes for the manifest. A TrainingError if there is no room; the last one stays as it is.
        """
        target, staging = self.root / f"{PREFIX}{step:08d}", self.root / f"{STAGING}{step:08d}"
        try:
            staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=self.root))
            notes = dict(write(staging))
            content = {"step": step, "notes": notes, "files": hash_directory(staging)}
            write_json(staging / MANIFEST, content)
            shutil.rmtree(target, ignore_errors=True)
            commit_directory(staging, target)
        except Exception as error:
            raise self._refusal(error, step, staging) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        self._prune({step, best})
        return Checkpoint(target, step, notes)

    def _refusal(self, error: Exception, step: int, staging: Path) -> Exception:
        from safetensors import SafetensorError

        if not isinstance(error, OSError | SafetensorError):
            return error
        last = self.all()
        intact = f"the one of step {last[-1].step} is intact" if last else "there is none before it"
        return TrainingError(
            f"the checkpoint of step {step} cannot be written to '{self.root}': {error} "
            f"({human_bytes(free_disk(self.root))} are free); {intact}. Make room, or choose another disk "
            "(checkpoint.folder), and run again to go on"
        )

    def _prune(self, kept: set[int | None]) -> None:
        found = self.all()
        kept |= {checkpoint.step for checkpoint in found[-self.keep_last :]}
        for checkpoint in found:
            if checkpoint.step not in kept:
                # out of sight first: a removal that is interrupted must not leave half a checkpoint
                gone = checkpoint.path.rename(checkpoint.path.with_name(f"{STAGING}{checkpoint.path.name}"))
                shutil.rmtree(gone, ignore_errors=True)

    def clear(self) -> None:
        """Remove every checkpoint, to begin anew."""
        for place in [*self.root.glob(PATTERN), self.cache]:
            shutil.rmtree(place, ignore_errors=True)


def forget(root: Path) -> None:
    """Remove everything that a run kept here, and the folder if nothing else is in it: its result is in the store."""
    if not (root / IDENTITY).is_file():
        return
    for pattern in (PATTERN, f"{STAGING}*", ".damaged-*", "cache"):
        for place in root.glob(pattern):
            shutil.rmtree(place, ignore_errors=True)
    for name in (IDENTITY, ".lock"):
        (root / name).unlink(missing_ok=True)
    if root.is_dir() and not any(root.iterdir()):
        root.rmdir()


def _manifest(place: Path) -> dict[str, Any]:
    try:
        found = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) and found.keys() >= {"step", "notes", "files"} else {}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """`learning_rate: 0.001 -> 0.002`, one line a changed value."""
    old, new = _flat(before), _flat(after)
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}" for key in changed]


def nearest(root: Path, identity: Mapping[str, Any]) -> str:
    """How the run below `root` that is most like this one differs from it, as part of an error; empty if there is none.

    `root`: the folder of all runs' folders.
    """
    mine, found = json.loads(json.dumps(dict(identity), default=str)), list[tuple[list[str], CheckpointFolder]]()
    for known in root.glob(f"*/{IDENTITY}"):
        other = json.loads(known.read_text(encoding="utf-8"))
        folder = CheckpointFolder(known.parent, other)
        if folder.all():
            found.append((differences(other, mine), folder))
    if not found:
        return ""
    changes, folder = min(found, key=lambda pair: len(pair[0]))
    lines = "\n".join(f"  {line}" for line in changes)
    return f"; the nearest is at step {folder.all()[-1].step} in '{folder.root}', of a run with other inputs:\n{lines}"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix.rstrip("."): value}
    return {name: leaf for key, item in value.items() for name, leaf in _flat(item, f"{prefix}{key}.").items()}
