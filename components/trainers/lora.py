"""LoRA by its own name, for people who look for it: `train: [{type: lora, max_steps: 60}]` is sft with an adapter."""

from __future__ import annotations

from components.core.kinds import register
from components.trainers.sft import SftTrainer
from components.training.adapters import Lora


@register("trainer", "lora")
class LoraTrainer(SftTrainer):
    """Supervised fine-tuning with a LoRA adapter: `sft` whose `lora` section is there by default."""

    class Config(SftTrainer.Config):
        lora: Lora | None = Lora()
