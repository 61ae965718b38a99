"""Recipes that end after training: what is left out is not done, and the run still leaves its evidence."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components.core.events import GateJudged
from components.core.recipe import parse_recipe
from components.trackers.mlflow import connect
from flows.results import read_results, read_training
from tests import tiny
from tests.flows.conftest import Run, run_pipeline

pytestmark = [pytest.mark.flow, pytest.mark.timeout(300)]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}


def plain(root: Path, **changes: Any) -> dict[str, Any]:
    """A new model, trained on plain text; nothing after that."""
    for split, first in (("train", 0), ("eval", 100)):
        lines = (tiny.conversation(number)[1]["content"] for number in range(first, first + 30))
        (root / f"{split}.txt").write_text("\n".join(lines), encoding="utf-8")
    texts = {split: {"type": "text", "path": str(root / f"{split}.txt"), "unit": "line"} for split in ("train", "eval")}
    tokenizer = {"train_on": [str(root / "train.txt")], "vocab_size": 280}
    trainer = {"type": "from_scratch", "max_steps": 6, "batch_size": 2, "max_length": 64, "dtype": "float32"}
    return {
        "name": "scratch",
        "model": {"type": "new", "sizes": SIZES, "tokenizer": tokenizer},
        "data": texts,
        "train": [trainer | {"warmup_steps": 0, "learning_rate": 0.01, "evaluate": {"every": 3, "rows": 4}}],
    } | changes


@pytest.fixture(scope="module")
def only_trained(_mlflow: None, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Run:
    root = tmp_path_factory.mktemp("scratch")
    return run_pipeline(root, plain(root))


def test_ends_after_training(only_trained: Run) -> None:
    """Nothing is measured, judged or registered; the outcome says where the trained model is (B17)."""
    outcome = only_trained.outcome
    assert (outcome.accepted, outcome.chosen, outcome.version) == ([], None, None)
    assert set(outcome.artifacts) == {"base", "trained"}
    assert (Path(outcome.artifacts["trained"]) / "model.safetensors").is_file()
    assert not only_trained.told(GateJudged)


def test_evidence_of_training(only_trained: Run) -> None:
    """The evidence has the curve and the figures of training, and no verdict (B17, E34)."""
    folder = only_trained.root / "reports" / "scratch"
    assert not (folder / "verdict.json").exists()
    board, verdict = read_results(folder)
    assert (board.subjects(), verdict) == ([], None)
    (step,) = read_training(folder)
    assert (step["type"], step["steps"]) == ("from_scratch", 6)
    assert step["losses"][-1] < step["losses"][0]
    assert (folder / "loss.png").is_file()
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert report.startswith("# scratch: trained, nothing to judge\n\n## training\n")


def test_the_tracked_run(only_trained: Run) -> None:
    """The run is tracked with its losses and its curve; it is neither accepted nor rejected."""
    client = connect(only_trained.root)
    run = client.get_run(only_trained.outcome.run_id)
    assert run.info.status == "FINISHED"
    assert "postmill.verdict" not in run.data.tags
    assert len(client.get_metric_history(only_trained.outcome.run_id, "train/loss")) == 6
    files = {Path(file.path).name for file in client.list_artifacts(only_trained.outcome.run_id, "evidence")}
    assert {"loss.png", "training.json", "report.md", "recipe.yaml"} <= files


def test_base_and_trained_are_measured(only_trained: Run) -> None:
    """With benchmarks and without variants base and trained are measured; the trained one predicts better."""
    measured = plain(
        only_trained.root, name="measured", benchmark=[{"type": "perplexity", "rows": 5, "max_length": 64}]
    )
    run = run_pipeline(only_trained.root, measured)
    figures = json.loads((run.root / "reports" / "measured" / "figures.json").read_text())
    assert set(figures) == {"base", "trained"}
    assert figures["trained"]["perplexity"] < figures["base"]["perplexity"] / 2
    assert run.outcome.chosen is None
    report = (run.root / "reports" / "measured" / "report.md").read_text(encoding="utf-8")
    assert "| model | loss | perplexity | bits/byte |\n" in report


@pytest.fixture
def _signals() -> Iterator[None]:
    """The command line changes what SIGTERM does."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("_signals")
def test_command_line(only_trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`postmill run` ends well, with a line a step and the place of the result; `check` says when it would end."""
    from flows.cli import app

    path = tiny.write_recipe(only_trained.root / "r.yaml", only_trained.plain)
    monkeypatch.setenv("POSTMILL_ROOT", str(only_trained.root))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("PREFECT_HOME", str(only_trained.root / ".prefect"))
    done = CliRunner().invoke(app, ["run", str(path)])
    assert done.exit_code == 0, done.output
    assert "scratch: trained" in done.output
    assert "from_scratch" in done.output
    assert Path(only_trained.outcome.artifacts["trained"]).name in done.output
    checked = CliRunner().invoke(app, ["check", str(path)])
    assert checked.exit_code == 0, checked.output
    assert "train     from_scratch (max_steps=6, epochs=3.0, batch_size=2" in checked.output


def test_benchmarks_that_cannot_measure_texts(only_trained: Run) -> None:
    """A benchmark that compares answers is refused on texts, by name, before anything is trained."""
    from components.core.errors import DataError
    from components.services.data import DataService

    answers = plain(only_trained.root, benchmark=[{"type": "perplexity"}, {"type": "exact_match"}])
    recipe, service = parse_recipe(answers), DataService(only_trained.workspace)
    expected = (
        r"benchmark.1 \(exact_match\): .* takes rows of shape conversation or preference or unpaired, .* holds text"
    )
    with pytest.raises(DataError, match=expected):
        service.require(recipe, service.validate(recipe.data))
