"""Reward models: what is saved is what was trained, and only a reward model is opened as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from components.core.dataset import index
from components.core.errors import ConfigError, ModelLoadError, UnsafeModelError
from components.core.events import EventBus
from components.core.kinds import registry
from components.core.safeload import load_reward_model
from components.interfaces import StepContext
from components.training.reward import judged

SMALL = {"max_steps": 3, "batch_size": 6, "learning_rate": 1e-2, "warmup_steps": 0, "dtype": "float32"}


def train(lab: Any, datasets: dict[str, Any], out: Path, **config: Any) -> Any:
    trainer = registry.create("trainer", "reward", **(SMALL | config))
    return trainer.train(lab.base, datasets["preference"], out, StepContext(17, EventBus()))


@pytest.mark.parametrize("lora", [None, {"r": 4}, {"r": 4, "target_modules": "attention", "dora": True}])
def test_saved_model_judges_as_the_trained_one(
    lab: Any, datasets_by_shape: dict[str, Any], tmp_path: Path, lora: Any
) -> None:
    """Accuracy and margin of the saved model are those of the network in training, adapter folded in or not."""
    facts = train(lab, datasets_by_shape, tmp_path, lora=lora, evaluate={"every": 3, "rows": 6})
    last = facts["evaluations"][-1]
    assert facts["eval_accuracy"] == pytest.approx(last["accuracy"], abs=1e-4)
    assert facts["eval_margin"] == pytest.approx(last["margin"], abs=1e-3)


@pytest.mark.parametrize("lora", [None, {"r": 8, "alpha": 16}])
def test_learns_which_answer_is_better(lab: Any, datasets_by_shape: dict[str, Any], tmp_path: Path, lora: Any) -> None:
    """After a few passes the chosen answers of the rows it saw get more than the rejected ones."""
    train(lab, datasets_by_shape, tmp_path, lora=lora, max_steps=30, learning_rate=3e-3)
    rows = index(datasets_by_shape["preference"], "train")
    before = judged(load_reward_model(lab.base.path, new_head=True), rows, 0, 8)
    after = judged(load_reward_model(tmp_path), rows, 0, 8)
    assert after["accuracy"] > max(0.75, before["accuracy"])
    assert after["margin"] > 0.2


def test_size_of_a_batch_does_not_matter(lab: Any, datasets_by_shape: dict[str, Any]) -> None:
    """Padding does not reach the reward: it is read at the last token of a row."""
    torch.manual_seed(0)
    network, rows = load_reward_model(lab.base.path, new_head=True), index(datasets_by_shape["preference"], "eval")
    alone, together = judged(network, rows, 0, 1), judged(network, rows, 0, 6)
    assert alone["accuracy"] == together["accuracy"]
    assert alone["margin"] == pytest.approx(together["margin"], abs=1e-5)


def test_a_language_model_is_no_reward_model(lab: Any) -> None:
    """The safe door does not put a random head on a model that was never trained to judge, unless it is told to."""
    with pytest.raises(ModelLoadError, match=r"holds no reward model: score\.weight missing"):
        load_reward_model(lab.base.path)
    assert load_reward_model(lab.base.path, new_head=True).config.num_labels == 1


def test_the_door_is_as_safe_as_the_others(lab: Any, tmp_path: Path) -> None:
    """Pickles are refused, and damaged weights are an error that names the directory."""
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UnsafeModelError):
        load_reward_model(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    (tmp_path / "config.json").write_bytes((lab.base.path / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelLoadError, match="cannot load the reward model"):
        load_reward_model(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"samples": {}}, "a reward model writes no answers"),
        ({"lora": {"quantize": "int4"}}, "whose adapter is folded into its base"),
        ({"lora": {"init": "pissa"}}, "whose adapter is folded into its base"),
    ],
)
def test_what_does_not_go_with_a_reward_model(config: dict[str, Any], message: str) -> None:
    """Sections that could not work are refused before any work."""
    with pytest.raises(ConfigError, match=message):
        registry.create("trainer", "reward", **config)


def test_adapters_that_cannot_be_folded_in(lab: Any, datasets_by_shape: dict[str, Any], tmp_path: Path) -> None:
    """A method without weights to fold in is refused before the first step."""
    with pytest.raises(ConfigError, match="cannot be folded into a reward model"):
        train(
            lab, datasets_by_shape, tmp_path, adapter={"method": "prompt_tuning", "options": {"num_virtual_tokens": 4}}
        )
    with pytest.raises(ConfigError, match="matches no layer"):
        train(lab, datasets_by_shape, tmp_path, lora={"target_modules": ["no_such_layer"]})
