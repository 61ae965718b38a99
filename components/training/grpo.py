"""TRL's GRPO trainer on prompts that are tokenised already, scored by components of kind "reward"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from trl import GRPOTrainer

from components.core.recipe import Spec
from components.interfaces import Reward
from components.training.head import add_lean_head
from components.training.policy import Generating, messages_before


class SafeGrpo(Generating, GRPOTrainer):  # type: ignore[misc]
    """Group relative policy optimisation."""

    def add_head(self) -> None:
        for network in (self.model, self.ref_model):
            if network is not None:
                add_lean_head(network, self.run.setting.chunk, temperature=self.temperature, entropy=True)


def reward_functions(specs: Sequence[Spec], rewards: Sequence[Reward]) -> list[Callable[..., list[float]]]:
    """Rewards as TRL calls them. Each has its own name in the figures: `regex`, `regex-2`."""
    seen: Counter[str] = Counter()
    functions = []
    for spec, reward in zip(specs, rewards, strict=True):
        seen[spec.type] += 1
        functions.append(_function(reward, spec.type if seen[spec.type] == 1 else f"{spec.type}-{seen[spec.type]}"))
    return functions


def _function(reward: Reward, name: str) -> Callable[..., list[float]]:
    def score(completions: list[str], row: list[dict[str, Any]], **_: Any) -> list[float]:
        return reward.score([messages_before(one) for one in row], completions, row)

    score.__name__ = name
    return score
