"""Direct preference optimisation on TRL, full or with an adapter: answers people prefer become more likely.

    train:
      - {type: sft, lora: {r: 16}}                                   # learns the task
      - {type: dpo, beta: 0.1, learning_rate: 5.0e-6, lora: {r: 16}} # then which of two answers is better

The model as this step gets it is the reference. `loss_type` chooses the variant; several are added up with
`loss_weights`. TRL switches dropout off, so that policy and reference differ by nothing but what was learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, model_validator

from components.core.artifacts import Artifact
from components.core.errors import ConfigError, TrainingError
from components.core.kinds import register
from components.interfaces import StepContext, Trainer
from components.training.config import TrainingConfig
from components.training.rows import eval_problem, length_problem, padding, preference_rows

Loss = Literal[
    "sigmoid",
    "sigmoid_norm",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
]


@register("trainer", "dpo")
class DpoTrainer(Trainer):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290) and its variants, full or LoRA."""

    libraries = ("torch", "transformers", "trl", "peft", "accelerate")
    shapes = ("preference",)
    depends_on_machine = True
    neutral = ("checkpoint", "samples", "data")

    class Config(TrainingConfig):
        learning_rate: PositiveFloat = 1e-6
        batch_size: int = Field(4, gt=0, description="pairs in one forward pass of all processes")
        beta: PositiveFloat = Field(0.1, description="how strongly the model is held to the reference")
        loss_type: Loss | list[Loss] = "sigmoid"
        loss_weights: list[float] | None = None
        label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of pairs that are the wrong way round")

        @model_validator(mode="after")
        def _losses_fit(self) -> Any:
            types = [self.loss_type] if isinstance(self.loss_type, str) else self.loss_type
            if self.loss_weights is not None and len(self.loss_weights) != len(types):
                raise ConfigError(f"loss_weights has {len(self.loss_weights)} numbers for {len(types)} losses")
            if "exo_pair" in types and not self.label_smoothing:
                raise ConfigError("loss_type exo_pair needs label_smoothing above 0; its paper recommends 0.001")
            return self

    config: Config

    @classmethod
    def produces_kind(cls, config: Any) -> str:
        return "adapter" if config.peft else "model"

    def problem(self, dataset: Artifact) -> str | None:
        return super().problem(dataset) or length_problem(dataset, self.config) or eval_problem(dataset, self.config)

    def train(self, model: Artifact, dataset: Artifact, out: Path, context: StepContext) -> Mapping[str, Any]:
        from trl import DPOConfig

        from components.training.preference import PairCollator, SafeDpo, pair_lengths
        from components.training.run import Run

        problem = self.problem(dataset)
        if problem:
            raise TrainingError(problem)
        run = Run(self.config, model, dataset, out, context)
        rows = preference_rows(dataset, "train", run.tokenizer, self.config)
        held_out = preference_rows(dataset, "eval", run.tokenizer, self.config) if self.config.evaluate else None

        def build(network: Any, arguments: dict[str, Any]) -> SafeDpo:
            own = {
                "beta": self.config.beta,
                "loss_type": self.config.loss_type,
                "loss_weights": self.config.loss_weights,
                "label_smoothing": self.config.label_smoothing,
                # an adapter is switched off to ask the reference; without one, TRL must not load a second model
                "precompute_ref_log_probs": self.config.peft is None,
                "max_length": None,
            }
            return SafeDpo(
                run=run,
                model=network,
                args=DPOConfig(**arguments, **own),
                data_collator=PairCollator(padding(run.tokenizer), run.setting.pad_to),
                train_dataset=rows,
                eval_dataset=held_out,
                processing_class=run.tokenizer,
            )

        figures = run.train(rows, build, max(pair_lengths(rows)))
        return {**figures, "rows_left_out": dataset.meta["rows"]["train"] - len(rows)}
