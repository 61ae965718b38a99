"""Supervised fine-tuning on TRL, full or with a LoRA adapter (PEFT). Only the assistant's tokens carry loss.

    train: [{type: sft, max_steps: 60, learning_rate: 5.0e-4, lora: {r: 16, target_modules: all-linear}}]

TRL's defaults are for large GPUs. Here activation checkpointing is off (it computes every layer twice), rows of
similar length share a batch (less padding), and matrices are multiplied in bfloat16 where the processor can.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from components.core.artifacts import Artifact, write_json
from components.core.component import StrictConfig
from components.core.dataset import index, token_lengths, tokens
from components.core.errors import ConfigError, TrainingError
from components.core.events import CheckpointSaved
from components.core.kinds import register, registry
from components.core.machine import machine
from components.core.recipe import OfKind, Spec
from components.core.safeload import load_causal_lm, load_tokenizer
from components.interfaces import StepContext, Trainer

SHORT = 512
"""Tokens up to which plain attention is used on a CPU; its memory grows with the square of the length."""


class Lora(StrictConfig):
    """Low-rank adapter (Hu et al. 2021, arXiv:2106.09685): rank, scale, and the layers it is put on."""

    r: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"


def _default_optimizer() -> Spec:
    return Spec(kind="optimizer", type="adamw", config=registry.get("optimizer", "adamw").Config())


@register("trainer", "sft")
class SftTrainer(Trainer):
    """Supervised fine-tuning on conversations (TRL), full or LoRA."""

    libraries = ("torch", "transformers", "trl", "peft")
    shapes = ("conversation", "text")
    depends_on_machine = True

    class Config(StrictConfig):
        max_steps: PositiveInt = 60
        batch_size: PositiveInt = Field(8, description="rows (with packing: packs) in one forward pass")
        accumulate: PositiveInt = Field(1, description="forward passes in one optimizer step")
        learning_rate: PositiveFloat = 5e-4
        warmup_steps: int = Field(5, ge=0)
        scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
        optimizer: Annotated[Spec, OfKind("optimizer")] = Field(default_factory=_default_optimizer)
        weight_decay: float = Field(0.0, ge=0)
        max_grad_norm: PositiveFloat = 1.0
        max_length: PositiveInt = Field(1024, description="tokens of a row or pack; longer rows stop the run")
        packing: bool = Field(
            False, description="several rows in one sequence, each trained as if alone; a batch is batch_size packs"
        )
        max_too_long_fraction: float = Field(0.0, ge=0, le=1, description="rows that may be left out for their length")
        dtype: Literal["auto", "float32", "bfloat16"] = "auto"
        lora: Lora | None = None

    config: Config

    @classmethod
    def produces_kind(cls, config: Any) -> str:
        return "adapter" if config.lora else "model"

    def train(self, model: Artifact, dataset: Artifact, out: Path, context: StepContext) -> Mapping[str, Any]:
        from transformers import set_seed

        set_seed(context.seed)
        tokenizer = load_tokenizer(model.path)
        rows, left_out = self._rows(tokenizer, dataset)
        network = load_causal_lm(model.path)
        longest = self.config.max_length if self.config.packing else max(token_lengths(rows))
        if longest <= SHORT and network.device.type != "cuda":
            # on a CPU the fused attention's backward pass is slower than plain matrix products on short rows
            network.set_attn_implementation("eager")
        trainer = self._trainer(network, tokenizer, rows, out, context)
        started = time.perf_counter()
        result = trainer.train()
        seconds = time.perf_counter() - started
        self._save(trainer.model, tokenizer, model, out)
        context.bus.emit(CheckpointSaved(path=str(out), step=result.global_step))
        return {
            "steps": result.global_step,
            "final_loss": round(trainer.meter.losses[-1], 4),
            "losses": [round(loss, 5) for loss in trainer.meter.losses],
            "tokens": trainer.meter.tokens,
            "tokens_per_s": round(trainer.meter.tokens / seconds, 1),
            "train_seconds": round(seconds, 1),
            "rows": len(rows),
            "rows_left_out": left_out,
            **trainer.figures(),
            "dtype": self._dtype(),
        }

    def _dtype(self) -> str:
        return machine().dtype() if self.config.dtype == "auto" else self.config.dtype

    def problem(self, dataset: Artifact) -> str | None:
        problem = super().problem(dataset)
        if problem or dataset.meta.get("tokenizer") is None:
            return problem
        lengths = token_lengths(index(dataset, "train"))
        too_long = sum(length > self.config.max_length for length in lengths)
        if too_long < len(lengths) and too_long <= self.config.max_too_long_fraction * len(lengths):
            return None
        return (
            f"{too_long} of {len(lengths)} training rows are longer than max_length={self.config.max_length} tokens; "
            "raise max_length, or allow leaving them out with max_too_long_fraction"
        )

    def _rows(self, tokenizer: Any, dataset: Artifact) -> tuple[Any, int]:
        """Tokens of the training rows; fails closed on rows without loss and on too many long ones."""
        problem = self.problem(dataset)
        if problem:
            raise TrainingError(problem)
        rows = tokens(dataset, "train", tokenizer)
        silent = [number for number, spans in enumerate(rows.with_format("arrow")["spans"]) if not len(spans)]
        if silent:
            raise TrainingError(f"training row {silent[0] + 1} has no token to learn from: the chat template hides it")
        fitting = [number for number, length in enumerate(token_lengths(rows)) if length <= self.config.max_length]
        too_long = len(rows) - len(fitting)
        return (rows.select(fitting) if too_long else rows), too_long

    def _trainer(self, network: Any, tokenizer: Any, rows: Any, out: Path, context: StepContext) -> Any:
        from peft import LoraConfig

        from components.trainers._guarded import GuardedSftTrainer

        lora = self.config.lora
        adapter = lora and LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.target_modules,
            task_type="CAUSAL_LM",
        )
        try:
            return GuardedSftTrainer(
                model=network,
                args=self._arguments(out, context.seed),
                train_dataset=rows,
                processing_class=tokenizer,
                peft_config=adapter,
                optimizer_cls_and_kwargs=self.config.optimizer.build().rule(self.config.learning_rate),
                bus=context.bus,
                packing=self.config.packing,
            )
        except ValueError as error:
            if "target modules" not in str(error).lower():
                raise
            known = sorted({name.rpartition(".")[2] for name, m in network.named_modules() if hasattr(m, "weight")})
            raise ConfigError(
                f"lora.target_modules={lora and lora.target_modules!r} matches no layer of this model; "
                f"known: {', '.join(known)}"
            ) from error

    def _arguments(self, out: Path, seed: int) -> Any:
        import torch
        from trl import SFTConfig

        config = self.config
        return SFTConfig(
            output_dir=str(out / ".trainer"),
            max_steps=config.max_steps,
            per_device_train_batch_size=config.batch_size,
            gradient_accumulation_steps=config.accumulate,
            learning_rate=config.learning_rate,
            warmup_steps=config.warmup_steps,
            lr_scheduler_type=config.scheduler,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            max_length=config.max_length,
            use_cpu=not torch.cuda.is_available(),
            bf16=self._dtype() == "bfloat16",
            activation_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,  # the columns of a row are made when it is asked for
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
            data_seed=seed,
            dataloader_pin_memory=False,
        )

    @staticmethod
    def _save(network: Any, tokenizer: Any, model: Artifact, out: Path) -> None:
        network.save_pretrained(out, safe_serialization=True)
        tokenizer.save_pretrained(out)
        adapter_config = out / "adapter_config.json"
        if adapter_config.is_file():
            _stable_adapter_config(adapter_config, model)
        (out / "README.md").unlink(missing_ok=True)
        (out / ".trainer").rmdir() if (out / ".trainer").is_dir() else None


def _stable_adapter_config(path: Path, model: Artifact) -> None:
    """Same adapter, same bytes: PEFT writes sets in random order, and the path of the base on this machine."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = f"sha256:{model.digest}"
    for key, value in config.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            config[key] = sorted(value)
    write_json(path, dict(sorted(config.items())))
