"""The model registry: only proven, unchanged versions of our own are promoted or loaded."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import ArtifactError, RegistryServiceError
from components.core.events import AliasMoved, Event, ModelLoaded, ModelRegistered
from components.services.inference import InferenceService
from components.services.model_registry import ModelRegistryService
from tests.flows.conftest import Run

pytestmark = [pytest.mark.flow, pytest.mark.timeout(300)]


@pytest.fixture
def service(first: Run) -> ModelRegistryService:
    return ModelRegistryService(first.workspace)


def put(
    service: ModelRegistryService, run: Run, name: str, alias: str, artifact: Any, tags: dict[str, str] | None = None
) -> tuple[str, bool]:
    """Register an artifact on a run."""
    example = {"input": ["hello"], "output": ["hi"], "system": None}
    return service.register(name, alias, artifact, run.outcome.run_id, tags or {}, example, report="# a report")


def test_references(service: ModelRegistryService) -> None:
    """Name, alias and version lead to the same verified files (F4)."""
    found = [service.resolve(reference) for reference in ("tiny", "tiny@staging", "tiny/1")]
    assert {model.version for model in found} == {"1"}
    assert found[0].artifact.kind == "onnx"
    assert (found[0].path / "genai_config.json").is_file()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("tinny", "no registered model 'tinny'; did you mean 'tiny'"),
        ("tiny@stagging", r"has no alias 'stagging' \(aliases: .*staging"),
        ("tiny/9", r"has no version '9' .*versions: 1"),
        ("tiny/../../x", "has no version"),
        ("", "no registered model ''"),
    ],
)
def test_unknown_references(service: ModelRegistryService, reference: str, message: str) -> None:
    """An unknown model, alias or version is refused with what there is."""
    with pytest.raises(RegistryServiceError, match=message):
        service.resolve(reference)


def test_promote(service: ModelRegistryService, client: Any) -> None:
    """An accepted version gets the alias and the time of its promotion (F4)."""
    service.promote("tiny", "1", "production")
    version = client.get_model_version_by_alias("tiny", "production")
    assert str(version.version) == "1"
    assert version.tags["postmill.promoted.production"].endswith("Z")
    assert str(client.get_model_version_by_alias("tiny", "staging").version) == "1"


def test_promote_needs_an_accepting_verdict(first: Run, service: ModelRegistryService, lab: Any, client: Any) -> None:
    """A version whose evidence does not accept it is not promoted (F5)."""
    version, new = put(service, first, "unproven", "candidate", lab.int4)
    assert new
    with pytest.raises(RegistryServiceError, match="has no accepting verdict"):
        service.promote("unproven", version, "production")
    assert "production" not in client.get_registered_model("unproven").aliases


def test_same_files_are_one_version(first: Run, service: ModelRegistryService, lab: Any) -> None:
    """Registering the same files again moves the alias and makes no version."""
    once = put(service, first, "once", "candidate", lab.int4)
    again = put(service, first, "once", "another", lab.int4)
    assert (once, again) == (("1", True), ("1", False))
    assert service.resolve("once@another").version == "1"


def test_moving_an_alias_is_told(first: Run, service: ModelRegistryService, lab: Any) -> None:
    """An alias that points elsewhere is told with where it pointed before; one that stays is not (B5)."""
    tags, told = {"postmill.accepted": "true"}, list[Event]()
    off = first.workspace.bus.on_any(told.append)
    put(service, first, "moving", "candidate", lab.int4, tags)
    put(service, first, "moving", "candidate", lab.fp32, tags)
    for _ in range(2):
        service.promote("moving", "1", "candidate")
    off()
    registered = [event.version for event in told if isinstance(event, ModelRegistered)]
    moved = [(event.version, event.before) for event in told if isinstance(event, AliasMoved)]
    assert (registered, moved) == (["1", "2"], [("1", ""), ("2", "1"), ("1", "2")])


def test_foreign_model_is_refused(service: ModelRegistryService, client: Any, tmp_path: Path) -> None:
    """A version that somebody else registered may hold pickles, and is not loaded."""
    client.create_registered_model("foreign")
    client.create_model_version("foreign", source=tmp_path.as_uri())
    with pytest.raises(RegistryServiceError, match="was not registered by Postmill; it is not loaded"):
        service.resolve("foreign")


def test_tampered_files_are_refused(first: Run, service: ModelRegistryService, lab: Any) -> None:
    """Files that changed after registration are neither promoted nor loaded (F5)."""
    tags = {"postmill.accepted": "true"}
    put(service, first, "tampered", "candidate", lab.fp32, tags)
    weights = service.resolve("tampered").path / "genai_config.json"
    weights.write_text(weights.read_text() + " ")
    for refused in (lambda: service.promote("tampered", "1", "production"), lambda: service.resolve("tampered")):
        with pytest.raises(ArtifactError, match="are not those that were registered"):
            refused()


def test_missing_files_are_an_error(first: Run, service: ModelRegistryService, lab: Any) -> None:
    """Files that are gone are a message with a remedy."""
    import shutil

    put(service, first, "gone", "candidate", lab.int4)
    shutil.rmtree(service.resolve("gone").path)
    with pytest.raises(ArtifactError, match="is missing; register the model again"):
        service.resolve("gone")


def test_locked_database_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that another process holds is a RegistryServiceError that says what to do (C50)."""
    from components.trackers import mlflow as tracker

    database = tmp_path / "mlruns" / "mlflow.db"
    tracker.connect(tmp_path)
    quick = f"sqlite:///{database}?timeout=0.1"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", quick)
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
    with sqlite3.connect(database) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RegistryServiceError, match="another process holds it: wait for that run to end"):
            tracker.MlflowTracker(tracker.MlflowTracker.Config(root=tmp_path)).start("x", {"a": 1}, {})
        holder.rollback()


def test_answers_through_our_service(first: Run) -> None:
    """The registered model answers in pieces of text, with the system message it was trained with (B18)."""
    service = InferenceService(ModelRegistryService(first.workspace), first.workspace.bus)
    loaded: list[ModelLoaded] = []
    off = first.workspace.bus.on(ModelLoaded, loaded.append)
    pieces = list(service.stream("tiny@staging", "My kettle, order 7: damage.", max_new_tokens=8))
    off()
    assert [(event.subject, event.backend) for event in loaded] == [("tiny@staging", "onnx_genai")]
    assert all(isinstance(piece, str) for piece in pieces)
    assert pieces == list(service.stream("tiny", "My kettle, order 7: damage.", max_new_tokens=8))


def test_answers_through_mlflow(first: Run, service: ModelRegistryService) -> None:
    """The registered model loads as MLflow's pyfunc, without Postmill, and answers with a string (F4)."""
    import mlflow

    model = mlflow.pyfunc.load_model("models:/tiny@staging")
    answers = model.predict(["My kettle, order 7: damage."], params={"max_new_tokens": 4})
    assert len(answers) == 1
    assert isinstance(answers[0], str)
