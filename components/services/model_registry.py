"""Registered models: versions with their evidence, aliases that point at them, and files that are what they claim.

    ModelRegistryService(workspace).resolve("triage@production").path     # every file verified

`PromotionService` moves versions through their stages.
"""

from __future__ import annotations

import getpass
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock

from components.core.artifacts import Artifact
from components.core.errors import ArtifactError, RegistryServiceError, did_you_mean
from components.core.events import AliasMoved, ModelRegistered
from components.core.health import Health
from components.core.kinds import registry, service
from components.core.provenance import library_versions
from components.core.recipe import CHAMPION
from components.interfaces import Subject, Tracker
from components.services.versions.bound_evidence import bind, check_verdict, read_bound, verify_files
from components.services.versions.moves import PRODUCTION, STAGE, Ledger, Move, plan, standing, went_further
from components.services.workspace import Workspace
from components.trackers.mlflow import connect, connect_registry, database_file, refusals, tracking_uri

PYFUNC = Path(__file__).with_name("versions") / "pyfunc.py"
FOLDER, EVIDENCE = "model", "evidence"
"""What a version consists of, side by side."""
EVIDENCE_TAG = "postmill.evidence"
"""The tag of a version with the digest of its evidence."""
SERVING_PACKAGES = ("mlflow", "onnxruntime", "onnxruntime-genai", "numpy")


@dataclass(frozen=True)
class RegisteredModel:
    """A version in the registry, its files on this machine, and the system message it is asked with."""

    name: str
    version: str
    path: Path
    tags: Mapping[str, str]
    evidence: Path
    """The folder of its evidence; not there if it was registered without any."""

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


