"""Compares a run with its replay, stage by stage: exact, the same within a tolerance, or different, and where first.

    compare_runs(original.leading_to("int8"), replayed.leading_to("int8"), stores)

Files are compared by hash. Where a hash differs and both files are still there, tensors are compared by name: largest
difference, and largest difference relative to the largest value of the tensor.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.core.artifacts import hash_file
from components.core.errors import DataError, PostmillError
from components.services.stage_record import StageRecord

TOLERANCE = 1e-3
"""Relative to the largest value of a tensor: what other kernels of the same arithmetic stay within."""

Likeness = Literal["exact", "within tolerance", "different", "missing"]
_WORSE: Sequence[Likeness] = ("exact", "within tolerance", "different", "missing")


@dataclass(frozen=True)
class StageComparison:
    """One stage of both runs. `notes`: what differs, the first thing first."""

    title: str
    original: str
    replayed: str
    likeness: Likeness
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Replay:
    """The stages in order, and the verdict on all of them."""

    stages: tuple[StageComparison, ...]

    @property
    def likeness(self) -> Likeness:
        return max((stage.likeness for stage in self.stages), key=_WORSE.index, default="missing")

    @property
    def first_difference(self) -> StageComparison | None:
        return next((stage for stage in self.stages if stage.likeness != "exact"), None)


def compare_runs(original: Sequence[StageRecord], replayed: Sequence[StageRecord], stores: tuple[Path, Path]) -> Replay:
    """Stage by stage, in the order in which they were made."""
    pairs = zip(original, [*replayed, *[None] * len(original)], strict=False)
    return Replay(tuple(_compare(mine, again, stores) for mine, again in pairs))


def _compare(mine: StageRecord, again: StageRecord | None, stores: tuple[Path, Path]) -> StageComparison:
    if again is None or (again.stage, again.type) != (mine.stage, mine.type):
        found = again.title if again else "nothing"
        return StageComparison(mine.title, mine.digest, "", "missing", (f"the replay has {found} in its place",))
    likeness: Likeness = "exact"
    notes: list[str] = []
    for name in sorted(mine.files.keys() | again.files.keys()):
        if mine.files.get(name) != again.files.get(name):
            then, now = stores[0] / mine.stage / mine.key / name, stores[1] / again.stage / again.key / name
            found_likeness, note = _compare_file(name, then, now)
            likeness = max(likeness, found_likeness, key=_WORSE.index)
            notes.append(note)
    if notes:
        notes += _shaped(mine, again)
    return StageComparison(mine.title, mine.digest, again.digest, likeness, tuple(notes))


def _shaped(mine: StageRecord, again: StageRecord) -> list[str]:
    """What shaped the two stages differently."""
    libraries = sorted(mine.versions.keys() | again.versions.keys())
    notes = [
        f"{name}: {mine.versions.get(name, 'absent')} then, {again.versions.get(name, 'absent')} now"
        for name in libraries
        if mine.versions.get(name) != again.versions.get(name)
    ]
    return notes + ([f"code: {mine.code} then, {again.code} now"] if mine.code != again.code else [])


def _compare_file(name: str, mine: Path, again: Path) -> tuple[Likeness, str]:
    if not again.is_file():
        return "different", f"{name}: not made again"
    if not mine.is_file():
        return "different", f"{name}: another hash; the original is gone from the store, so its tensors are unknown"
    if not name.endswith(".safetensors"):
        return "different", f"{name}: another hash"
    from safetensors.torch import load_file

    return _compare_tensors(name, load_file(mine), load_file(again))


def _compare_tensors(name: str, mine: Mapping[str, Any], again: Mapping[str, Any]) -> tuple[Likeness, str]:
    if mine.keys() != again.keys():
        odd = sorted(mine.keys() ^ again.keys())[0]
        return "different", f"{name}: tensor '{odd}' is in one of the two only"
    worst, where = 0.0, ""
    for key in mine:
        if mine[key].shape != again[key].shape:
            return "different", f"{name}: '{key}' has shape {list(mine[key].shape)} then, {list(again[key].shape)} now"
        apart = _apart(mine[key], again[key])
        worst, where = max((worst, where), (apart, key))
    likeness: Likeness = "within tolerance" if worst <= TOLERANCE else "different"
    return likeness, f"{name}: '{where}' differs by up to {worst:.2g} of its largest value"


def _apart(mine: Any, again: Any) -> float:
    """Largest difference, relative to the largest value; NaN in one of the two counts as infinite."""
    import torch

    mine, again = mine.to(torch.float32), again.to(torch.float32)
    if not bool(torch.equal(torch.isnan(mine), torch.isnan(again))):
        return float("inf")
    difference = torch.nan_to_num((mine - again).abs()).max().item() if mine.numel() else 0.0
    largest = torch.nan_to_num(mine.abs()).max().item() if mine.numel() else 0.0
    return difference / largest if largest else float(difference > 0)


# ---------------------------------------------------------------- code and data as they were


def check_out(repository: Path, commit: str, target: Path) -> None:
    """The code of a commit in a directory of its own, without touching the repository it is taken from."""
    if not commit:
        raise PostmillError("the version names no commit: it was made outside of a git repository; replay with --here")
    for arguments in (
        ("clone", "--quiet", "--no-checkout", str(repository), str(target)),
        ("-C", str(target), "checkout", "--quiet", "--detach", commit),
    ):
        done = subprocess.run(["git", *arguments], capture_output=True, text=True)
        if done.returncode:
            raise PostmillError(
                f"commit {commit[:12]} cannot be checked out from '{repository}': {done.stderr.strip()[-300:]}; "
                "fetch it (git fetch), or replay with the present code: --here"
            )


def bring_data(files: Mapping[str, Mapping[str, str]], source: Path, target: Path) -> None:
    """Put the data files with the digests of the run below `target`: those there already, of DVC, or of `source`.

    `files`: split -> name -> sha256.
    """
    wanted = {name: digest for names in files.values() for name, digest in names.items()}
    lacking = {name: digest for name, digest in wanted.items() if not _is(target / name, digest)}
    for name, digest in lacking.items():
        if Path(name).is_absolute():
            if not _is(Path(name), digest):
                raise DataError(_changed(name, digest))
        elif _is(source / name, digest):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((source / name).read_bytes())
        else:
            _pull(name, digest, target)


def _pull(name: str, digest: str, target: Path) -> None:
    """Ask DVC for the file that its pointers of that commit name."""
    if (target / ".dvc").is_dir():
        # whatever it says: what counts is whether the file is there afterwards
        subprocess.run(
            [sys.executable, "-m", "dvc", "pull", "--quiet", "--allow-missing"], cwd=target, capture_output=True
        )
    if not _is(target / name, digest):
        raise DataError(_changed(name, digest))


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and hash_file(path) == digest


def _changed(name: str, digest: str) -> str:
    return (
        f"data file '{name}' is not what the version was trained on (sha256 {digest[:12]}), and DVC has no such file; "
        "bring the file of that time back, for example: dvc pull, or restore it from a backup"
    )
