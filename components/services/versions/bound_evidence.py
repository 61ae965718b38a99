"""Evidence that travels with a registered version, bound to the exact files that it was measured on.

`evidence.json` lists the digest of every file of the model and of the evidence, and the version carries the digest of
`evidence.json` as a tag: whoever changes a file, swaps the evidence for another version's, or edits a verdict, is
found, and told by the name of the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from components.core.artifacts import Artifact, hash_directory, hash_file, hash_json, write_json
from components.core.errors import ArtifactError, RegistryServiceError
from components.services.evidence import VERDICT
from components.services.judging import Verdict

BINDING = "evidence.json"


class Binding(BaseModel):
    """What the evidence says of itself: which files it was measured on, and what it consists of."""

    model_config = ConfigDict(frozen=True)
    digest: str
    variant: str
    model: dict[str, str]
    """sha256 of every file of the model, by name."""
    evidence: dict[str, str]
    """sha256 of every other file of the evidence, by name."""


def bind(folder: Path, artifact: Artifact, variant: str) -> str:
    """Write `evidence.json` into a folder of evidence; returns its digest."""
    own = hash_directory(folder)
    own.pop(BINDING, None)
    binding = Binding(
        digest=artifact.digest, variant=variant, model=hash_directory(artifact.path), evidence=own
    ).model_dump()
    write_json(folder / BINDING, binding)
    return hash_file(folder / BINDING)


def read_bound(folder: Path, tag: str, what: str) -> Binding:
    """The binding in a folder of evidence, once `tag` is its digest and every file is what it lists."""
    path = folder / BINDING
    if not path.is_file():
        raise ArtifactError(f"{what}: its evidence '{path}' is missing; run the recipe again to register it anew")
    if hash_file(path) != tag:
        raise ArtifactError(f"{what}: '{path}' is not the evidence that was registered with it; {_AGAIN}")
    try:
        binding = Binding.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise ArtifactError(f"{what}: '{path}' cannot be read ({type(error).__name__}); {_AGAIN}") from error
    found = hash_directory(folder)
    found.pop(BINDING)
    refuse_changed(folder, binding.evidence, found, what)
    return binding


def check_verdict(folder: Path, binding: Binding, digest: str, what: str) -> None:
    """The evidence must be of these very files, and its verdict must accept them."""
    if binding.digest != digest:
        raise RegistryServiceError(
            f"{what}: its evidence was measured on other files (digest {binding.digest[:12]}, the version has "
            f"{digest[:12]}); run the recipe again, so that these files are measured"
        )
    path = folder / VERDICT
    verdict = Verdict.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None
    if verdict is None or binding.variant not in verdict.accepted:
        raise RegistryServiceError(
            f"{what} has no accepting verdict; only versions that passed their gate are promoted"
        )


def verify_files(path: Path, digest: str, known: Mapping[str, str], what: str) -> None:
    """An ArtifactError that names the file if the model's files are not those of the digest."""
    found = hash_directory(path)
    if hash_json(found) == digest:
        return
    refuse_changed(path, known, found, what)
    raise ArtifactError(
        f"the files of {what} in '{path}' are not those that were registered (digest {digest[:12]}); {_AGAIN}"
    )


def refuse_changed(place: Path, known: Mapping[str, str], found: Mapping[str, str], what: str) -> None:
    """An ArtifactError that names what was changed, is missing, or was added."""
    changed = [f"'{name}' was changed" for name in known if name in found and found[name] != known[name]]
    missing = [f"'{name}' is missing" for name in known if name not in found]
    added = [f"'{name}' was added" for name in found if known and name not in known]
    if changed or missing or added:
        told = "; ".join([*changed, *missing, *added][:5])
        raise ArtifactError(f"the files of {what} in '{place}' are not those that were registered: {told}; {_AGAIN}")


_AGAIN = "run the recipe again to register the model anew"
