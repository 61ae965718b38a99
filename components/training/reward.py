"""TRL's reward trainer on pairs that are tokenised already: a language model with one number at its end as its output.

An adapter is folded into the model before it is saved, so that the result is one kind of thing however it was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from trl import RewardTrainer

from components.core.errors import ConfigError
from components.core.safeload import load_reward_model
from components.training.adapters import Adapter, Lora, peft_config
from components.training.guarded import Guarded
from components.training.preference import PairCollator, pair_lengths
from components.training.run import Run


@dataclass(frozen=True)
class RewardCollator:
    """Chosen conversations above, rejected ones below; the reward is read at the last token of each."""

    pad: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch = PairCollator(self.pad)(rows)
        del batch["completion_mask"]
        return batch


class SafeReward(Guarded, RewardTrainer):  # type: ignore[misc]
    """The chosen answer shall get more than the rejected one (Bradley-Terry)."""

    def add_head(self) -> None:
        """There is no output matrix to spare."""

    def lengths(self) -> list[int]:
        return pair_lengths(self.train_dataset)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


class RewardRun(Run):
    """A run whose network is a reward model, and whose adapter, if there is one, is gone from the result."""

    adapter: Lora | Adapter | None = None

    def open_reward_model(self) -> Any:
        """The model with a new head, and a fresh adapter on it."""
        from transformers import set_seed

        network = load_reward_model(self.model.path, new_head=True)
        if self.adapter is None:
            return network
        set_seed(self.context.seed)
        return _adapted(network, self.adapter, self.family)

    def _save(self, network: Any, weights: bool = True) -> None:
        super()._save(network.merge_and_unload(safe_merge=True) if self.adapter else network, weights)


def _adapted(network: Any, adapter: Lora | Adapter, family: Any) -> Any:
    """With a fresh adapter; the head is trained in full beside it."""
    from peft import get_peft_model

    config = peft_config(adapter, network, family)
    config.task_type = "SEQ_CLS"
    method = str(config.peft_type.value).lower()
    if config.is_prompt_learning or not hasattr(config, "modules_to_save"):
        raise ConfigError(f"adapter '{method}' cannot be folded into a reward model; use lora, or train all weights")
    try:
        adapted = get_peft_model(network, config)
    except ValueError as error:
        raise ConfigError(f"adapter '{method}' does not fit this model: {error}") from error
    if not hasattr(type(adapted.base_model), "merge_and_unload"):
        raise ConfigError(f"adapter '{method}' cannot be folded into a reward model; use lora, or train all weights")
    return adapted


def judged(network: Any, rows: Any, pad: int, size: int) -> dict[str, float]:
    """`accuracy`: share of pairs in which the chosen answer gets more; `margin`: by how much on average."""
    lengths, collate = pair_lengths(rows), RewardCollator(pad)
    order = sorted(range(len(rows)), key=lengths.__getitem__)
    margins = []
    for start in range(0, len(order), size):
        batch = collate([rows[number] for number in order[start : start + size]])
        with torch.inference_mode():
            rewards = network(**{name: value.to(network.device) for name, value in batch.items()}).logits[:, 0]
        margins += [rewards.float().cpu()]
    found = torch.cat([chosen - rejected for chosen, rejected in (part.chunk(2) for part in margins)])
    return {"accuracy": float((found > 0).float().mean()), "margin": float(found.mean())}
