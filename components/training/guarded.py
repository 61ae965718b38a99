"""What every TRL trainer gets here: an order laid out in advance, guards, committed checkpoints, events.

    class SafeDpo(Guarded, DPOTrainer): ...
    SafeDpo(run=run, model=network, args=arguments, train_dataset=rows, ...)

The training loop is transformers'. This class replaces the four places where it writes and reads checkpoints (pickles,
in place), the one that chooses the order of rows, and stops before the optimizer where a loss or gradient is no number.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import broadcast_object_list, gather_object
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from components.core.artifacts import write_json
from components.core.dataset import IGNORED, token_lengths
from components.core.errors import TrainingError
from components.core.events import CheckpointSaved, EpochFinished, TrainingEvaluated, TrainStep
from components.core.machine import human_bytes, peak_rss
from components.training.head import add_lean_head, has_plain_head
from components.training.order import bucketed_order, shuffled_passes
from components.training.packing import PackedRows
from components.training.run import Run
from components.training.state import (
    load_optimizer,
    load_tensors,
    random_state,
    restore_random_state,
    restore_weights,
    save_optimizer,
    save_tensors,
    trained_weights,
)

NAMED = 12
"""Rows that an error names at most."""


class Guarded:
    """Stands before a TRL trainer among the bases of a class. The attributes below are transformers'."""

    ordered: ClassVar[bool] = True
    """False: the trainer lays out its rows itself (it generates several answers to each)."""
    scored: ClassVar[bool] = True
    """Whether the loss needs log-probabilities position by position; without, the head gives the loss alone."""
    args: Any
    state: Any
    control: Any
    model: Any
    optimizer: Any
    lr_scheduler: Any
    accelerator: Any
    train_dataset: Any
    eval_dataset: Any
    data_collator: Any
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool

    def __init__(self, *args: Any, run: Run, **kwargs: Any) -> None:
        self.run = run
        if run.config.launcher.world == 1 and kwargs["args"].n_gpu > 1:
            # transformers would replicate the model on all of them and multiply the batch; the launcher is for that
            kwargs["args"]._n_gpu = 1
        super().__init__(*args, **kwargs)
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)  # type: ignore[attr-defined]
        self.optimizer_cls_and_kwargs = run.config.optimizer.build().rule(run.config.learning_rate)
        if "ref" in getattr(self.model, "peft_config", {}):
            # TRL copies an adapter that it is given, to compare with; ours is fresh, and without it there is the base
            self.model.delete_adapter("ref")
        self.lean = self.args.device.type == "cpu" and has_plain_head(self.model)
        if self.lean:
            self.add_head()
        self.micro = self.saved_step = 0
        for callback in (_Watch(self), *run.hooks):
            self.add_callback(callback)  # type: ignore[attr-defined]

    def add_head(self) -> None:
        """Have only the labelled positions multiplied with the output matrix."""
        add_lean_head(self.model, self.run.setting.chunk, self.scored)

    # ------------------------------------------------------------ order of rows

    def lengths(self) -> list[int]:
        """Tokens of each training row."""
        return token_lengths(self.train_dataset)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if not self.ordered:
            return super()._get_train_sampler(train_dataset)  # type: ignore[misc]
        self.order = self._layout()
        return self.order

    def _layout(self) -> list[int]:
        """Row numbers for the whole run; batches are those of the recipe, however they are cut up and shared."""
        config, rows = self.run.config, len(self.train_dataset)
        count = self.args.max_steps * config.accumulate * config.batch_size
        if isinstance(self.train_dataset, PackedRows) or not self.run.setting.bucketing:
            return shuffled_passes(rows, self.args.seed, count)[:count]
        return bucketed_order(self.lengths(), config.batch_size, self.args.seed, count)[:count]

    def rows_now(self) -> list[int]:
        """Numbers of the rows in the micro-batch that this process works on."""
        if not self.ordered:
            return []
        size, world = self.args.train_batch_size, self.args.world_size
        batch = self.state.global_step * self.args.gradient_accumulation_steps + self.micro - 1
        start = (batch * world + self.args.process_index) * size
        return self.order[start : start + size]

    # ------------------------------------------------------------ guards

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.micro += 1
        if "rows" in inputs:
            self.run.meter.rows += int(inputs.pop("rows"))
        elif "attention_mask" in inputs:
            self.run.meter.rows += len(inputs["attention_mask"])
        self.run.meter.trained += _count_trained(inputs)
        self.run.meter.tokens += self.count_tokens(inputs)
        loss = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        # before the optimizer moves a weight: a NaN that is applied once is in every later checkpoint
        if not torch.isfinite(loss):
            raise self._poisoned(f"the loss became {loss.item()}")
        return loss

    def count_tokens(self, inputs: Any) -> int:
        """Tokens in a batch, without padding; packs bring their number."""
        if "tokens" in inputs:
            return int(inputs.pop("tokens"))
        return int(inputs["attention_mask"].sum()) if "attention_mask" in inputs else 0

    def spared_flops(self) -> float:
        """Operations a token that the lean head does not do, since it leaves out positions without loss."""
        meter, head = self.run.meter, self.model.get_output_embeddings() if self.lean else None
        if head is None or not meter.tokens:
            return 0.0
        operations = 6 if head.weight.requires_grad else 4
        return float(operations * head.weight.numel() * (1 - meter.trained / meter.tokens))

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[misc]
        scaled = getattr(self.accelerator, "scaler", None) is not None  # fp16: such steps are skipped, as intended
        if norm is not None and not scaled and not math.isfinite(float(norm)):
            raise self._poisoned(f"the gradient's norm became {float(norm)}")
        return norm

    def _poisoned(self, what: str) -> TrainingError:
        rows = self.rows_now()
        broken = [row for row in rows if not self._finite_alone(row)]
        names = ", ".join(self.run.row_name(self.train_dataset, row) for row in rows[:NAMED]) or "generated rows"
        if not rows or len(broken) == len(rows):
            remedy = "every row of it does that now, so lower learning_rate or raise warmup_steps"
        elif broken:
            guilty = ", ".join(self.run.row_name(self.train_dataset, row) for row in broken[:NAMED])
            remedy = f"alone, only this does: {guilty}; look at it, and lower learning_rate if it is sound"
        else:
            remedy = "alone, none of them does; lower learning_rate"
        return TrainingError(
            f"{what} at step {self.state.global_step + 1}, before any weight was changed. "
            f"Rows in the batch: {names}; {remedy}"
        )

    def _finite_alone(self, row: int) -> bool:
        batch = self._prepare_inputs(self.data_collator([self.train_dataset[row]]))  # type: ignore[attr-defined]
        batch.pop("tokens", None)
        with torch.no_grad():
            return bool(torch.isfinite(self.compute_loss(self.model, batch)))  # type: ignore[attr-defined]

    # ------------------------------------------------------------ evaluation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Figures on the eval rows: `eval_loss` and what the method adds."""
        started = time.perf_counter()
        found: dict[str, float] = super().evaluate(*args, **kwargs)  # type: ignore[misc]
        self.run.paused += time.perf_counter() - started
        return found

    # ------------------------------------------------------------ checkpoints

    @property
    def sharded(self) -> bool:
        """Whether weights and optimizer are spread over processes; each then writes its part in accelerate's format."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        if self.run.folder is None:
            return
        self.run.settle_clock()
        self.run.settle_energy()
        step, size = self.state.global_step, 0
        if self.args.process_index == 0:
            saved = self.run.folder.save(step, self._write, self.run.meter.best_step)
            size = sum(file.stat().st_size for file in saved.path.iterdir() if file.is_file())
            self.run.emit(CheckpointSaved(path=str(saved.path), step=step, size=size))
        else:
            self._write(None)
        self.saved_step = step
        self.accelerator.wait_for_everyone()

    def _write(self, place: Path | None) -> Mapping[str, Any]:
        """Every process takes part; the first one has made the directory and tells the others where it is."""
        told: list[str] = [str(place)]
        broadcast_object_list(told)
        place = Path(told[0])
        states = gather_object([random_state()])
        if self.sharded:
            self._save_optimizer_and_scheduler(str(place))  # type: ignore[attr-defined]
        if self.args.process_index:
            return {}
        if not self.sharded:
            save_tensors(trained_weights(self.model), place / "weights.safetensors")
            save_optimizer(self.optimizer, place)
            write_json(place / "schedule.json", self.lr_scheduler.state_dict())
        for rank, state in enumerate(states):
            save_tensors(state, place / f"random-{rank}.safetensors")
        if self.run.callback_state():
            save_tensors(self.run.callback_state(), place / "callbacks.safetensors")
        if getattr(self.accelerator, "scaler", None) is not None:
            write_json(place / "scaler.json", self.accelerator.scaler.state_dict())
        self.state.save_to_json(str(place / "trainer_state.json"))
        return {"setting": self.run.setting.notes(), "meter": self.run.meter.notes()}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.sharded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        place = Path(resume_from_checkpoint)
        restore_weights(self.model, load_tensors(place / "weights.safetensors"))
        if (place / "callbacks.safetensors").is_file():
            self.run.restore_callback_state(load_tensors(place / "callbacks.safetensors"))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.sharded:
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
            return
        load_optimizer(self.optimizer, Path(checkpoint))
        schedule = (Path(checkpoint) / "schedule.json").read_text(encoding="utf-8")
        self.lr_scheduler.load_state_dict(json.loads(schedule))

    def _load_scaler(self, checkpoint: str | None) -> None:
        file = Path(checkpoint or "") / "scaler.json"
        if checkpoint and file.is_file():
            self.accelerator.scaler.load_state_dict(json.loads(file.read_text(encoding="utf-8")))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint:
            file = Path(checkpoint) / f"random-{self.args.process_index}.safetensors"
            restore_random_state(load_tensors(file))


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Tells the bus of every step, and asks for checkpoints and an end where they are due."""

    def __init__(self, trainer: Guarded) -> None:
        self.trainer, self.run = trainer, trainer.run
        self.passes = 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.run.start_clock()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.trainer.micro = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        meter = self.run.meter
        meter.losses.append(float(logs["loss"]))
        meter.grad_norms.append(float(logs.get("grad_norm", 0.0)))
        meter.learning_rates.append(float(logs.get("learning_rate", 0.0)))
        own = dict(_own_figures(logs))
        for name, value in own.items():
            meter.figures.setdefault(name, []).append(round(value, 6))
        self.run.settle_clock()
        figures = {"grad_norm": meter.grad_norms[-1], "learning_rate": meter.learning_rates[-1], "memory": memory_now()}
        self.run.emit(
            TrainStep(
                step=state.global_step,
                total=args.max_steps,
                loss=meter.losses[-1],
                tokens_per_s=meter.tokens_per_s * args.world_size,
                figures=figures | own,
            )
        )
        self._refuse_divergence(state.global_step)
        self._refuse_memory(state.global_step, figures["memory"])
        self._tell_pass(state.global_step)

    def _refuse_divergence(self, step: int) -> None:
        guards, meter = self.run.config.guards, self.run.meter
        limit = meter.above(guards.diverged if self.run.watched else None, guards.max_loss, guards.patience)
        if limit is not None:
            raise TrainingError(
                f"training diverged: at step {step} the loss is {meter.losses[-1]:.3g} and stayed above {limit:.3g} "
                f"for {guards.patience} steps (it began at {meter.losses[0]:.3g}); lower learning_rate="
                f"{self.run.config.learning_rate:g} or raise warmup_steps (guards: {{diverged: null}} if it is meant)"
            )

    def _refuse_memory(self, step: int, peak: float) -> None:
        limit = self.run.config.guards.max_memory
        if limit is not None and peak > limit:
            raise TrainingError(
                f"training took {human_bytes(peak)} of memory by step {step}, and guards.max_memory is "
                f"{human_bytes(limit)}; lower batch_size (and raise accumulate), set speed: "
                "{activation_checkpointing: true}, or train an adapter, on a base in few bits (lora: {quantize: int4})"
            )

    def _tell_pass(self, step: int) -> None:
        # not in `on_epoch_end`: the sampler lays out the whole run, which transformers takes for a single epoch
        passes = step * self.run.config.accumulate * self.run.config.batch_size // self.run.rows_in_a_pass
        if passes > self.passes:
            self.passes = passes
            self.run.emit(EpochFinished(epoch=float(passes), step=step))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        every, last = self.run.config.checkpoint.every, state.global_step >= args.max_steps
        stop = self.run.told_to_stop()
        if self.run.folder is not None and not last and (stop or (every and state.global_step % every == 0)):
            control.should_save = True
        if stop:
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # the last step saves nothing by itself; told to stop there, the run is not to begin what comes after training
        if self.run.told_to_stop():
            if self.trainer.saved_step != state.global_step:
                self.trainer._save_checkpoint(self.trainer.model)
            self.run.stop.heeded = True

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        evaluation, meter = self.run.config.evaluate, self.run.meter
        figures = {name.removeprefix("eval_"): float(value) for name, value in metrics.items() if _told(name, value)}
        if "loss" not in figures:
            raise TrainingError(
                f"the eval loss is {metrics.get('eval_loss')} at step {state.global_step}; lower learning_rate, or "
                "look for damaged rows in the eval split"
            )
        meter.evaluated(state.global_step, figures, evaluation.min_delta if evaluation else 0.0)
        self.run.emit(TrainingEvaluated(step=state.global_step, figures=figures))
        if evaluation and evaluation.keep == "best" and meter.best_step == state.global_step:
            control.should_save = True
        if evaluation and evaluation.patience and meter.stale >= evaluation.patience:
            control.should_training_stop = True


def _own_figures(logs: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """What the method reports besides the loss (`rewards/margins`, `reward`), as far as it was computed."""
    for name, value in logs.items():
        computed = isinstance(value, int | float) and math.isfinite(value)
        if computed and name not in ("loss", "grad_norm", "learning_rate", "epoch", "num_tokens"):
            yield name, float(value)


def _told(name: str, value: Any) -> bool:
    timing = name.endswith(("_per_second", "_runtime", "epoch", "num_tokens", "entropy"))
    return isinstance(value, int | float) and math.isfinite(value) and not timing


def _count_trained(inputs: Any) -> int:
    if "labels" in inputs:
        return int((inputs["labels"] != IGNORED).sum())
    return int(inputs["completion_mask"].sum()) if "completion_mask" in inputs else 0


def memory_now() -> float:
    """Peak memory of this process so far, bytes: the GPU's where there is one."""
    return float(torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_rss())
