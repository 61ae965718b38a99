"""The content-addressed store: immutable directories, each proven by a manifest written last.

`artifacts/<stage>/<key>/` holds what a stage produced. The key is a hash of everything that shaped it (configuration,
digests of the inputs, code, library versions), so the same work is never done twice, whoever asks. A directory is
built beside its place, fsynced and renamed: a killed run leaves nothing half-written where anyone looks.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from components.core.errors import ArtifactError

MANIFEST = "manifest.json"
REQUIRED = {"kind", "stage", "key", "digest", "files", "parents", "meta"}


class Parent(BaseModel):
    """An input of an artifact: its role, and where in the store it is."""

    model_config = ConfigDict(frozen=True)
    stage: str
    key: str
    digest: str


class Artifact(BaseModel):
    """A verified directory in the store. Steps hand these on, never live objects."""

    model_config = ConfigDict(frozen=True)
    path: Path
    kind: str
    stage: str
    key: str
    digest: str
    parents: dict[str, Parent]
    meta: dict[str, Any]
    size: int

    def read_json(self, name: str) -> Any:
        """Parse one JSON file of the artifact."""
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def as_parent(self) -> Parent:
        return Parent(stage=self.stage, key=self.key, digest=self.digest)


class Identity(BaseModel):
    """What decides a key. Two stages with equal values here have equal output."""

    model_config = ConfigDict(frozen=True)
    stage: str
    config: dict[str, Any]
    parents: dict[str, str]
    code: str
    versions: dict[str, str]

    def key(self) -> str:
        return hash_json(self.model_dump())[:32]


def hash_json(value: Any) -> str:
    """sha256 of canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def hash_directory(root: Path) -> dict[str, str]:
    """sha256 of every file below `root` except the manifest, by relative name, read with several threads."""
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.relative_to(root).as_posix() != MANIFEST)
    with ThreadPoolExecutor(4) as pool:
        return dict(zip([p.relative_to(root).as_posix() for p in files], pool.map(hash_file, files), strict=True))


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON with a stable order of keys as given."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


_seen: dict[Path, str] = {}
"""What directories looked like when they were last read whole and found right."""


class Store:
    """Content-addressed artifacts below one directory. Safe for several processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def place(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    def find(self, stage: str, key: str) -> Artifact | None:
        """The artifact under this key if every file still has the digest of the manifest, else None."""
        place = self.place(stage, key)
        manifest = self._manifest(place)
        if manifest is None or not self._verified(place, manifest["files"]):
            return None
        return self._artifact(place, manifest)

    def get(self, parent: Parent) -> Artifact:
        """The artifact a manifest points to; an ArtifactError if it is gone or changed."""
        found = self.find(parent.stage, parent.key)
        if found is None or found.digest != parent.digest:
            raise ArtifactError(
                f"artifact {parent.stage}/{parent.key} is missing or changed; run the recipe again to rebuild it"
            )
        return found

    def build(
        self,
        identity: Identity,
        kind: str,
        parents: Mapping[str, Artifact],
        make: Callable[[Path], Mapping[str, Any] | None],
    ) -> Artifact:
        """Run `make(directory)` and commit the directory under the identity's key. `make` returns the `meta`."""
        from filelock import FileLock

        target = self.place(identity.stage, identity.key())
        target.parent.mkdir(parents=True, exist_ok=True)
        # one builder per key: a second process waits here and then finds the finished artifact
        with FileLock(f"{target}.lock"):
            found = self.find(identity.stage, identity.key())
            if found is not None:
                return found
            _sweep(target)
            staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
            try:
                meta = dict(make(staging) or {})
                manifest = self._write_manifest(staging, identity, kind, parents, meta)
                commit_directory(staging, target)
                _remember(target, _state(target))
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
        return self._artifact(target, manifest)

    def _write_manifest(
        self, staging: Path, identity: Identity, kind: str, parents: Mapping[str, Artifact], meta: Mapping[str, Any]
    ) -> dict[str, Any]:
        files = hash_directory(staging)
        manifest = {
            "kind": kind,
            "stage": identity.stage,
            "key": identity.key(),
            "digest": hash_json(files),
            "files": files,
            "parents": {role: parent.as_parent().model_dump() for role, parent in parents.items()},
            "identity": identity.model_dump(),
            "meta": meta,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_json(staging / MANIFEST, manifest)
        return manifest

    @staticmethod
    def _verified(place: Path, expected: Mapping[str, str]) -> bool:
        """Whether every file has its digest. A directory that did not change since it was read is not read again, by
        this process or a later one: sizes, inodes and times tell, the time of change too, which nobody can set back."""
        state = _state(place)
        if state not in (_seen.get(place), _remembered(place)):
            if hash_directory(place) != expected:
                return False
            _remember(place, state)
        _seen[place] = state
        return True

    @staticmethod
    def _manifest(place: Path) -> dict[str, Any] | None:
        try:
            manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            return None
        return manifest if isinstance(manifest, dict) and manifest.keys() >= REQUIRED else None

    @staticmethod
    def _artifact(place: Path, manifest: Mapping[str, Any]) -> Artifact:
        known = {name: manifest[name] for name in ("kind", "stage", "key", "digest", "parents", "meta")}
        size = sum((place / name).stat().st_size for name in manifest["files"])
        return Artifact(path=place, size=size, **known)


def _state(place: Path) -> str:
    """Changes whenever a file below `place` is written, replaced, added or taken away."""
    found = [
        (file.relative_to(place).as_posix(), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        for file in sorted(place.rglob("*"))
        for status in [file.stat()]
    ]
    return hash_json(found)


def _memo(place: Path) -> Path:
    return place.with_name(f"{place.name}.verified")


def _remembered(place: Path) -> str | None:
    memo = _memo(place)
    return memo.read_text(encoding="utf-8") if memo.is_file() else None


def _remember(place: Path, state: str) -> None:
    scratch = place.with_name(f".{place.name}.verified-{os.getpid()}")
    with suppress(OSError):  # a store that cannot be written to is verified anew each time
        scratch.write_text(state, encoding="utf-8")
        scratch.replace(_memo(place))


def _sweep(target: Path) -> None:
    """Remove what a killed builder left beside `target`, and `target` itself if it is damaged."""
    for leftover in [*target.parent.glob(f".{target.name}-*"), target]:
        shutil.rmtree(leftover, ignore_errors=True)


def commit_directory(staging: Path, target: Path) -> None:
    """Make the finished directory durable, then visible in one step."""
    for path in [*staging.rglob("*"), staging]:
        _fsync(path)
    staging.chmod(0o755)
    staging.rename(target)
    _fsync(target.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
