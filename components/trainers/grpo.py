"""Group relative policy optimisation on TRL: the model answers, rewards say how well, better answers become likelier.

    train:
      - {type: sft, lora: {r: 16}}
      - type: grpo
        rewards: [{type: exact_match}, {type: json_valid, weight: 0.2}]
        num_generations: 8
        learning_rate: 1.0e-5
        lora: {r: 16}

Each prompt is answered `num_generations` times, and an answer counts by how much better it is than the others. Where
all of them are equally good nothing is learnt: `frac_reward_zero_std` among the figures is the share of such prompts.
A model that never gets anything right needs `sft` first, or a reward that tells its answers apart (`similarity`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from components.core.artifacts import Artifact
from components.core.errors import ConfigError, TrainingError
from components.core.kinds import register
from components.core.recipe import OfKind, Spec
from components.interfaces import StepContext, Trainer
from components.training.config import TrainingConfig
from components.training.rows import eval_problem

Rewards = Annotated[list[Annotated[Spec, OfKind("reward")]], Field(min_length=1)]
OWN = (
    *("num_generations", "max_completion_length", "num_iterations", "temperature", "top_p", "beta", "epsilon"),
    *("loss_type", "scale_rewards", "mask_truncated_completions"),
)


def _default_rewards() -> list[Spec]:
    return [OfKind("reward").parse(plain) for plain in ({"type": "exact_match"}, {"type": "similarity", "weight": 0.2})]  # type: ignore[misc]


@register("trainer", "grpo")
class GrpoTrainer(Trainer):
    """Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300) with rewards by name, full or LoRA."""

    libraries = ("torch", "transformers", "trl", "peft", "accelerate")
    shapes = ("conversation", "prompt")
    depends_on_machine = True
    neutral = ("checkpoint", "samples", "data")

    class Config(TrainingConfig):
        rewards: Rewards = Field(default_factory=_default_rewards)
        batch_size: PositiveInt = Field(4, description="prompts in one forward pass of all processes")
        learning_rate: PositiveFloat = 1e-5
        num_generations: int = Field(4, ge=2, description="answers to each prompt")
        max_completion_length: PositiveInt = Field(64, description="tokens of an answer")
        temperature: PositiveFloat = 1.0
        top_p: float = Field(1.0, gt=0, le=1)
        beta: float = Field(0.0, ge=0, description="how strongly the model is held to the one it starts from")
        num_iterations: PositiveInt = Field(1, description="steps that learn from the same answers")
        epsilon: PositiveFloat = Field(0.2, description="how far one step may move a token's probability (clipping)")
        loss_type: Literal["dapo", "grpo", "dr_grpo", "bnpo"] = "dapo"
        scale_rewards: Literal["group", "batch", "none"] = "group"
        mask_truncated_completions: bool = Field(False, description="learn nothing from answers without an end")

        @model_validator(mode="after")
        def _judged_by_reward(self) -> Any:
            if self.evaluate and (self.evaluate.keep == "best" or self.evaluate.patience):
                raise ConfigError(
                    "the loss of grpo does not say how good a model is: leave evaluate.keep and evaluate.patience at "
                    "their defaults, and look at eval_reward"
                )
            return self

    config: Config

    @classmethod
    def produces_kind(cls, config: Any) -> str:
        return "adapter" if config.peft else "model"

    def problem(self, dataset: Artifact) -> str | None:
        from components.training.policy import prompts_problem

        return (
            super().problem(dataset)
            or self._unjudged(dataset)
            or prompts_problem(dataset, self.config)
            or eval_problem(dataset, self.config)
        )

    def _unjudged(self, dataset: Artifact) -> str | None:
        shape = dataset.meta["shape"]
        unfit = [spec.type for spec in self.config.rewards if shape not in spec.component.shapes]
        if not unfit:
            return None
        return f"rewards {', '.join(unfit)} compare with an expected answer, which rows of shape {shape} do not have"

    def train(self, model: Artifact, dataset: Artifact, out: Path, context: StepContext) -> Mapping[str, Any]:
        from components.training.policy import prompt_lengths, prompt_rows
        from components.training.run import Run

        problem = self.problem(dataset)
        if problem:
            raise TrainingError(problem)
        run = Run(self.config, model, dataset, out, context, learning=False)
        rows = prompt_rows(dataset, "train", run.tokenizer, self.config)
        held_out = None
        if self.config.evaluate:
            held_out = prompt_rows(dataset, "eval", run.tokenizer, self.config)
            held_out = held_out.select(range(min(self.config.evaluate.rows, len(held_out))))
        longest = max(prompt_lengths(rows)) + self.config.max_completion_length
        with ExitStack() as rewards:
            scorers = [rewards.enter_context(spec.build()) for spec in self.config.rewards]
            figures = run.train(rows, self._builder(run, rows, held_out, scorers), longest)
        return {**figures, "rows_left_out": dataset.meta["rows"]["train"] - len(rows)}

    def _builder(self, run: Any, rows: Any, held_out: Any, scorers: list[Any]) -> Any:
        from trl import GRPOConfig

        from components.training.grpo import SafeGrpo, reward_functions

        config = self.config
        functions = reward_functions(config.rewards, scorers)

        def build(network: Any, arguments: dict[str, Any]) -> SafeGrpo:
            sizes = ("per_device_train_batch_size", "per_device_eval_batch_size")
            given = {
                **arguments,
                **{size: arguments[size] * config.num_generations for size in sizes},  # TRL counts answers
                **{name: getattr(config, name) for name in OWN},
                "reward_weights": [spec.config.weight for spec in config.rewards],
            }
            return SafeGrpo(
                run=run,
                model=network,
                args=GRPOConfig(**given),
                reward_funcs=list(functions),
                train_dataset=rows,
                eval_dataset=held_out,
                processing_class=run.tokenizer,
            )

        return build
