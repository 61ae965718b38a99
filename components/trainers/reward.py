"""A reward model on TRL: reads a conversation and gives its answer a number, learnt from which of two is better.

    train: [{type: reward, max_steps: 200, learning_rate: 1.0e-4, lora: {r: 16}}]

The result is a model with a head of one output, of kind `reward_model`; `load_reward_model` opens it. With an adapter,
the adapter and the new head are trained, and the adapter is folded in. The figures tell on how many pairs of the eval
split the saved model prefers the chosen answer, and by how much.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from components.core.artifacts import Artifact
from components.core.errors import ConfigError, TrainingError
from components.core.kinds import register
from components.core.safeload import load_reward_model
from components.interfaces import StepContext, Trainer
from components.training.config import TrainingConfig
from components.training.rows import eval_problem, length_problem, padding, preference_rows


@register("trainer", "reward")
class RewardModelTrainer(Trainer):
    """A reward model from preferences (Bradley-Terry), full or LoRA."""

    libraries = ("torch", "transformers", "trl", "peft", "accelerate")
    shapes = ("preference",)
    depends_on_machine = True
    neutral = ("checkpoint", "data")

    class Config(TrainingConfig):
        learning_rate: PositiveFloat = 1e-4
        batch_size: PositiveInt = Field(4, description="pairs in one forward pass of all processes")
        center_rewards_coefficient: PositiveFloat | None = Field(
            None, description="pull of rewards towards a mean of zero (arXiv:2312.09244 recommends 0.01)"
        )

        @model_validator(mode="after")
        def _can_be_one_model(self) -> Any:
            problems = []
            if self.samples:
                problems.append("samples: a reward model writes no answers; remove the section")
            if self.lora and (self.lora.quantize or self.lora.changes_base):
                problems.append(
                    "lora.quantize and init: pissa or olora do not go with a reward model, whose adapter is folded "
                    "into its base; remove them"
                )
            if problems:
                raise ConfigError(problems)
            return self

    config: Config

    @classmethod
    def produces_kind(cls, config: Any) -> str:
        return "reward_model"

    def problem(self, dataset: Artifact) -> str | None:
        return super().problem(dataset) or length_problem(dataset, self.config) or eval_problem(dataset, self.config)

    def train(self, model: Artifact, dataset: Artifact, out: Path, context: StepContext) -> Mapping[str, Any]:
        from trl import RewardConfig

        from components.training.preference import pair_lengths
        from components.training.reward import RewardCollator, RewardRun, SafeReward, judged

        problem = self.problem(dataset)
        if problem:
            raise TrainingError(problem)
        # the run opens a network that has its adapter on already
        run = RewardRun(self.config.model_copy(update={"lora": None, "adapter": None}), model, dataset, out, context)
        run.adapter = self.config.peft
        rows = preference_rows(dataset, "train", run.tokenizer, self.config)
        held_out = preference_rows(dataset, "eval", run.tokenizer, self.config) if self.config.evaluate else None
        pad = padding(run.tokenizer)

        def build(network: Any, arguments: dict[str, Any]) -> SafeReward:
            own = {
                "center_rewards_coefficient": self.config.center_rewards_coefficient,
                "max_length": None,
                "disable_dropout": False,
            }
            return SafeReward(
                run=run,
                model=network,
                args=RewardConfig(**arguments, **own),
                data_collator=RewardCollator(pad),
                train_dataset=rows,
                eval_dataset=held_out,
                processing_class=run.tokenizer,
            )

        figures = run.train(rows, build, max(pair_lengths(rows)), run.open_reward_model)
        if dataset.meta["rows"].get("eval") and run.main_process():
            every = preference_rows(dataset, "eval", run.tokenizer, self.config.model_copy(update={"evaluate": None}))
            found = judged(load_reward_model(out).to(run.setting.device), every, pad, self.config.batch_size)
            figures |= {"eval_accuracy": round(found["accuracy"], 4), "eval_margin": round(found["margin"], 4)}
        return {**figures, "rows_left_out": dataset.meta["rows"]["train"] - len(rows)}
