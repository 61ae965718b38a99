"""Supervised fine-tuning on TRL, full or with an adapter (PEFT). Only the assistant's tokens carry loss.

    train: [{type: sft, max_steps: 60, learning_rate: 5.0e-4, lora: {r: 16, target_modules: all-linear}}]

TRL's defaults are for large GPUs. Here activation checkpointing is off (it computes every layer twice), rows of
similar length share a batch (less padding), and matrices are multiplied in bfloat16 where the processor can.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from components.core.artifacts import Artifact
from components.core.errors import TrainingError
from components.core.kinds import register
from components.interfaces import StepContext, Trainer
from components.training.config import TrainingConfig
from components.training.rows import eval_problem, eval_rows, length_problem, supervised_rows


@register("trainer", "sft")
class SftTrainer(Trainer):
    """Supervised fine-tuning on conversations, texts or the chosen answers of preferences; full or LoRA."""

    libraries = ("torch", "transformers", "trl", "peft", "accelerate")
    shapes = ("conversation", "text", "preference")
    depends_on_machine = True
    neutral = ("checkpoint", "samples", "data")

    class Config(TrainingConfig):
        packing: bool = Field(
            False, description="several rows in one sequence, each trained as if alone; a batch is batch_size packs"
        )

    config: Config

    @classmethod
    def produces_kind(cls, config: Any) -> str:
        return "adapter" if config.peft else "model"

    def problem(self, dataset: Artifact) -> str | None:
        return super().problem(dataset) or length_problem(dataset, self.config) or eval_problem(dataset, self.config)

    def train(self, model: Artifact, dataset: Artifact, out: Path, context: StepContext) -> Mapping[str, Any]:
        from trl import SFTConfig

        from components.training.run import Run
        from components.training.supervised import SafeSft

        problem = self.problem(dataset)
        if problem:
            raise TrainingError(problem)
        run = Run(self.config, model, dataset, out, context)
        rows = supervised_rows(dataset, "train", run.tokenizer, self.config)
        held_out = eval_rows(dataset, run.tokenizer, self.config)

        def build(network: Any, arguments: dict[str, Any]) -> SafeSft:
            given = {
                "max_length": self.config.max_length,
                "pad_to_multiple_of": run.setting.pad_to,
                "dataset_kwargs": {"skip_prepare_dataset": True},
            }
            return SafeSft(
                run=run,
                model=network,
                args=SFTConfig(**arguments, **given),
                train_dataset=rows,
                eval_dataset=held_out,
                processing_class=run.tokenizer,
                packing=self.config.packing,
            )

        longest = self.config.max_length if self.config.packing else None
        figures = run.train(rows, build, longest)
        return {**figures, "rows_left_out": dataset.meta["rows"]["train"] - len(rows)}
