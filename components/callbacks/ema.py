"""Exponential moving average of the trained weights: often a little better than the last step, at no cost in speed.

    train: [{type: sft, callbacks: [{type: ema, decay: 0.99}]}]

The average becomes the result when training ends; checkpoints carry it, so a resumed run ends with the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from components.core.component import StrictConfig
from components.core.kinds import register
from components.interfaces import TrainingCallback


@register("callback", "ema")
class Ema(TrainingCallback):
    """The average of the weights over the last steps becomes the result (Polyak and Juditsky 1992)."""

    replaces_result = True

    class Config(StrictConfig):
        decay: float = Field(0.99, gt=0, lt=1, description="weight of the past at every step")

    config: Config

    def hook(self) -> Any:
        from transformers import TrainerCallback

        decay = self.config.decay

        class Average(TrainerCallback):  # type: ignore[misc]
            average: dict[str, Any] = {}

            def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                now = _trained(model)
                if not self.average:
                    self.average = {name: weight.clone() for name, weight in now.items()}
                for name, weight in now.items():
                    # a restored average comes from a file, so it is not yet where the weights are
                    self.average[name] = self.average[name].to(weight.device).lerp_(weight, 1 - decay)

            def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                # also when training was told to stop: the checkpoint of that step holds the weights themselves
                for name, weight in _trained(model).items():
                    weight.copy_(self.average[name])

            def tensors(self) -> Mapping[str, Any]:
                return self.average

            def restore(self, saved: Mapping[str, Any]) -> None:
                self.average = dict(saved)

        return Average()


def _trained(model: Any) -> dict[str, Any]:
    network = getattr(model, "module", model)
    return {name: weight.detach() for name, weight in network.named_parameters() if weight.requires_grad}