class Registered(NamedTuple):
    """What came of registering: the version, whether it is new, and the alias or stage that it stands at."""

    version: str
    new: bool
    alias: str


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
        return connect_registry(self.workspace.root)

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
        card: str,
        evidence: Path | None = None,
    ) -> Registered:
        """Put an artifact into the registry under `name` and point `alias` at it.

        The same files under the same name are one version, however often they are registered; one that stands in a
        later stage already stays there. `card` becomes the version's description in the UI (Markdown), `evidence` (a
        folder) travels with the version; without it nothing is ever promoted.
        """
        # two runs that end at the same time must not both find that there is no version yet
        with self.changing():
            known = self._version_of(name, artifact.digest, evidence is not None)
            version = known or self._create(name, artifact, run_id, tags, example, evidence)
            self.client.update_model_version(name, version, description=card)
            ledger = Ledger(self.client, name)
            ledger.settle()
            state = ledger.state()
            stays = went_further(state, version, alias)
            move = plan(state, "register", version, alias)
            if not stays and move.changes(state):
                ledger.commit(move.model_copy(update={"by": who(), "why": f"run {run_id}"}))
        self.workspace.bus.emit(ModelRegistered(model=name, version=version, alias=alias, new=not known))
        if not stays:
            self.tell_moved(name, move)
        return Registered(version, not known, state.stages.get(version, alias) if stays else alias)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The right to change the registry: one process of this machine at a time."""
        with FileLock(self.workspace.root / "mlruns" / ".register.lock"), refusals(self.uri):
            yield

    def resolve(self, reference: str) -> RegisteredModel:
        """`triage@staging`, `triage/3` or `triage` (newest version), with every file verified."""
        entry = self.find(reference)
        what = f"{entry.name} version {entry.version}"
        if "postmill.digest" not in entry.tags:
            raise RegistryServiceError(
                f"{what} was not registered by Postmill; it is not loaded, because other flavours may hold pickles"
            )
        path = self._files(entry)
        evidence = path.with_name(EVIDENCE)
        known = read_bound(evidence, entry.tags[EVIDENCE_TAG], what).model if EVIDENCE_TAG in entry.tags else {}
        verify_files(path, entry.tags["postmill.digest"], known, what)
        return RegisteredModel(entry.name, str(entry.version), path, dict(entry.tags), evidence)

    def champion(self, name: str) -> Subject | None:
        """The version in production, to be measured beside a new one; None if none ever was. One that was deleted, or
        whose files changed, is an error: to be promoted without a comparison takes a decision, not an accident."""
        if name not in self.names():
            return None
        with refusals(self.uri):
            ledger = Ledger(self.client, name)
            known = PRODUCTION in ledger.state().aliases or standing(ledger.records(), PRODUCTION)
        return Subject(name=CHAMPION, artifact=self.resolve(f"{name}@{PRODUCTION}").artifact) if known else None

    def require_evidence(self, model: RegisteredModel) -> str:
        """The digest of the evidence that accepts exactly these files; an error if there is none."""
        what = f"{model.name} version {model.version}"
        if EVIDENCE_TAG not in model.tags:
            raise RegistryServiceError(
                f"{what} has no accepting verdict; only versions that passed their gate are promoted"
            )
        binding = read_bound(model.evidence, model.tags[EVIDENCE_TAG], what)
        check_verdict(model.evidence, binding, model.tags["postmill.digest"], what)
        return model.tags[EVIDENCE_TAG]

    def versions(self, tag: str, value: str) -> list[VersionEntry]:
        """Versions of all models with this tag; none where there is no database yet, which asking does not make."""
        if self.uri.startswith("sqlite:///") and not database_file(self.uri).exists():
            return []
        return self._entries(f"tags.`{tag}` = '{value}'")

    def versions_of(self, name: str) -> list[VersionEntry]:
        """Every version of a model, the oldest first."""
        return self._entries(f"name='{name}'")

    def _entries(self, wanted: str) -> list[VersionEntry]:
        with refusals(self.uri):
            found = self.client.search_model_versions(wanted)
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

    def tell_moved(self, name: str, move: Move) -> None:
        """Tell that an alias moved; a run from the store registers the same version again, and nothing moves."""
        if move.before != move.version:
            self.workspace.bus.emit(AliasMoved(model=name, alias=move.to, version=move.version, before=move.before))

    def find(self, reference: str) -> Any:
        """The version in MLflow that a reference means; its files are not looked at."""
        name, _, alias = reference.partition("@")
        name, _, version = name.partition("/")
        with refusals(self.uri):
            self.require_model(name)
            found = {str(v.version): v for v in self.client.search_model_versions(f"name='{name}'")}
            ledger = Ledger(self.client, name)
            aliases = ledger.state().aliases
            stood = standing(ledger.records(), alias) if alias and alias not in aliases else []
        wanted = str(aliases.get(alias, "")) if alias else (version or max(found, key=int, default=""))
        if wanted not in found:
            asked = f"alias '{alias}'" if alias else f"version '{version}'"
            was = f"; it stood at version {stood[-1]}, which " if stood else ""
            gone = was and was + (
                f"is in {found[stood[-1]].tags.get(STAGE)} now"
                if stood[-1] in found
                else "was deleted: promote another"
            )
            raise RegistryServiceError(
                f"model '{name}' has no {asked} (aliases: {', '.join(sorted(aliases)) or 'none'}; "
                f"versions: {', '.join(sorted(found, key=int)) or 'none'}){gone}"
            )
        return found[wanted]

    def evidence_of(self, entry: Any) -> Path:
        """The folder of a version's evidence on this machine."""
        return self._files(entry).with_name(EVIDENCE)

    def names(self) -> list[str]:
        """Every registered model."""
        with refusals(self.uri):
            return sorted(model.name for model in self.client.search_registered_models())

    def require_model(self, name: str) -> None:
        """A RegistryServiceError that tells what there is if no model has this name."""
        names = self.names()
        if name not in names:
            hint = did_you_mean(name, names) or (f" (known: {', '.join(names)})" if names else "; none exists yet")
            raise RegistryServiceError(f"no registered model '{name}'{hint}")

    def _files(self, entry: Any) -> Path:
        with refusals(self.uri):
            place = str(self.client.get_model_version_download_uri(entry.name, entry.version))
            local = url2pathname(urlsplit(place).path) if place.startswith("file:") else self._download(entry)
        path = Path(local) / "artifacts" / FOLDER
        if not path.is_dir():
            raise ArtifactError(f"{entry.name} version {entry.version}: '{path}' is missing; register the model again")
        return path

    def _download(self, entry: Any) -> str:
        import mlflow

        where = f"models:/{entry.name}/{entry.version}"
        return str(mlflow.artifacts.download_artifacts(where, tracking_uri=self.uri))

    def _version_of(self, name: str, digest: str, with_evidence: bool) -> str | None:
        """The version that holds these files, and evidence if the caller brings some."""
        for entry in self.client.search_model_versions(f"name='{name}'"):
            if entry.tags.get("postmill.digest") == digest and (EVIDENCE_TAG in entry.tags or not with_evidence):
                return str(entry.version)
        return None

    def _create(
        self,
        name: str,
        artifact: Artifact,
        run_id: str,
        tags: Mapping[str, str],
        example: Mapping[str, Any],
        evidence: Path | None,
    ) -> str:
        """Log the files as a models-from-code pyfunc (no pickle anywhere) and make a version of it."""
        import mlflow
        from mlflow.models import infer_signature

        connect(self.workspace.root)  # start_run writes where MLflow as a whole is pointed at

        every = {**tags, "postmill.digest": artifact.digest, "postmill.kind": artifact.kind}
        with tempfile.TemporaryDirectory(prefix="postmill-register-") as scratch:
            folders = {FOLDER: Path(scratch) / FOLDER}
            shutil.copytree(artifact.path, folders[FOLDER], ignore=shutil.ignore_patterns("manifest.json"))
            if evidence is not None:
                folders[EVIDENCE] = Path(shutil.copytree(evidence, Path(scratch) / EVIDENCE))
                every[EVIDENCE_TAG] = bind(folders[EVIDENCE], artifact, tags.get("postmill.variant", ""))
            status = self.client.get_run(run_id).info.status  # start_run closes the run, which may go on
            with mlflow.start_run(run_id=run_id):
                info = mlflow.pyfunc.log_model(
                    name=name,
                    python_model=str(PYFUNC),
                    artifacts={role: str(folder) for role, folder in folders.items()},
                    signature=infer_signature(example["input"], example["output"]),
                    # MLflow tries the example at once, which only files that the model's code can open allow
                    input_example=example["input"] if artifact.kind == "onnx" else None,
                    model_config={"system": example.get("system")},
                    pip_requirements=[f"{p}=={v}" for p, v in library_versions(SERVING_PACKAGES).items()],
                )
            self.client.update_run(run_id, status=status)
        try:
            self.client.create_registered_model(name)
        except Exception as error:
            if "RESOURCE_ALREADY_EXISTS" not in str(error) and "already exists" not in str(error):
                raise
        return str(
            self.client.create_model_version(
                name, source=info.model_uri, run_id=run_id, tags=every, model_id=info.model_id
            ).version
        )


def who() -> str:
    """Who is asking, for the record: `USER@HOST`."""
    return f"{getpass.getuser()}@{socket.gethostname()}"
