"""The whole pipeline: rows to a registered model, with the evidence; again without work; and refused by the gate."""

from __future__ import annotations

import hashlib
import json
import signal
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from components.core.artifacts import hash_json
from components.core.events import (
    AliasMoved,
    BenchmarkStarted,
    CheckpointSaved,
    ComponentMoved,
    GateJudged,
    ModelLoaded,
    ModelRegistered,
    PassFinished,
    PassStarted,
    PluginUnloaded,
    RunFinished,
    RunStarted,
    StageCached,
    StageFailed,
    StageFinished,
    StageSkipped,
    StageStarted,
    TrainingFinished,
    TrainingStarted,
    TrainStep,
)
from components.core.recipe import parse_recipe
from tests import tiny
from tests.flows.conftest import CANARY, Run, run_pipeline

pytestmark = [pytest.mark.flow, pytest.mark.timeout(300)]
EVIDENCE = {
    "report.md",
    "figures.json",
    "skipped.json",
    "verdict.json",
    "rows.jsonl",
    "recipe.yaml",
    "machine.json",
    "data.json",
    "training.json",
    "loss.png",
}


def test_registers_the_accepted_variant(first: Run, client: Any) -> None:
    """The accepted variant is a version with the recipe's alias; the other one is not (F1, F5)."""
    outcome = first.outcome
    assert (outcome.accepted, outcome.chosen, outcome.new_version) == (["int4"], "int4", True)
    assert (outcome.model, outcome.version, outcome.alias) == ("tiny", "1", "staging")
    version = client.get_model_version_by_alias("tiny", "staging")
    assert str(version.version) == "1"
    assert version.run_id == outcome.run_id
    assert version.tags["postmill.accepted"] == "true"
    assert version.tags["postmill.variant"] == "int4"
    assert version.tags["postmill.system"] == tiny.SYSTEM
    assert version.tags["postmill.template"] == hashlib.sha256(tiny.CHAT_TEMPLATE.encode()).hexdigest()


def test_version_leads_to_everything_that_made_it(first: Run, client: Any) -> None:
    """A version records recipe, data, verdict, code and figures (F6)."""
    tags = client.get_model_version_by_alias("tiny", "staging").tags
    for name in ("recipe", "dataset", "verdict", "digest"):
        assert len(tags[f"postmill.{name}"]) == 64, name
    assert tags["git.commit"]
    assert float(tags["metric.bytes"]) > 0
    assert "metric.mean_kl" in tags


def test_plugins_are_recorded(first: Run, client: Any) -> None:
    """The tracked run and the version say which plugins were loaded, with their versions (C52)."""
    version = client.get_model_version_by_alias("tiny", "staging")
    assert version.tags["postmill.plugins"] == "quiet 1.2"
    assert client.get_run(version.run_id).data.tags["postmill.plugins"] == "quiet 1.2"


