"""What the evidence of a run says about training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.core.artifacts import Artifact, Identity, Store
from components.core.events import EvidenceWritten
from components.core.recipe import parse_recipe
from components.services.evidence import training_chain, write_training
from components.services.tracking import RunTracking
from components.services.workspace import Workspace
from components.trackers.mlflow import connect
from tests import tiny

META: dict[str, Any] = {
    "losses": [2.0, 1.0, 0.5],
    "grad_norms": [0.3, 0.2, 0.1],
    "learning_rates": [1e-3, 5e-4, 0.0],
    "evaluations": [{"step": 1, "loss": 2.5}, {"step": 3, "loss": 0.91}],
    "best_step": 3,
    "resumed_from": [1],
    "adapted": [{"step": 2, "reason": "memory ran out", "action": "2 times 4 rows"}],
    "guards": ["loss spike at step 2"],
    "samples": [
        {"step": 1, "prompt": "early", "answer": "noise"},
        {"step": 3, "prompt": "a\n| question", "answer": "# one\n\ntwo\nthree\nfour"},
    ],
    "speed": {
        "choice": {"threads": 2, "micro_batch": 4, "compile": False, "attention": None},
        "tried": [],
    },
    "determinism": "bit-exact",
    "tokens": 12345,
    "tokens_per_s": 2140.4,
    "final_loss": 0.5,
    "steps": 3,
    "peak_rss": 1_600_000_000,
    "utilisation": 0.314,
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


def made(store: Store, stage: str, kind: str, parents: dict[str, Artifact], meta: dict[str, Any]) -> Artifact:
    """One artifact of the store."""
    digests = {role: parent.digest for role, parent in parents.items()}
    identity = Identity(stage=stage, config={"type": kind}, parents=digests, code=f"{meta}", versions={})

    def make(out: Path) -> dict[str, Any]:
        (out / "weights").write_text(f"{stage} {kind} {meta}")
        return meta

    return store.build(identity, "model", parents, make)


def trained(store: Store, *steps: tuple[str, dict[str, Any]]) -> Artifact:
    """A base model and training steps on it, each on what the one before it gave."""
    model = made(store, "model", "pretrained", {}, {})
    for kind, meta in steps:
        model = made(store, "train", kind, {"model": model}, meta)
    return model


def files(folder: Path) -> set[str]:
    """Names in a folder."""
    return {file.name for file in folder.iterdir()}


def test_chain_in_order(store: Store) -> None:
    """The steps that lead to a model are found in the store, first one first; a base model has none (B17)."""
    last = trained(store, ("sft", META), ("dpo", {"losses": [0.7]}))
    chain = training_chain(last, store)
    assert [artifact.meta["losses"][0] for artifact in chain] == [2.0, 0.7]
    assert chain[-1] == last
    assert training_chain(trained(store), store) == []


def test_one_step(store: Store, tmp_path: Path) -> None:
    """One training step leaves its curve, all its figures, and a table that a person reads (B15, B17, E34)."""
    step = trained(store, ("sft", META))
    folder = write_training(tmp_path / "out", [step])
    assert files(folder) == {"loss.png", "training.json", "report.md"}
    figures = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert figures == [{**META, "type": "sft", "key": step.key, "digest": step.digest, "curve": "loss.png"}]
    assert (folder / "report.md").read_text(encoding="utf-8") == (
        "# training\n\n## training\n\n"
        "| step | steps | final loss | tokens | tokens/s | utilisation | peak memory | determinism | speed |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| sft | 3 | 0.5 | 12,345 | 2,140 | 31% | 1.6 GB | bit-exact | threads 2, micro batch 4, compile off |\n\n"
        "- sft: curve in `loss.png`\n"
        "- sft: eval loss 2.5 at step 1, 0.91 at step 3\n"
        "- sft: best evaluation at step 3\n"
        "- sft: resumed from step 1\n"
        "- sft: adapted at step 2: memory ran out; 2 times 4 rows\n"
        "- sft: guard: loss spike at step 2\n\n"
        "Samples of sft at step 3:\n\n"
        "    > a | question\n    # one\n    two\n    three\n    …\n"
    )


def test_several_steps(store: Store, tmp_path: Path) -> None:
    """Each step of a chain has a curve of its own and a line in the table; old curves go (B17)."""
    plugin = {"steps": 1, "losses": [{"a": "mess"}], "guards": {"spikes | skipped": 2}}
    chain = training_chain(trained(store, ("sft", META), ("dpo", {"losses": [0.7]}), ("acme", plugin)), store)
    write_training(tmp_path, chain[:1])
    folder = write_training(tmp_path, chain, "# run\n")
    assert {name for name in files(folder) if name.endswith(".png")} == {"loss-1-sft.png", "loss-2-dpo.png"}
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert report.startswith("# run\n\n## training\n")
    assert "\n| dpo | - | - | - | - | - | - | - | - |\n" in report
    assert "\n- acme: guard spikes \\| skipped: 2\n" in report


def test_nothing_was_trained(tmp_path: Path) -> None:
    """A run without a training step says nothing of training (B17)."""
    folder = write_training(tmp_path, [], "# run\n")
    assert (folder / "report.md").read_text(encoding="utf-8") == "# run\n"
    assert json.loads((folder / "training.json").read_text(encoding="utf-8")) == []
    assert files(folder) == {"training.json", "report.md"}


def test_curve_is_in_mlflow(store: Store, tmp_path: Path) -> None:
    """The curve and the figures of training are artifacts of the tracked run, byte for byte (B17, E34)."""
    workspace = Workspace(tmp_path)
    with RunTracking(workspace, parse_recipe(tiny.recipe(tmp_path, tmp_path / "model"))) as run:
        folder = write_training(workspace.reports / "tiny", [trained(store, ("sft", META))])
        workspace.bus.emit(EvidenceWritten(folder=str(folder), chosen="int4"))
    assert not workspace.bus.failures
    names = {Path(file.path).name for file in connect(tmp_path).list_artifacts(run.run_id, "evidence")}
    assert names == {"loss.png", "training.json", "report.md"}
    kept = next((tmp_path / "mlruns" / "artifacts").rglob("loss.png"))
    assert kept.read_bytes() == (folder / "loss.png").read_bytes()
