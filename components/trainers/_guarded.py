"""TRL's SFT trainer with a cheaper loss, a guard against NaN, and events for each step.

Imports torch and TRL, so it is imported only when training starts (a leading underscore keeps discovery away).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback
from trl import SFTTrainer

from components.core.dataset import token_lengths
from components.core.errors import TrainingError
from components.core.events import EpochFinished, EventBus, TrainStep
from components.trainers._packing import PIECES, PackCollator, PackedRows, check_packing, shuffled_passes, wants_flat


@dataclass
class Meter:
    """Loss of every step, and tokens seen."""

    losses: list[float] = field(default_factory=list)
    tokens: int = 0


class GuardedSftTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer on rows that are tokenised already (`input_ids`, `labels`), bucketed by length or packed."""

    train_dataset: Any

    def __init__(self, *args: Any, bus: EventBus, packing: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.meter = Meter()
        self.remove_callback(PrinterCallback)
        in_a_pass = rows_in_a_pass(len(self.train_dataset), self.args.train_batch_size)
        if packing:
            self._pack()
            in_a_pass = len(self.train_dataset)
        self.add_callback(_Progress(bus, self.meter, in_a_pass))

    def _pack(self) -> None:
        """Packs take the place of rows; a model that cannot keep the rows of a pack apart stops the run here."""
        flat = wants_flat(self.model)
        with self.accelerator.autocast() if flat else nullcontext():  # FlashAttention knows no fp32
            check_packing(self.model, self.train_dataset[: sum(PIECES)]["input_ids"])
        self.train_dataset = PackedRows(self.train_dataset, self.args.max_length, self.args.seed)
        self.data_collator = PackCollator(self.processing_class.pad_token_id, flat)

    def figures(self) -> dict[str, float]:
        """What packing adds to the figures of a run."""
        return self.train_dataset.figures() if isinstance(self.train_dataset, PackedRows) else {}

    def _get_train_sampler(self, train_dataset: Any = None) -> list[int]:
        arguments = self.args
        count = arguments.max_steps * arguments.gradient_accumulation_steps * arguments.train_batch_size
        if isinstance(self.train_dataset, PackedRows):
            return shuffled_passes(len(self.train_dataset), arguments.seed, count)
        return bucketed_order(token_lengths(self.train_dataset), arguments.train_batch_size, arguments.seed, count)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if return_outputs or not _has_plain_head(model):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # accelerate puts autocast around the wrapped forward, which the loss below goes past
        with self.accelerator.autocast():
            return trained_tokens_loss(self.accelerator.unwrap_model(model), inputs, num_items_in_batch)

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # packs bring their number of tokens; padded rows have a mask
        self.meter.tokens += int(inputs.pop("tokens") if "tokens" in inputs else inputs["attention_mask"].sum())
        loss = super().training_step(model, inputs, *args, **kwargs)
        # before the optimizer moves a weight: a NaN that is applied once is in every later checkpoint
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss.item()} at step {self.state.global_step + 1}; "
                "lower learning_rate, or look for damaged rows"
            )
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # without TRL's entropy and accuracy, which were not computed; and quietly: the bus tells whoever wants to know
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.callback_handler.on_log(self.args, self.state, self.control, logs)


class _Progress(TrainerCallback):  # type: ignore[misc]
    """Emits `TrainStep` for every optimizer step, and `EpochFinished` when all rows (or packs) were seen once more."""

    def __init__(self, bus: EventBus, meter: Meter, in_a_pass: int) -> None:
        self.bus, self.meter, self.in_a_pass, self.started = bus, meter, in_a_pass, time.perf_counter()
        self.passes = 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        self.meter.losses.append(float(logs["loss"]))
        self.bus.emit(
            TrainStep(
                step=state.global_step,
                total=args.max_steps,
                loss=float(logs["loss"]),
                tokens_per_s=self.meter.tokens / (time.perf_counter() - self.started),
                figures={name: float(logs.get(name, 0.0)) for name in ("grad_norm", "learning_rate")},
            )
        )
        self._tell_pass(args, state.global_step)

    def _tell_pass(self, args: Any, step: int) -> None:
        # not in `on_epoch_end`: the sampler lays out the whole run, which transformers takes for a single epoch
        seen = step * args.gradient_accumulation_steps * args.train_batch_size
        passes = seen // self.in_a_pass
        if passes > self.passes:
            self.passes = passes
            self.bus.emit(EpochFinished(epoch=float(passes), step=step))


def rows_in_a_pass(rows: int, batch_size: int) -> int:
    """How many rows `bucketed_order` takes in one pass: a last batch that is not full is left out."""
    return rows if rows < batch_size else rows - rows % batch_size


def bucketed_order(lengths: list[int], batch_size: int, seed: int, count: int) -> list[int]:
    """Row numbers in training order: batches of similar length (little padding), the batches themselves shuffled.

    transformers' own grouping sorts long stretches from long to short, so training ends on the shortest rows only.
    """
    random = Random(seed)
    order: list[int] = []
    while len(order) < count:
        rows = list(range(len(lengths)))
        random.shuffle(rows)
        pool = batch_size * 16
        batches = []
        for start in range(0, len(rows), pool):
            alike = sorted(rows[start : start + pool], key=lambda row: lengths[row])
            batches += [alike[i : i + batch_size] for i in range(0, len(alike), batch_size)]
        random.shuffle(batches)
        order += [row for batch in batches if len(batch) == batch_size or len(rows) < batch_size for row in batch]
    return order


def _has_plain_head(model: Any) -> bool:
    """Whether logits are nothing but hidden states times the output matrix (no capping, no scaling)."""
    config = model.config.get_text_config()
    altered = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
    return not any(getattr(config, name, None) for name in altered) and not getattr(config, "num_local_experts", None)


def trained_tokens_loss(model: Any, inputs: Mapping[str, Any], num_items: Any) -> Any:
    """Mean negative log-likelihood of the labelled tokens, a scalar.

    On a CPU, TRL 1.16 multiplies every position with the output matrix and computes an entropy nobody reads: more
    than half of a step for a small model with a large vocabulary. Here only labelled positions reach the matrix.
    """
    network = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = getattr(network, network.base_model_prefix)
    # rows are padded on the right and attention is causal: no real token can see a pad, so no mask is needed
    # (packs bring position ids that restart at each row: transformers makes their block-diagonal mask of those)
    places = {"position_ids": inputs["position_ids"]} if "position_ids" in inputs else {}
    hidden = backbone(input_ids=inputs["input_ids"], use_cache=False, **places).last_hidden_state[:, :-1]
    labels = inputs["labels"][:, 1:]
    chosen = labels != -100
    logits = network.get_output_embeddings()(hidden[chosen]).float()
    total = torch.nn.functional.cross_entropy(logits, labels[chosen], reduction="sum")
    return total / (chosen.sum() if num_items is None else num_items)
