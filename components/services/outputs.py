"""What a stage of a DVC pipeline leaves: artifacts at fixed places, which DVC versions, and the store knows too.

    outputs = Outputs(Path("outputs"), workspace.store)
    outputs.write("train", Made({"trained": trained}))       # outputs/train/trained/, hard links out of the store
    outputs.read("train").artifacts["trained"]               # every file verified; back in the store if it was gone

A stage reads its inputs from here alone. DVC may have restored them on a machine whose store is empty, or holds
another result of the same work: what stands here counts, and the store takes it over.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from components.core.artifacts import MANIFEST, Artifact, Parent, Store, commit_directory, hash_directory, write_json
from components.core.errors import ArtifactError

RESULT = "stage.json"
"""Which artifacts a stage made, and what else a later one must know; nothing in it changes without them."""


@dataclass(frozen=True)
class Made:
    """What a stage came to: artifacts by name, in the order in which later stages take them, and facts (plain data)."""

    artifacts: dict[str, Artifact]
    facts: dict[str, Any] = field(default_factory=dict)


class Outputs:
    """The folder of all stages. `optimize@int4`, DVC's name of a stage, is the folder `optimize/int4`."""

    def __init__(self, root: Path, store: Store) -> None:
        self.root, self.store = root, store

    def folder(self, stage: str) -> Path:
        return self.root / stage.replace("@", "/")

    def write(self, stage: str, made: Made, inputs: Mapping[str, Made]) -> None:
        """Put the artifacts of a stage into its folder, with the models below them that its inputs do not hold."""
        folder = self.folder(stage)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        there = {artifact.digest for known in inputs.values() for artifact in known.artifacts.values()}
        below = {f"{a.stage}-{a.key[:12]}": a for a in self._bases(made.artifacts) if a.digest not in there}
        for name, artifact in (made.artifacts | below).items():
            _link_tree(artifact.path, folder / name)
        named = {name: artifact.as_parent().model_dump() for name, artifact in made.artifacts.items()}
        write_json(folder / RESULT, {"artifacts": named, "facts": made.facts})

    def read(self, stage: str) -> Made:
        """What a stage made; an ArtifactError names what is missing or changed, and how to restore it."""
        folder = self.folder(stage)
        if not (folder / RESULT).is_file():
            raise ArtifactError(
                f"'{folder}' is missing: the stage '{stage}' did not run yet, or DVC has its files elsewhere; "
                f"make it: dvc repro {stage}, or fetch it: dvc pull {stage}"
            )
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        found = {manifest.parent.name: self._take_over(manifest.parent) for manifest in folder.glob(f"*/{MANIFEST}")}
        named = {name: Parent.model_validate(plain) for name, plain in result["artifacts"].items()}
        for name, parent in named.items():
            if name not in found or found[name].as_parent() != parent:
                raise _changed(folder / name, MANIFEST)
        return Made({name: found[name] for name in named}, result["facts"])

    def _bases(self, artifacts: Mapping[str, Artifact]) -> Iterator[Artifact]:
        """The models below adapters and later training steps, down to the first one."""
        for artifact in artifacts.values():
            while (parent := artifact.parents.get("model")) is not None:
                artifact = self.store.get(parent)
                yield artifact

    def _take_over(self, folder: Path) -> Artifact:
        """The artifact of a folder, with every file verified, as the store has it then."""
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        present = hash_directory(folder)
        if present != manifest["files"]:
            names = sorted({*present.items()} ^ {*manifest["files"].items()})
            raise _changed(folder, names[0][0])
        known = self.store.find(manifest["stage"], manifest["key"])
        if known is None or known.digest != manifest["digest"]:
            place = self.store.place(manifest["stage"], manifest["key"])
            place.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{place}.lock"):
                shutil.rmtree(place, ignore_errors=True)
                staging = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
                _link_tree(folder, staging)
                commit_directory(staging, place)
            known = self.store.find(manifest["stage"], manifest["key"])
        if known is None:
            raise _changed(folder, MANIFEST)
        return known


def _changed(folder: Path, name: str) -> ArtifactError:
    return ArtifactError(
        f"'{folder / name}' is not what the manifest of its stage says; restore it: dvc checkout --force {folder}"
    )


def _link_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    """One file in two places, for nothing: artifacts are never written to, and digests tell if one is."""
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copy2(source, target)
