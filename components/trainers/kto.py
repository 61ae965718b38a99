"""Kahneman-Tversky optimisation on TRL: learns from single answers that were judged good or bad; no pairs needed.

    train:
      - {type: sft, lora: {r: 16}}                                   # learns the task
      - {type: kto, beta: 0.1, learning_rate: 5.0e-6, lora: {r: 16}} # then from thumbs up and thumbs down

The model as this step gets it is the reference. Of preference rows, the chosen answers count as good and the rejected
ones as bad. Where there are more of one kind, weigh the other: desirable_weight * good : undesirable_weight * bad
should lie between 1:1 and 4:3. TRL switches dropout off, so that policy and reference differ by what was learnt alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from components.core.artifacts import Artifact
from components.core.errors import ConfigError, TrainingError
from components.core.kinds import register
from components.interfaces import StepContext, Trainer
from components.training.config import TrainingConfig
from components.training.rows import eval_problem, length_problem, padding


@register("trainer", "kto")
class KtoTrainer(Trainer):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306) on judged answers, full or LoRA."""

    libraries = ("torch", "transformers", "trl", "peft", "accelerate")
    shapes = ("unpaired", "preference")
    depends_on_machine = True
    neutral = ("checkpoint", "samples", "data")

    class Config(TrainingConfig):
        learning_rate: PositiveFloat = 1e-6
        batch_size: PositiveInt = Field(8, description="answers in one forward pass of all processes")
        beta: PositiveFloat = Field(0.1, description="how strongly the model is held to the reference")
        desirable_weight: PositiveFloat = Field(1.0, description="of the loss on good answers")
        undesirable_weight: PositiveFloat = Field(1.0, description="of the loss on bad answers")
        loss_type: Literal["kto", "apo_zero_unpaired"] = Field(
            "kto", description="apo_zero_unpaired (arXiv:2408.06266): no mismatched pairs, so half the forward passes"
        )

        @property
        def drift(self) -> bool:
            """Whether the loss compares mismatched pairs."""
            return self.loss_type == "kto"

        @model_validator(mode="after")
        def _pairs_can_be_mismatched(self) -> Any:
            if self.drift and self.batch_size < 2 * self.launcher.world:
                raise ConfigError(
                    f"batch_size={self.batch_size} leaves a process with one answer, but kto pairs each prompt with "
                    "the answer of another row of its batch; raise batch_size, or take loss_type: apo_zero_unpaired"
                )
            return self

    config: Config

    @classmethod
    def produces_kind(cls, config: Any) -> str:
        return "adapter" if config.peft else "model"

    def problem(self, dataset: Artifact) -> str | None:
        return super().problem(dataset) or length_problem(dataset, self.config) or eval_problem(dataset, self.config)

    def train(self, model: Artifact, dataset: Artifact, out: Path, context: StepContext) -> Mapping[str, Any]:
        from trl import KTOConfig

        from components.training.run import Run
        from components.training.unpaired import JudgedCollator, JudgedRows, SafeKto, batch_order, judged_answers

        problem = self.problem(dataset)
        if problem:
            raise TrainingError(problem)
        config = self.config
        run = Run(config, model, dataset, out, context)
        answers = judged_answers(dataset, "train", run.tokenizer, config)
        order = batch_order(answers, config, context.seed)
        rows = JudgedRows(answers, order, config.batch_size, config.max_length, config.drift)
        held_out = None
        if config.evaluate:
            others = judged_answers(dataset, "eval", run.tokenizer, config)
            held_out = JudgedRows(others, range(len(others)), len(others), config.max_length, config.drift)

        def build(network: Any, arguments: dict[str, Any]) -> SafeKto:
            if config.drift and arguments["per_device_train_batch_size"] < 2:
                raise TrainingError(
                    "memory is too short for two answers at once, which kto needs; lower max_length, train an adapter "
                    "(lora), or take loss_type: apo_zero_unpaired"
                )
            own = {
                "beta": config.beta,
                "desirable_weight": config.desirable_weight,
                "undesirable_weight": config.undesirable_weight,
                "loss_type": config.loss_type,
                # an adapter is switched off to ask the reference; without one, TRL must not load a second model
                "precompute_ref_log_probs": config.peft is None,
                "max_length": None,
            }
            return SafeKto(
                run=run,
                model=network,
                args=KTOConfig(**arguments, **own),
                data_collator=JudgedCollator(padding(run.tokenizer)),
                train_dataset=rows,
                eval_dataset=held_out,
                processing_class=run.tokenizer,
            )

        figures = run.train(rows, build, max(answers.lengths()))
        return {
            **figures,
            "rows": len(answers),
            "desirable": sum(answers.labels),
            "undesirable": len(answers) - sum(answers.labels),
            "rows_left_out": dataset.meta["rows"]["train"] - len(answers.rows),
        }
