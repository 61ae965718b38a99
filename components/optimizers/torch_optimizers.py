"""torch's own optimizers as components: `train: [{type: sft, optimizer: {type: sgd, momentum: 0.9}}]`.

An optimizer of somebody else is one class like these.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, PositiveFloat

from components.core.component import StrictConfig
from components.core.kinds import register
from components.interfaces import Optimizer


@register("optimizer", "adamw")
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv:1711.05101), fused."""

    class Config(StrictConfig):
        lr: PositiveFloat | None = Field(None, description="default: the trainer's learning_rate")
        betas: tuple[float, float] = (0.9, 0.999)
        eps: PositiveFloat = 1e-8

    config: Config

    def rule(self, learning_rate: float) -> tuple[type, dict[str, Any]]:
        from torch.optim import AdamW

        settings = {"lr": self.config.lr or learning_rate, "betas": self.config.betas, "eps": self.config.eps}
        return AdamW, settings | {"fused": True}


@register("optimizer", "sgd")
class Sgd(Optimizer):
    """Stochastic gradient descent with momentum: a third of Adam's memory."""

    class Config(StrictConfig):
        lr: PositiveFloat | None = Field(None, description="default: the trainer's learning_rate")
        momentum: float = Field(0.9, ge=0, lt=1)
        nesterov: bool = False

    config: Config

    def rule(self, learning_rate: float) -> tuple[type, dict[str, Any]]:
        from torch.optim import SGD

        settings = {"lr": self.config.lr or learning_rate, "momentum": self.config.momentum}
        return SGD, settings | {"nesterov": self.config.nesterov}
