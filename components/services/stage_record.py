"""What every stage of a run made, by hash: the part of the evidence that a replay is compared with.

`stages.json` holds a line for each artifact that led to a subject of the run, parents before children: its stage, key,
digest, the hash of every file, and what shaped it. It stays readable when the store is long gone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from components.core.artifacts import MANIFEST, Artifact, Store, write_json
from components.core.errors import ArtifactError

STAGES = "stages.json"


class StageRecord(BaseModel):
    """One artifact of a run. `parents`: role -> digest."""

    model_config = ConfigDict(frozen=True)
    stage: str
    key: str
    type: str
    kind: str
    digest: str
    parents: dict[str, str]
    files: dict[str, str]
    code: str
    versions: dict[str, str]

    @property
    def title(self) -> str:
        return f"{self.stage} {self.type}" if self.type else self.stage


class RunRecord(BaseModel):
    """Every stage of a run, and the artifact (by digest) of each of its subjects."""

    model_config = ConfigDict(frozen=True)
    subjects: dict[str, str]
    stages: list[StageRecord]

    def leading_to(self, subject: str) -> list[StageRecord]:
        """The stages that the subject descends from, and its own, parents first."""
        wanted = {self.subjects.get(subject, "")}
        for record in reversed(self.stages):
            if record.digest in wanted:
                wanted |= set(record.parents.values())
        return [record for record in self.stages if record.digest in wanted]


def record_stages(subjects: Mapping[str, Artifact], dataset: Artifact, store: Store) -> RunRecord:
    """The record of these subjects. What is not in the store (a champion from the registry) is left out."""
    found: dict[tuple[str, str], StageRecord] = {}
    for artifact in (dataset, *subjects.values()):
        _collect(store, artifact.stage, artifact.key, found)
    known = {name: artifact.digest for name, artifact in subjects.items() if (artifact.stage, artifact.key) in found}
    return RunRecord(subjects=known, stages=list(found.values()))


def _collect(store: Store, stage: str, key: str, found: dict[tuple[str, str], StageRecord]) -> None:
    path = store.place(stage, key) / MANIFEST
    if (stage, key) in found or not path.is_file():
        return
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for parent in manifest["parents"].values():
        _collect(store, parent["stage"], parent["key"], found)
    found[stage, key] = _record(manifest)


def _record(manifest: Mapping[str, Any]) -> StageRecord:
    identity = manifest.get("identity", {})
    return StageRecord(
        type=str(identity.get("config", {}).get("type", "")),
        parents={role: parent["digest"] for role, parent in manifest["parents"].items()},
        code=identity.get("code", ""),
        versions=identity.get("versions", {}),
        **{name: manifest[name] for name in ("stage", "key", "kind", "digest", "files")},
    )


def write_stages(folder: Path, record: RunRecord) -> None:
    write_json(folder / STAGES, record.model_dump())


def read_stages(folder: Path) -> RunRecord:
    """The record in a folder of evidence; an ArtifactError if it has none."""
    path = folder / STAGES
    if not path.is_file():
        raise ArtifactError(f"'{path}' is missing: this evidence is of a run that kept no record of its stages")
    return RunRecord.model_validate_json(path.read_text(encoding="utf-8"))
