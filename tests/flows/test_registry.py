"""The model registry: only proven, unchanged versions of our own are promoted or loaded."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import ArtifactError, DataError, RegistryServiceError
from components.core.events import AliasMoved, Event, ModelLoaded, ModelRegistered
from components.services.comparison import ComparisonService
from components.services.inference import InferenceService
from components.services.model_registry import EVIDENCE_TAG, ModelRegistryService, Registered
from components.services.promotion import PromotionService
from components.trackers.mlflow import connect
from tests.flows.conftest import Run

pytestmark = [pytest.mark.flow, pytest.mark.timeout(300)]


@pytest.fixture
def service(first: Run) -> ModelRegistryService:
    return ModelRegistryService(first.workspace)


@pytest.fixture
def promotion(service: ModelRegistryService) -> PromotionService:
    return PromotionService(service)


def put(
    service: ModelRegistryService, run: Run, name: str, alias: str, artifact: Any, evidence: Path | None = None
) -> Registered:
    """Register an artifact on a run; with evidence, as its variant `int4`, which the run accepted."""
    example = {"input": ["hello"], "output": ["hi"], "system": None}
    tags = {"postmill.variant": "int4"}
    return service.register(name, alias, artifact, run.outcome.run_id, tags, example, "# a card", evidence)


@pytest.fixture
def evidence(first: Run) -> Path:
    """The folder of evidence of the first run, which accepts int4 and rejects fp32."""
    return first.root / "reports" / str(first.plain["name"])


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


def test_promote(
    first: Run, service: ModelRegistryService, promotion: PromotionService, client: Any, lab: Any, evidence: Path
) -> None:
    """An accepted version moves to the stage, and the record says who, why and on what evidence (F4, F5)."""
    put(service, first, "moved", "staging", lab.int4, evidence)
    move = promotion.promote("moved", "1", "production", by="ann", why="first")
    version = client.get_model_version_by_alias("moved", "production")
    assert (str(version.version), version.tags["stage"]) == ("1", "production")
    assert str(client.get_model_version_by_alias("moved", "champion").version) == "1"
    told = [(m.action, m.to, m.version, m.done) for m in promotion.history("moved")]
    assert told == [("register", "staging", "1", True), ("promote", "production", "1", True)]
    last = promotion.history("moved")[-1]
    assert (last.by, last.why, last.evidence) == ("ann", "first", version.tags["postmill.evidence"])
    assert move == last
    assert last.at.endswith("Z")


def test_registering_again_leaves_a_promoted_version_where_it_stands(
    first: Run, service: ModelRegistryService, promotion: PromotionService, lab: Any, evidence: Path
) -> None:
    """A run that ends with the same files does not bring a version in production back to staging (F4)."""
    put(service, first, "stays", "staging", lab.int4, evidence)
    promotion.promote("stays", "1", "production")
    again = put(service, first, "stays", "staging", lab.int4, evidence)
    assert again == Registered("1", False, "production")
    assert promotion.versions("stays")[0].aliases == ("champion", "production")


def test_rollback(
    first: Run, service: ModelRegistryService, promotion: PromotionService, lab: Any, evidence: Path
) -> None:
    """One call brings the version before back, and a second one has nothing to go back to (C53)."""
    put(service, first, "back", "staging", lab.int4, evidence)
    put(service, first, "back", "staging", lab.fp32, evidence)
    with pytest.raises(RegistryServiceError, match="back@production cannot be rolled back: nothing was ever promoted"):
        promotion.rollback("back")
    promotion.promote("back", "1", "production")
    promotion.promote("back", "2", "production")
    move = promotion.rollback("back", why="slow")
    assert (move.action, move.version, move.before) == ("rollback", "1", "2")
    assert [(v.version, v.aliases) for v in promotion.versions("back")] == [
        ("1", ("champion", "production")),
        ("2", ("archived",)),
    ]
    with pytest.raises(RegistryServiceError, match="no version before 1 is left"):
        promotion.rollback("back")


def test_a_deleted_champion_is_told_and_rolled_back_from(
    first: Run, service: ModelRegistryService, promotion: PromotionService, lab: Any, client: Any, evidence: Path
) -> None:
    """A version in production that somebody deleted is named, and a rollback finds the one before it (C53)."""
    for artifact in (lab.int4, lab.fp32):
        promotion.promote("lost", put(service, first, "lost", "staging", artifact, evidence).version, "production")
    client.delete_model_version("lost", "2")
    with pytest.raises(RegistryServiceError, match="it stood at version 2, which was deleted: promote another"):
        service.resolve("lost@production")
    promotion.rollback("lost")
    assert service.resolve("lost@production").version == "1"


def test_promote_needs_an_accepting_verdict(
    first: Run, service: ModelRegistryService, promotion: PromotionService, lab: Any, client: Any
) -> None:
    """A version without evidence, or whose verdict rejects it, is not promoted (F5)."""
    assert put(service, first, "unproven", "candidate", lab.int4).new
    with pytest.raises(RegistryServiceError, match="has no accepting verdict"):
        promotion.promote("unproven", "1", "production")
    assert "production" not in client.get_registered_model("unproven").aliases


def test_a_rejecting_verdict_is_no_ground(
    first: Run, service: ModelRegistryService, promotion: PromotionService, lab: Any, evidence: Path
) -> None:
    """Evidence that rejects the variant promotes nothing, whatever the tags say (F5)."""
    example = {"input": ["a"], "output": ["b"], "system": None}
    tags = {"postmill.variant": "fp32", "postmill.accepted": "true"}
    service.register("refused", "candidate", lab.fp32, first.outcome.run_id, tags, example, "", evidence)
    with pytest.raises(RegistryServiceError, match="refused version 1 has no accepting verdict"):
        promotion.promote("refused", "1", "production")


def test_evidence_of_other_files_is_refused(
    first: Run, service: ModelRegistryService, promotion: PromotionService, lab: Any, client: Any, evidence: Path
) -> None:
    """Evidence that was measured on other files is found, and named by both digests (F5)."""
    put(service, first, "swapped", "candidate", lab.int4, evidence)
    put(service, first, "swapped", "candidate", lab.fp32, evidence)
    mine, other = service.resolve("swapped/1"), service.resolve("swapped/2")
    shutil.rmtree(other.evidence)
    shutil.copytree(mine.evidence, other.evidence)
    with pytest.raises(ArtifactError, match="is not the evidence that was registered with it"):
        promotion.promote("swapped", "2", "production")
    client.set_model_version_tag("swapped", "2", EVIDENCE_TAG, mine.tags[EVIDENCE_TAG])
    with pytest.raises((ArtifactError, RegistryServiceError), match="other files|not those that were registered"):
        promotion.promote("swapped", "2", "production")


def test_what_is_in_production_is_not_archived(
    first: Run, service: ModelRegistryService, promotion: PromotionService, lab: Any, evidence: Path
) -> None:
    """Archiving the version in production would leave nobody there, and is refused with the way to do it (F4)."""
    put(service, first, "kept", "staging", lab.int4, evidence)
    promotion.promote("kept", "1", "production")
    with pytest.raises(RegistryServiceError, match="is in production; promote another version or roll back"):
        promotion.promote("kept", "1", "archived")


@pytest.mark.parametrize("alias", ["latest", "v3", "a b", "", "é"])
def test_an_alias_that_cannot_be_is_refused(promotion: PromotionService, alias: str) -> None:
    """An alias that the registry does not take is refused before anything is looked at (F4)."""
    with pytest.raises(RegistryServiceError, match="cannot be an alias: write letters"):
        promotion.promote("tiny", "1", alias)


def test_same_files_are_one_version(first: Run, service: ModelRegistryService, lab: Any) -> None:
    """Registering the same files again moves the alias and makes no version."""
    once = put(service, first, "once", "candidate", lab.int4)
    again = put(service, first, "once", "another", lab.int4)
    assert (once, again) == (("1", True, "candidate"), ("1", False, "another"))
    assert service.resolve("once@another").version == "1"


def test_moving_an_alias_is_told(
    first: Run, service: ModelRegistryService, promotion: PromotionService, lab: Any, evidence: Path
) -> None:
    """An alias that points elsewhere is told with where it pointed before; one that stays is not (B5)."""
    told = list[Event]()
    off = first.workspace.bus.on_any(told.append)
    put(service, first, "moving", "candidate", lab.int4, evidence)
    put(service, first, "moving", "candidate", lab.fp32, evidence)
    for _ in range(2):
        promotion.promote("moving", "1", "candidate")
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


def test_tampered_files_are_refused(
    first: Run, service: ModelRegistryService, promotion: PromotionService, lab: Any, evidence: Path
) -> None:
    """Files that changed after registration are neither promoted nor loaded, and are named (F5)."""
    put(service, first, "tampered", "candidate", lab.fp32, evidence)
    folder = service.resolve("tampered").path
    (folder / "genai_config.json").write_text((folder / "genai_config.json").read_text() + " ")
    (folder / "extra.bin").write_bytes(b"x")
    for refused in (lambda: promotion.promote("tampered", "1", "production"), lambda: service.resolve("tampered")):
        with pytest.raises(ArtifactError, match=r"'genai_config.json' was changed; 'extra.bin' was added"):
            refused()


def test_tampered_evidence_is_refused(
    first: Run, service: ModelRegistryService, promotion: PromotionService, lab: Any, evidence: Path
) -> None:
    """A verdict that somebody edited is found, and named (F5)."""
    put(service, first, "edited", "candidate", lab.fp32, evidence)
    verdict = service.resolve("edited").evidence / "verdict.json"
    verdict.write_text(verdict.read_text().replace("false", "true"))
    with pytest.raises(ArtifactError, match=r"'verdict.json' was changed"):
        promotion.promote("edited", "1", "production")


def test_the_card_says_what_it_is(client: Any) -> None:
    """The version's description is a model card: base, data, limits, origin, evidence (F4)."""
    card = client.get_model_version("tiny", "1").description
    for said in ("# tiny", "- base model:", "## Data", "## Limits", "## Origin", "- tokenizer: `", "## Evidence"):
        assert said in card


