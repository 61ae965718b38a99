"""Odds ratio preference optimisation on TRL: task and preference in one step, without a reference model.

    train: [{type: orpo, beta: 0.1, learning_rate: 8.0e-6, lora: {r: 16}}]

The loss is that of supervised fine-tuning on the chosen answer, plus `beta` times how far its odds stand above those
of the rejected one. Dropout stays as the model and `lora` have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveFloat, PositiveInt

from components.core.artifacts import Artifact
from components.core.errors import TrainingError
from components.core.kinds import register
from components.interfaces import StepContext, Trainer
from components.training.config import TrainingConfig
from components.training.rows import eval_problem, length_problem, padding, preference_rows


@register("trainer", "orpo")
class OrpoTrainer(Trainer):
    """Odds ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691), full or LoRA."""

    libraries = ("torch", "transformers", "trl", "peft", "accelerate")
    shapes = ("preference",)
    depends_on_machine = True
    neutral = ("checkpoint", "samples", "data")

    class Config(TrainingConfig):
        learning_rate: PositiveFloat = 8e-6
        batch_size: PositiveInt = Field(4, description="pairs in one forward pass of all processes")
        beta: PositiveFloat = Field(0.1, description="weight of the odds ratio; lambda in the paper")
        prompt_loss: bool = Field(
            False, description="the supervised part covers the prompt too, as in the authors' code; not in the paper"
        )

    config: Config

    @classmethod
    def produces_kind(cls, config: Any) -> str:
        return "adapter" if config.peft else "model"

    def problem(self, dataset: Artifact) -> str | None:
        return super().problem(dataset) or length_problem(dataset, self.config) or eval_problem(dataset, self.config)

    def train(self, model: Artifact, dataset: Artifact, out: Path, context: StepContext) -> Mapping[str, Any]:
        from trl.experimental.orpo import ORPOConfig

        from components.training.odds_ratio import SafeOrpo
        from components.training.preference import PairCollator, pair_lengths
        from components.training.run import Run

        problem = self.problem(dataset)
        if problem:
            raise TrainingError(problem)
        run = Run(self.config, model, dataset, out, context)
        rows = preference_rows(dataset, "train", run.tokenizer, self.config)
        held_out = preference_rows(dataset, "eval", run.tokenizer, self.config) if self.config.evaluate else None

        def build(network: Any, arguments: dict[str, Any]) -> SafeOrpo:
            own = {"beta": self.config.beta, "max_length": self.config.max_length, "disable_dropout": False}
            return SafeOrpo(
                run=run,
                model=network,
                args=ORPOConfig(**arguments, **own),
                data_collator=PairCollator(padding(run.tokenizer)),
                train_dataset=rows,
                eval_dataset=held_out,
                processing_class=run.tokenizer,
                prompt_loss=self.config.prompt_loss,
            )

        figures = run.train(rows, build, max(pair_lengths(rows)))
        return {**figures, "rows_left_out": dataset.meta["rows"]["train"] - len(rows)}
