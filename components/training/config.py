"""The keys that every trainer takes: how long, how fast, how safe. A trainer adds its own to `TrainingConfig`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from components.core.component import StrictConfig
from components.core.errors import ConfigError
from components.core.kinds import registry
from components.core.machine import Bytes
from components.core.recipe import DataSection, OfKind, Spec
from components.training.adapters import Adapter, Lora

STEPS = 60
"""Optimizer steps where a recipe says neither `max_steps` nor `epochs`."""


class Checkpoints(StrictConfig):
    """When to save, what to keep, and whether to go on from it."""

    every: PositiveInt | None = Field(50, description="optimizer steps; null: none, so a killed step begins anew")
    keep_last: PositiveInt = 2
    resume: bool = Field(True, description="go on from the last checkpoint; false: begin anew and remove them")
    folder: Path | None = Field(None, description="below the workspace by default, one folder for each set of inputs")


class Guards(StrictConfig):
    """When training stops itself because going on would waste time."""

    diverged: PositiveFloat | None = Field(
        1.5, description="stop when the loss stays above this many times that of the first steps; null: never"
    )
    max_loss: PositiveFloat | None = Field(None, description="stop when the loss stays above")
    patience: PositiveInt = Field(10, description="steps in a row")
    max_memory: Bytes | None = Field(
        None, description="stop when the measured peak is above, such as 2GB: of the GPU, or of the process without one"
    )


class Evaluation(StrictConfig):
    """Loss on rows of the eval split while training."""

    every: PositiveInt = Field(20, description="optimizer steps")
    rows: PositiveInt = Field(64, description="the same ones each time")
    patience: PositiveInt | None = Field(
        None, description="stop early after this many evaluations without a lower loss"
    )
    min_delta: float = Field(0.0, ge=0, description="what counts as lower")
    keep: Literal["last", "best"] = Field("last", description="which weights are the result")


class Samples(StrictConfig):
    """Answers of the model in training to prompts of the eval split."""

    every: PositiveInt = Field(50, description="optimizer steps")
    prompts: PositiveInt = 2
    max_new_tokens: PositiveInt = 48


class Speed(StrictConfig):
    """How the arithmetic is done. What is not said follows from the machine, the model and the lengths of the rows."""

    threads: PositiveInt | None = None
    attention: Literal["eager", "short", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3"] | None = (
        Field(None, description="short: ours, for half precision on a CPU; the others are transformers'")
    )
    activation_checkpointing: bool = Field(False, description="compute layers twice instead of keeping activations")
    compile: bool = Field(False, description="torch.compile; pays off after hundreds of steps")
    chunk: PositiveInt = Field(2048, description="trained tokens whose logits are held at once")
    bucketing: bool = Field(True, description="rows of similar length share a batch")


class Launcher(StrictConfig):
    """More than one process or machine, through torch's launcher and accelerate."""

    processes: PositiveInt = Field(1, description="on each machine")
    machines: PositiveInt = 1
    machine_rank: NonNegativeInt = Field(0, description="number of this machine")
    address: str = Field("127.0.0.1", description="of the machine with number 0")
    port: PositiveInt | None = Field(None, description="a free one by default; must be said for several machines")
    strategy: Literal["ddp", "fsdp", "deepspeed"] = "ddp"
    options: dict[str, Any] = Field({}, description="fsdp_config or the DeepSpeed configuration, passed through")

    @model_validator(mode="after")
    def _machines_find_each_other(self) -> Launcher:
        if self.machines > 1 and self.port is None:
            raise ConfigError("several machines need a port that all of them know: launcher.port: 29500")
        if self.machine_rank >= self.machines:
            raise ConfigError(f"launcher.machine_rank is {self.machine_rank}, but there are {self.machines} machines")
        return self

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.processes * self.machines


Rung = Literal["smaller_batch", "activation_checkpointing", "lower_precision", "cpu"]


def _default_optimizer() -> Spec:
    return Spec(kind="optimizer", type="adamw", config=registry.get("optimizer", "adamw").Config())


class TrainingConfig(StrictConfig):
    """What all trainers share."""

    max_steps: PositiveInt | None = Field(None, description=f"optimizer steps; {STEPS} where epochs is not said either")
    epochs: PositiveFloat | None = Field(None, description="passes over the rows; with max_steps, what comes first")
    batch_size: PositiveInt = Field(8, description="rows (with packing: packs) in one forward pass of all processes")
    accumulate: PositiveInt = Field(1, description="forward passes in one optimizer step")
    learning_rate: PositiveFloat = 5e-4
    warmup_steps: int = Field(5, ge=0)
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    optimizer: Annotated[Spec, OfKind("optimizer")] = Field(default_factory=_default_optimizer)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: PositiveFloat = 1.0
    max_length: PositiveInt = Field(1024, description="tokens of a row or pack; longer rows stop the run")
    max_too_long_fraction: float = Field(0.0, ge=0, le=1, description="rows that may be left out for their length")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    lora: Lora | None = None
    adapter: Adapter | None = Field(None, description="another PEFT method by name, in place of lora")
    determinism: Literal["exact", "fast"] = Field("exact", description="the same seed gives the same bytes, or not")
    speed: Literal["auto", "rules"] | Speed = Field(
        "rules", description="rules: from the facts; auto: measured for a few steps; or said key by key"
    )
    out_of_memory: list[Rung] = Field(list(get_args(Rung)), description="what is tried, in order, when memory runs out")
    checkpoint: Checkpoints = Checkpoints()
    guards: Guards = Guards()
    evaluate: Evaluation | None = None
    samples: Samples | None = None
    launcher: Launcher = Launcher()
    callbacks: list[Annotated[Spec, OfKind("callback")]] = []
    data: DataSection | None = Field(None, description="rows of this step, where they are not those of the recipe")

    @model_validator(mode="after")
    def _consistent(self) -> TrainingConfig:
        problems = []
        if self.lora and self.adapter:
            problems.append("lora and adapter are two ways to say one thing; remove one")
        if self.batch_size % self.launcher.world:
            problems.append(f"batch_size={self.batch_size} cannot be shared by {self.launcher.world} processes")
        if self.launcher.world > 1 and self.speed == "auto":
            problems.append("speed: auto measures in one process; pin what it chose there, or write speed: rules")
        if self.launcher.strategy != "ddp" and (self.samples or self.callbacks or (self.lora and self.lora.quantize)):
            problems.append(
                f"samples, callbacks and quantize do not go with launcher.strategy: {self.launcher.strategy}"
            )
        replacing = [spec.type for spec in self.callbacks if spec.component.replaces_result]
        if replacing and self.evaluate and self.evaluate.keep == "best":
            problems.append(
                f"callbacks: {', '.join(replacing)} makes a result of its own, and evaluate.keep: best another; remove "
                "the callback, or set evaluate.keep: last"
            )
        if problems:
            raise ConfigError(problems)
        return self

    @property
    def peft(self) -> Lora | Adapter | None:
        """The adapter that is trained; None: all weights are."""
        return self.lora or self.adapter
