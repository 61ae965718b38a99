"""Registered models: versions with their evidence, aliases that point at them, and files that are what they claim.

`ModelRegistryService(workspace).promote("triage", "3", "production")` moves an alias; nothing is promoted whose
evidence does not say "accepted" or whose files changed since registration.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from components.core.artifacts import Artifact, hash_directory, hash_json
from components.core.errors import ArtifactError, RegistryServiceError, did_you_mean
from components.core.events import AliasMoved, ModelRegistered
from components.core.health import Health
from components.core.kinds import registry, service
from components.core.provenance import library_versions
from components.interfaces import Tracker
from components.services.workspace import Workspace
from components.trackers.mlflow import connect, refusals, tracking_uri

PYFUNC = Path(__file__).with_name("_registered_model.py")
FOLDER = "model"
SERVING_PACKAGES = ("mlflow", "onnxruntime", "onnxruntime-genai", "numpy")


@dataclass(frozen=True)
class RegisteredModel:
    """A version in the registry, its files on this machine, and the system message it is asked with."""

    name: str
    version: str
    path: Path
    tags: Mapping[str, str]

    @property
    def artifact(self) -> Artifact:
        """The files as an artifact that a backend can open."""
        size = sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())
        return Artifact(
            path=self.path,
            kind=self.tags["postmill.kind"],
            stage="registry",
            key=f"{self.name}-{self.version}",
            digest=self.tags["postmill.digest"],
            parents={},
            meta={},
            size=size,
        )


@dataclass(frozen=True)
class VersionEntry:
    """A version as the registry lists it; its files are not looked at."""

    name: str
    version: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]


@service("registry")
class ModelRegistryService:
    """The MLflow model registry, with the rules of Postmill on top."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.uri = tracking_uri(workspace.root)

    @cached_property
    def client(self) -> Any:
        """MLflow's client; the database is created on first use."""
        return connect(self.workspace.root)

    def health(self) -> Health:
        """Whether the registry's database answers; a database that does not exist yet is fine."""
        tracker: Tracker = registry.create("tracker", "mlflow", root=self.workspace.root)
        return tracker.health()

    def register(
        self,
        name: str,
        alias: str,
        artifact: Artifact,
        run_id: str,
        tags: Mapping[str, str],
        example: Mapping[str, Any],
        report: str,
    ) -> tuple[str, bool]:
        """Put an artifact into the registry under `name` and point `alias` at it; (version, whether it is new).

        The same files under the same name are one version, however often they are registered. `report` becomes the
        version's description in the UI (Markdown).
        """
        # two runs that end at the same time must not both find that there is no version yet
        with FileLock(self.workspace.root / "mlruns" / ".register.lock"), refusals(self.uri):
            known = self._version_of(name, artifact.digest)
            version = known or self._create(name, artifact, run_id, tags, example)
            self.client.update_model_version(name, version, description=report)
            before = self._point(name, alias, version)
        self.workspace.bus.emit(ModelRegistered(model=name, version=version, alias=alias, new=not known))
        self._tell_moved(name, alias, version, before)
        return version, not known

    def promote(self, name: str, version: str, alias: str) -> RegisteredModel:
        """Point `alias` at a version after checking its evidence and its files."""
        model = self.resolve(f"{name}/{version}")
        if model.tags.get("postmill.accepted") != "true":
            raise RegistryServiceError(
                f"{name} version {version} has no accepting verdict; only versions that passed their gate are promoted"
            )
        with refusals(self.uri):
            before = self._point(name, alias, version)
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            self.client.set_model_version_tag(name, version, f"postmill.promoted.{alias}", stamp)
        self._tell_moved(name, alias, version, before)
        return model

    def resolve(self, reference: str) -> RegisteredModel:
        """`triage@staging`, `triage/3` or `triage` (newest version), with every file verified."""
        entry = self._find(reference)
        if "postmill.digest" not in entry.tags:
            raise RegistryServiceError(
                f"{entry.name} version {entry.version} was not registered by Postmill; it is not loaded, because "
                "other flavours may hold pickles"
            )
        path = self._files(entry)
        if hash_json(hash_directory(path)) != entry.tags["postmill.digest"]:
            raise ArtifactError(
                f"the files of {entry.name} version {entry.version} in '{path}' are not those that were registered "
                f"(digest {entry.tags['postmill.digest'][:12]}); register the model again"
            )
        return RegisteredModel(entry.name, str(entry.version), path, dict(entry.tags))

    def versions(self, tag: str, value: str) -> list[VersionEntry]:
        """Versions of all models with this tag; none where there is no database yet, which asking does not make."""
        if (
            self.uri.startswith("sqlite:///")
            and not Path(self.uri.removeprefix("sqlite:///").partition("?")[0]).exists()
        ):
            return []
        with refusals(self.uri):
            found = self.client.search_model_versions(f"tags.`{tag}` = '{value}'")
            # a version that is found this way does not know its aliases
            aliases = {entry.name: self.client.get_registered_model(entry.name).aliases for entry in found}
        return [
            VersionEntry(
                entry.name,
                str(entry.version),
                tuple(sorted(a for a, version in aliases[entry.name].items() if str(version) == str(entry.version))),
                dict(entry.tags),
            )
            for entry in sorted(found, key=lambda entry: (entry.name, int(entry.version)))
        ]

    def _point(self, name: str, alias: str, version: str) -> str:
        """Point `alias` at a version; returns the version it pointed at before, empty if the alias is new."""
        before = str(self.client.get_registered_model(name).aliases.get(alias, ""))
        self.client.set_registered_model_alias(name, alias, version)
        self.client.set_model_version_tag(name, version, "postmill.stage", alias)
        return before

    def _tell_moved(self, name: str, alias: str, version: str, before: str) -> None:
        # a run from the store registers the same version again: its alias stays where it is
        if before != version:
            self.workspace.bus.emit(AliasMoved(model=name, alias=alias, version=version, before=before))

    def _find(self, reference: str) -> Any:
        name, _, alias = reference.partition("@")
        name, _, version = name.partition("/")
        with refusals(self.uri):
            names = [model.name for model in self.client.search_registered_models()]
            if name not in names:
                hint = did_you_mean(name, names) or (f" (known: {', '.join(names)})" if names else "; none exists yet")
                raise RegistryServiceError(f"no registered model '{name}'{hint}")
            found = {str(v.version): v for v in self.client.search_model_versions(f"name='{name}'")}
            aliases = self.client.get_registered_model(name).aliases
        wanted = str(aliases.get(alias, "")) if alias else (version or max(found, key=int, default=""))
        if wanted not in found:
            asked = f"alias '{alias}'" if alias else f"version '{version}'"
            raise RegistryServiceError(
                f"model '{name}' has no {asked} (aliases: {', '.join(sorted(aliases)) or 'none'}; "
                f"versions: {', '.join(sorted(found, key=int)) or 'none'})"
            )
        return found[wanted]

    def _files(self, entry: Any) -> Path:
        import mlflow

        with refusals(self.uri):
            local = mlflow.artifacts.download_artifacts(f"models:/{entry.name}/{entry.version}", tracking_uri=self.uri)
        path = Path(local) / "artifacts" / FOLDER
        if not path.is_dir():
            raise ArtifactError(f"{entry.name} version {entry.version}: '{path}' is missing; register the model again")
        return path

    def _version_of(self, name: str, digest: str) -> str | None:
        for entry in self.client.search_model_versions(f"name='{name}'"):
            if entry.tags.get("postmill.digest") == digest:
                return str(entry.version)
        return None

    def _create(
        self, name: str, artifact: Artifact, run_id: str, tags: Mapping[str, str], example: Mapping[str, Any]
    ) -> str:
        """Log the files as a models-from-code pyfunc (no pickle anywhere) and make a version of it."""
        import mlflow
        from mlflow.models import infer_signature

        with tempfile.TemporaryDirectory(prefix="postmill-register-") as scratch:
            folder = Path(scratch) / FOLDER
            shutil.copytree(artifact.path, folder, ignore=shutil.ignore_patterns("manifest.json"))
            with mlflow.start_run(run_id=run_id):
                info = mlflow.pyfunc.log_model(
                    name=name,
                    python_model=str(PYFUNC),
                    artifacts={FOLDER: str(folder)},
                    signature=infer_signature(example["input"], example["output"]),
                    input_example=example["input"],
                    model_config={"system": example.get("system")},
                    pip_requirements=[f"{p}=={v}" for p, v in library_versions(SERVING_PACKAGES).items()],
                )
            # start_run closed the run; it goes on until the pipeline ends
            self.client.update_run(run_id, status="RUNNING")
        try:
            self.client.create_registered_model(name)
        except Exception as error:
            if "RESOURCE_ALREADY_EXISTS" not in str(error) and "already exists" not in str(error):
                raise
        every = {**tags, "postmill.digest": artifact.digest, "postmill.kind": artifact.kind}
        return str(
            self.client.create_model_version(
                name, source=info.model_uri, run_id=run_id, tags=every, model_id=info.model_id
            ).version
        )