def test_evidence_is_attached(first: Run, client: Any) -> None:
    """The tracked run carries the report, every figure, every row, the curve of training and the recipe (F4, B17)."""
    files = {Path(file.path).name for file in client.list_artifacts(first.outcome.run_id, "evidence")}
    assert files >= EVIDENCE
    run = client.get_run(first.outcome.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["postmill.verdict"] == "accepted"
    assert run.data.metrics["int4/bytes"] > 0
    assert len(client.get_metric_history(first.outcome.run_id, "train/loss")) == 3


def test_evidence_reads_back(first: Run) -> None:
    """The evidence folder holds the recipe as it was run, per-row results and a page for people."""
    folder = first.root / "reports" / "tiny"
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert parse_recipe(recipe).dump() == parse_recipe(first.plain).dump()
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert {row["subject"] for row in rows} == {"base", "trained", "fp32", "int4"}
    report = (folder / "report.md").read_text()
    assert "accepted, int4" in report
    assert "FAIL (budget): bytes" in report
    assert "\n## training\n" in report
    (step,) = json.loads((folder / "training.json").read_text())
    assert (step["type"], step["steps"], len(step["losses"])) == ("sft", 3, 3)


def test_every_stage_is_told(first: Run) -> None:
    """Each stage begins and ends on the bus, nothing fails, no handler fails (B5, B8)."""
    started, finished = first.told(StageStarted), first.told(StageFinished)
    assert sorted(event.name for event in started) == sorted(event.name for event in finished)
    stages = {"data", "model", "train", "optimize", "benchmark", "reference", "judge"}
    assert {event.stage for event in started} == stages
    assert not first.told(StageFailed)
    assert not first.workspace.bus.failures


def test_the_run_is_told_from_end_to_end(first: Run) -> None:
    """Its begin and end frame the run, and what happens inside the stages is told with its figures (B5)."""
    outcome, digest = first.outcome, hash_json(parse_recipe(first.plain).dump())
    begun, ended = first.told(RunStarted)[0], first.told(RunFinished)[0]
    around = (ComponentMoved, PluginUnloaded)  # sinks and plugins
    told = [event for event in first.events if not isinstance(event, around)]
    assert (told[0], told[-1]) == (begun, ended)
    assert begun.data == {"recipe": "tiny", "run_id": outcome.run_id, "digest": digest, "plugins": ("quiet 1.2",)}
    assert ended.data == {"recipe": "tiny", "run_id": outcome.run_id, "status": "FINISHED", "error": ""}
    assert [event.trainer for event in first.told(TrainingStarted)] == ["sft"]
    assert first.told(TrainingFinished)[0].figures["steps"] == 3
    assert [event.step for event in first.told(CheckpointSaved)] == [3]
    passes = [(event.variant, event.type) for event in first.told(PassStarted)]
    assert passes == [("fp32", "merge_adapter"), ("fp32", "onnx"), ("int4", "onnx")]
    assert all(event.figures["bytes_after"] > 0 for event in first.told(PassFinished))
    assert {event.benchmark for event in first.told(BenchmarkStarted)} == {"exact_match", "agreement", "latency"}
    loaded = first.told(ModelLoaded)
    assert {event.subject for event in loaded} == {"base", "trained", "fp32", "int4"}
    assert {event.backend for event in loaded} == {"torch", "onnx_genai"}
    assert first.told(GateJudged)[0].data == {"accepted": ("int4",), "chosen": "int4"}
    assert first.told(AliasMoved)[0].data == {"model": "tiny", "alias": "staging", "version": "1", "before": ""}


def test_second_run_does_no_work(first: Run, second: Run, client: Any) -> None:
    """The same recipe again trains no step, builds nothing, and makes no new version (A28)."""
    for never in (TrainingStarted, TrainStep, StageStarted, PassStarted, BenchmarkStarted, ModelLoaded, AliasMoved):
        assert second.told(never) == []
    made = [event for event in first.told(StageFinished) if event.stage != "reference"]  # asked for by a benchmark only
    assert len(second.told(StageCached)) == len(made) + 1
    assert [event.new for event in second.told(ModelRegistered)] == [False]
    assert (second.outcome.version, second.outcome.new_version) == ("1", False)
    assert len(client.search_model_versions("name='tiny'")) == 1
    assert second.outcome.run_id != first.outcome.run_id


def test_second_run_has_its_own_evidence(second: Run, client: Any) -> None:
    """A run from the store still records figures and evidence."""
    files = {Path(file.path).name for file in client.list_artifacts(second.outcome.run_id, "evidence")}
    assert files >= EVIDENCE
    assert client.get_run(second.outcome.run_id).data.metrics["int4/bytes"] > 0


def test_gate_refuses(rejected: Run, client: Any) -> None:
    """If no variant passes nothing is registered, and the evidence says why (F5)."""
    outcome = rejected.outcome
    assert (outcome.accepted, outcome.chosen, outcome.version) == ([], None, None)
    assert rejected.told(ModelRegistered) == []
    assert len(client.search_model_versions("name='tiny'")) == 1
    run = client.get_run(outcome.run_id)
    assert run.data.tags["postmill.verdict"] == "rejected"
    verdict = json.loads((rejected.root / "reports" / "strict" / "verdict.json").read_text())
    assert verdict["chosen"] is None
    assert not any(check["passed"] for variant in verdict["variants"] for check in variant["checks"])
    assert {Path(file.path).name for file in client.list_artifacts(outcome.run_id, "evidence")} >= EVIDENCE


@pytest.fixture
def _signals() -> Iterator[None]:
    """The command line changes what SIGTERM does."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def command(root: Path, monkeypatch: pytest.MonkeyPatch, plain: dict[str, Any]) -> Any:
    """`postmill run` in this process."""
    from flows.cli import app

    monkeypatch.setenv("POSTMILL_ROOT", str(root))
    path = tiny.write_recipe(root / "recipes" / f"{plain['name']}.yaml", plain)
    return CliRunner().invoke(app, ["run", str(path)])


@pytest.mark.usefixtures("_signals")
def test_command_line_registers(second: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` ends with code 0, a table, the reasons and what to do next."""
    result = command(second.root, monkeypatch, second.plain)
    assert result.exit_code == 0, result.stderr
    for part in ("unchanged, from the store", "int4 registered already: tiny version 1", "postmill promote tiny 1"):
        assert part in result.stdout
    assert "fp32 rejected" in result.stdout


@pytest.mark.usefixtures("_signals")
def test_command_line_says_no(rejected: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` ends with code 3 if no variant passes, after the reasons (F5)."""
    result = command(rejected.root, monkeypatch, rejected.plain)
    assert result.exit_code == 3
    assert "error: no variant passed the gate; nothing was registered" in result.stderr
    assert "at most 1 B)" in result.stdout


def test_library_says_no_noise(first: Run, capfd: pytest.CaptureFixture[str]) -> None:
    """Another seed trains again, and prints nothing of the libraries underneath to the terminal."""
    plain = first.plain | {"name": "again", "seed": 18, "optimize": {"fp32": first.plain["optimize"]["fp32"]}}
    del plain["register"]
    plain["benchmark"] = [first.plain["benchmark"][1], first.plain["benchmark"][2]]
    run = run_pipeline(first.root, plain)
    assert len(run.told(TrainStep)) == 3
    assert run.outcome.version is None
    assert "{'loss'" not in capfd.readouterr().out


def test_failed_stage_fails_the_run(first: Run, client: Any, tmp_path: Path) -> None:
    """An error in a stage ends the run as failed, with the error on it; nothing of the stage is stored."""
    from components.core.errors import DataError

    plain = json.loads(json.dumps(first.plain)) | {"name": "broken"}
    (tmp_path / "bad.jsonl").write_bytes(b"broken\n")
    plain["data"]["eval"]["path"] = str(tmp_path / "bad.jsonl")
    with pytest.raises(DataError, match="1 of 1 eval rows are bad"):
        run_pipeline(first.root, plain)
    newest = client.search_runs(["1"], order_by=["attributes.start_time DESC"], max_results=1)[0]
    assert (newest.info.run_name, newest.info.status) == ("broken", "FAILED")
    assert newest.data.tags["postmill.error"].startswith("ContractBroken: 1 of 1 eval rows")


def test_no_secret_is_left_anywhere(first: Run, leaky: BaseException) -> None:
    """A secret is in no file, whether the run ended well or its step's error told the secret (C54)."""
    from prefect.settings import PREFECT_HOME

    home = PREFECT_HOME.value()  # not the variable's: Prefect may have been imported before
    files = [file for root in (first.root, home) for file in root.rglob("*") if file.is_file()]
    assert [file for file in files if CANARY.encode() in file.read_bytes()] == []
    assert any(b"env:HF_TOKEN" in file.read_bytes() for file in files)
    said = "".join(traceback.format_exception(leaky))
    assert "PostmillError: ValueError: refused: ***" in said
    assert CANARY not in said
    for root in (first.root / "mlruns", first.root / "logs", home):
        assert any(b"refused: ***" in file.read_bytes() for file in root.rglob("*") if file.is_file()), root


def test_the_journal_has_the_whole_run(first: Run) -> None:
    """The run's journal has one line an event, from the first to the last (B5, B8)."""
    journal = min((first.root / "logs").glob("tiny-*.jsonl"))
    topics = [json.loads(line)["event"] for line in journal.read_text(encoding="utf-8").splitlines()]
    assert topics[0] == "run.started"
    assert "run.finished" in topics
    assert topics.count("stage.finished") == len(first.told(StageFinished))


def test_a_step_that_may_fail_is_skipped(first: Run) -> None:
    """An optional variant and a switched-off benchmark are left out with reasons; the run ends well (C50, C67)."""
    broken = {"type": "merge_adapter", "max_logit_difference": 1.0e-30, "required": False}
    benchmarks = [*first.plain["benchmark"][:1], {"type": "agreement", "enabled": False}, *first.plain["benchmark"][2:]]
    optimize = {"broken": [broken, {"type": "onnx", "precision": "fp32"}], **first.plain["optimize"]}
    plain = first.plain | {"name": "lenient", "optimize": optimize, "benchmark": benchmarks}
    run = run_pipeline(first.root, plain)
    assert run.outcome.chosen == "int4"
    skipped = {f"{event.stage} {event.name}": event.reason for event in run.told(StageSkipped)}
    assert skipped["benchmark agreement"] == "switched off in the recipe (enabled: false)"
    assert "not required: ArtifactError" in skipped["optimize broken/merge_adapter"]
    report = (first.root / "reports" / "lenient" / "report.md").read_text(encoding="utf-8")
    assert all(f"- {step}: " in report for step in skipped)
    assert "broken" not in json.loads((first.root / "reports" / "lenient" / "figures.json").read_text())