def test_two_models_side_by_side(service: ModelRegistryService, evidence: Path) -> None:
    """A version and a variant of a run are compared on the rows that both answered (C66)."""
    found = ComparisonService(service).compare("tiny@staging", f"{evidence}:fp32")
    assert (found.first.title, found.first.variant, found.second.variant) == ("tiny/1", "int4", "fp32")
    assert found.same_data
    assert not found.recipe
    assert {pair.metric for pair in found.paired} >= {"exact_match"}
    assert all(pair.low <= pair.difference <= pair.high for pair in found.paired)
    json.dumps(found.plain())


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        ("nothing@staging", RegistryServiceError, "no registered model 'nothing'"),
        ("EVIDENCE:int9", DataError, "has no figures of 'int9'"),
        ("ROOT", DataError, "figures.json' is missing; name a folder of evidence"),
    ],
)
def test_what_cannot_be_compared(
    first: Run, service: ModelRegistryService, evidence: Path, reference: str, error: type[Exception], message: str
) -> None:
    """A side that is not there is named (C66)."""
    reference = reference.replace("EVIDENCE", str(evidence)).replace("ROOT", str(first.root))
    with pytest.raises(error, match=message):
        ComparisonService(service).compare("tiny@staging", reference)


def test_registering_leaves_the_run_as_it_was(first: Run, service: ModelRegistryService, client: Any, lab: Any) -> None:
    """A version of a run that is over does not open it again; the run's own registration did not close it (C61)."""
    put(service, first, "late", "candidate", lab.fp32)
    assert client.get_run(first.outcome.run_id).info.status == "FINISHED"


def test_missing_files_are_an_error(first: Run, service: ModelRegistryService, lab: Any) -> None:
    """Files that are gone are a message with a remedy."""
    put(service, first, "gone", "candidate", lab.int4)
    shutil.rmtree(service.resolve("gone").path)
    with pytest.raises(ArtifactError, match="is missing; register the model again"):
        service.resolve("gone")


@pytest.mark.slow  # MLflow tries for twenty seconds
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

    connect(first.root)
    model = mlflow.pyfunc.load_model("models:/tiny@staging")
    answers = model.predict(["My kettle, order 7: damage."], params={"max_new_tokens": 4})
    assert len(answers) == 1
    assert isinstance(answers[0], str)
