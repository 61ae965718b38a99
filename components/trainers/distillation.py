"""Distillation: a model learns another one's probabilities, not only the answers in the rows. Full or with an adapter.

    train: [{type: distillation, teacher: {type: pretrained, name: path/to/teacher}, alpha: 0.7, temperature: 2.0}]

`mode: offline` (the default) asks the teacher once about every trained token and keeps the `top_k` likeliest;
loss = alpha * T^2 * KL(teacher || student) + (1 - alpha) * cross-entropy. `mode: on_policy` lets the student answer
the prompts and compares the two on what it says (TRL's generalized JSD): slower by far, and it mends the student's own
mistakes. Both need a teacher with the student's vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from components.core.artifacts import Artifact
from components.core.dataset import token_lengths
from components.core.errors import ConfigError, TrainingError
from components.core.kinds import register
from components.core.recipe import OfKind, Spec
from components.interfaces import StepContext, Trainer
from components.training.config import TrainingConfig
from components.training.rows import eval_problem, eval_rows, length_problem, supervised_rows

SHAPES = {"offline": ("conversation", "text", "preference"), "on_policy": ("conversation", "prompt")}
ONLY = {"offline": ("alpha", "top_k"), "on_policy": ("beta", "max_completion_length")}
"""Keys that the other mode has no use for."""
NO_TEACHER = "name the model to learn from: teacher: {type: pretrained, name: NAME OR DIRECTORY}"


@register("trainer", "distillation")
class DistillationTrainer(Trainer):
    """A model learns a teacher's probabilities (Hinton et al. 2015, arXiv:1503.02531), kept or on its own answers."""

    libraries = ("torch", "transformers", "trl", "peft", "accelerate")
    shapes = ("conversation", "text", "preference", "prompt")
    depends_on_machine = True
    # the teacher is an input: its content counts, not where it came from
    neutral = ("checkpoint", "samples", "data", "teacher")

    class Config(TrainingConfig):
        teacher: Annotated[Spec | None, OfKind("model", optional=True)] = Field(
            None, description="where a pass heals, the unpruned model by default; a step of a recipe names one"
        )
        mode: Literal["offline", "on_policy"] = "offline"
        temperature: PositiveFloat = Field(1.0, description="above 1, unlikely tokens count more")
        alpha: float = Field(0.7, ge=0, le=1, description="offline: the teacher's part of the loss")
        top_k: PositiveInt = Field(32, description="offline: tokens kept a position; the others are one bucket")
        beta: float = Field(1.0, ge=0, le=1, description="on_policy: 0 forward KL, 1 reverse KL, between: JSD")
        max_completion_length: PositiveInt = Field(64, description="on_policy: tokens of an answer")

        @model_validator(mode="after")
        def _keys_of_the_mode(self) -> Any:
            other = "on_policy" if self.mode == "offline" else "offline"
            if found := [name for name in ONLY[other] if name in self.model_fields_set and self._differs(name)]:
                raise ConfigError(f"{', '.join(found)}: only for mode: {other}, and the mode is {self.mode}")
            return self

        def _differs(self, name: str) -> bool:
            return bool(getattr(self, name) != type(self).model_fields[name].default)

    config: Config

    @classmethod
    def produces_kind(cls, config: Any) -> str:
        return "adapter" if config.peft else "model"

    @classmethod
    def inputs(cls, config: Any) -> Mapping[str, Spec]:
        return {"teacher": config.teacher} if config.teacher else {}

    @classmethod
    def incomplete(cls, config: Any) -> str | None:
        return None if config.teacher else NO_TEACHER

    def problem(self, dataset: Artifact) -> str | None:
        shape, wanted = dataset.meta["shape"], SHAPES[self.config.mode]
        if shape not in wanted:
            return f"mode {self.config.mode} takes rows of shape {' or '.join(wanted)}, the data set holds {shape}"
        return self._length_problem(dataset) or eval_problem(dataset, self.config)

    def _length_problem(self, dataset: Artifact) -> str | None:
        if self.config.mode == "offline":
            return length_problem(dataset, self.config)
        from components.training.policy import prompts_problem

        return prompts_problem(dataset, self.config)

    def train(self, model: Artifact, dataset: Artifact, out: Path, context: StepContext) -> Mapping[str, Any]:
        from components.training.distilled import check_vocabulary
        from components.training.run import Run

        problem = self.problem(dataset)
        if problem:
            raise TrainingError(problem)
        teacher = context.inputs.get("teacher")
        if teacher is None:
            raise TrainingError(NO_TEACHER)
        run = Run(self.config, model, dataset, out, context, learning=self.config.mode == "offline")
        check_vocabulary(run.tokenizer, teacher)
        way = self._offline if self.config.mode == "offline" else self._on_policy
        figures, rows = way(run, dataset, teacher)
        return {**figures, "rows_left_out": dataset.meta["rows"]["train"] - len(rows)}

    def _offline(self, run: Any, dataset: Artifact, teacher: Artifact) -> tuple[Mapping[str, Any], Any]:
        from trl import SFTConfig

        from components.training.distilled import SafeDistillation
        from components.training.divergence import Mix

        rows = supervised_rows(dataset, "train", run.tokenizer, self.config)
        held_out = eval_rows(dataset, run.tokenizer, self.config)

        def build(network: Any, arguments: dict[str, Any]) -> SafeDistillation:
            given = {"max_length": self.config.max_length, "dataset_kwargs": {"skip_prepare_dataset": True}}
            return SafeDistillation(
                run=run,
                model=network,
                args=SFTConfig(**arguments, **given),
                train_dataset=rows,
                eval_dataset=held_out,
                processing_class=run.tokenizer,
                teacher=teacher,
                top_k=self.config.top_k,
                mix=Mix(self.config.alpha, self.config.temperature),
            )

        return run.train(rows, build, max(token_lengths(rows))), rows

    def _on_policy(self, run: Any, dataset: Artifact, teacher: Artifact) -> tuple[Mapping[str, Any], Any]:
        from trl import DistillationConfig

        from components.training.distilled import SafeOnPolicyDistillation, open_teacher
        from components.training.policy import prompt_lengths, prompt_rows

        config = self.config
        rows = prompt_rows(dataset, "train", run.tokenizer, config)
        held_out = prompt_rows(dataset, "eval", run.tokenizer, config) if config.evaluate else None
        if held_out is not None and config.evaluate:
            held_out = held_out.select(range(min(config.evaluate.rows, len(held_out))))
        own = {name: getattr(config, name) for name in ("beta", "temperature", "max_completion_length")}

        def build(network: Any, arguments: dict[str, Any]) -> SafeOnPolicyDistillation:
            return SafeOnPolicyDistillation(
                run=run,
                model=network,
                teacher_model=open_teacher(run, teacher),
                args=DistillationConfig(**arguments, **own),
                train_dataset=rows,
                eval_dataset=held_out,
                processing_class=run.tokenizer,
            )

        return run.train(rows, build, max(prompt_lengths(rows)) + config.max_completion_length), rows
