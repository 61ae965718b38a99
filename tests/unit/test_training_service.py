"""The training service: several steps in sequence, rows of a step's own, and going on where a run was killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import ConfigError, DataError, TrainingError, TrainingInterrupted
from components.core.events import CheckpointSaved, StageCached, TrainStep
from components.core.recipe import Recipe, parse_recipe
from components.services.data import DataService
from components.services.model import ModelService
from components.services.training import TrainingService
from components.services.workspace import Workspace
from tests import tiny

SHORT = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 0, "dtype": "float32"}
SFT: dict[str, Any] = {"type": "sft", **SHORT, "lora": {"r": 4}}
DPO: dict[str, Any] = {"type": "dpo", **SHORT, "lora": {"r": 4}}


def recipe(root: Path, model: Path, *steps: dict[str, Any]) -> Recipe:
    """The tiny recipe with other training steps, on its conversations."""
    return parse_recipe(tiny.recipe(root, model, train=list(steps)))


def inputs(workspace: Workspace, plan: Recipe) -> tuple[Any, Any]:
    """The base model and the rows of a recipe."""
    base = ModelService(workspace).fetch(plan.model)
    return base, DataService(workspace).validate(plan.data, base)


def pairs(root: Path) -> dict[str, Any]:
    """A data section of preference pairs."""
    files = {split: tiny.write_shape(root / f"{split}.jsonl", "preference", numbers) for split, numbers in
             {"train": range(24), "eval": range(100, 106)}.items()}  # fmt: skip
    return {split: {"type": "jsonl", "path": str(file)} for split, file in files.items()}


def test_steps_in_sequence(tmp_path: Path, tiny_model: Path) -> None:
    """sft, then dpo on pairs of its own: an adapter is folded in between, and each step is an artifact (E14, E15)."""
    plan = recipe(tmp_path, tiny_model, SFT, DPO | {"data": pairs(tmp_path / "pairs")})
    workspace = Workspace(tmp_path)
    base, dataset = inputs(workspace, plan)
    data = DataService(workspace)
    data.require(plan, dataset, base)
    trained = TrainingService(workspace, data).train(plan.train, base, dataset, plan.seed)
    assert (trained.kind, trained.meta["trainer"]) == ("adapter", "dpo")
    folded = workspace.store.get(trained.parents["model"])
    assert (folded.kind, folded.stage) == ("model", "optimize")
    first = workspace.store.get(folded.parents["source"])
    assert (first.kind, first.meta["trainer"]) == ("adapter", "sft")
    assert trained.meta["losses"][0] == pytest.approx(0.6931, abs=1e-3)


def test_rows_that_do_not_fit_a_step(tmp_path: Path, tiny_model: Path) -> None:
    """A step whose rows, its own or the recipe's, are of another shape is refused before any work."""
    plan, workspace = recipe(tmp_path, tiny_model, SFT, DPO), Workspace(tmp_path)
    base, dataset = inputs(workspace, plan)
    with pytest.raises(DataError, match=r"train.1 \(dpo\): this trainer takes rows of shape preference"):
        DataService(workspace).require(plan, dataset, base)


def test_one_folder_for_two_steps(tmp_path: Path, tiny_model: Path) -> None:
    """Two steps that name one folder for checkpoints are refused."""
    step = SFT | {"checkpoint": {"folder": str(tmp_path / "here")}}
    with pytest.raises(ConfigError, match=r"train.1: checkpoint.folder .* is that of another step"):
        recipe(tmp_path, tiny_model, step | {"lora": None}, step)


def test_resume_goes_on_in_the_middle(tmp_path: Path, tiny_model: Path) -> None:
    """`resume` passes finished steps over, goes on in the one that was killed, and begins the ones after it (B15)."""
    killed = SFT | {"max_steps": 4, "checkpoint": {"every": 1, "folder": "spot"}}
    steps = (SFT | {"lora": None}, killed, SFT | {"learning_rate": 2e-3})
    plan, workspace = recipe(tmp_path, tiny_model, *steps), Workspace(tmp_path)
    training, (base, dataset) = TrainingService(workspace), inputs(workspace, plan)
    seen: list[int] = []

    def stop(event: TrainStep) -> None:
        seen.append(event.step)
        if event.total == 4 and event.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    off = workspace.bus.on(TrainStep, stop)
    with pytest.raises(TrainingInterrupted):
        training.train(plan.train, base, dataset, plan.seed)
    off()
    assert (tmp_path / "spot" / "step-00000002").is_dir()
    cached = list[StageCached]()
    workspace.bus.on(StageCached, cached.append)
    trained = training.resume(plan.train, base, dataset, plan.seed)
    assert [event.stage for event in cached] == ["train"]
    whole = Workspace(tmp_path / "whole")
    base, dataset = inputs(whole, plan)
    undisturbed = TrainingService(whole).train(plan.train, base, dataset, plan.seed)
    assert trained.digest == undisturbed.digest
    assert not (tmp_path / "spot").exists()


def test_nothing_to_go_on_from_shows_what_is_near(tmp_path: Path, tiny_model: Path) -> None:
    """After a change of the recipe `resume` says which run is nearest and what differs."""
    workspace = Workspace(tmp_path)
    plan = recipe(tmp_path, tiny_model, SFT | {"max_steps": 4, "checkpoint": {"every": 1}})
    training, (base, dataset) = TrainingService(workspace), inputs(workspace, plan)
    # once: the checkpoint that the stop itself makes would be a second signal, and that one stops at once
    workspace.bus.once(CheckpointSaved, lambda event: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(TrainingInterrupted):
        training.train(plan.train, base, dataset, plan.seed)
    changed = recipe(tmp_path, tiny_model, SFT | {"max_steps": 4, "learning_rate": 5e-3})
    with pytest.raises(TrainingError, match=r"(?s)the nearest is at step \d.*train.learning_rate: 0.001 -> 0.005"):
        training.resume(changed.train, base, dataset, plan.seed)


def test_a_stop_is_meant_for_the_whole_run(tmp_path: Path, tiny_model: Path) -> None:
    """SIGTERM in a step that is not required ends the run, instead of training the next step without it."""
    plan = recipe(tmp_path, tiny_model, SFT | {"lora": None, "required": False}, SFT)
    workspace = Workspace(tmp_path)
    base, dataset = inputs(workspace, plan)
    workspace.bus.on(TrainStep, lambda event: os.kill(os.getpid(), signal.SIGTERM) if event.step == 1 else None)
    with pytest.raises(TrainingInterrupted):
        TrainingService(workspace).train(plan.train, base, dataset, plan.seed)
