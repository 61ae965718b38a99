"""Watches whatever `transformers.Trainer` a process makes: what went in, each step's time and loss, memory.

    probe = install()      # before a trainer is made
    ...                    # anything that trains
    print(json.dumps(probe.report()))

The same few lines on every side of a comparison, LLaMA-Factory's older libraries included, so that all are measured by
one rule. Nothing of Postmill is imported.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

BEGUN = time.perf_counter()


class Probe:
    """What was seen. Times in seconds; a step counts from its first forward pass to the end of the optimizer's work."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []
        self.losses: list[Any] = []
        self.tokens: list[Any] = []
        self.rows: list[Any] = []
        self.padding: int | None = None
        self.setting: dict[str, Any] = {}

    def mark(self) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.marks.append((time.perf_counter(), time.process_time()))

    def batch(self, inputs: Any) -> None:
        """Tokens that are no padding, and the rows themselves. As tensors: reading them here would hold a GPU up."""
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        self.tokens.append((ids != self.padding).sum() if mask is None else mask.sum())
        self.rows.append(ids)

    def describe(self, trainer: Any) -> None:
        import torch

        arguments, parameters = trainer.args, list(trainer.model.parameters())
        self.padding = trainer.processing_class.pad_token_id
        self.setting = {
            "trainer": type(trainer).__name__,
            "threads": torch.get_num_threads(),
            "weights": sorted({str(p.dtype).removeprefix("torch.") for p in parameters}),
            "autocast": str(trainer.accelerator.mixed_precision),
            "attention": trainer.model.config._attn_implementation,
            "activations recomputed": _recomputes(trainer.model),
            "batch": arguments.train_batch_size,
            "accumulate": arguments.gradient_accumulation_steps,
            "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        }

    def report(self, rows: bool = True) -> dict[str, Any]:
        """Everything, as plain data. `seconds`: all steps, without start-up and without what comes after the last."""
        (first, worked), (last, done) = self.marks[0], self.marks[-1]
        tokens = [int(count) for count in self.tokens]
        return {
            "seconds": last - first,
            "cpu_seconds": done - worked,
            "steps": len(self.marks) - 1,
            "step_seconds": [after[0] - before[0] for before, after in zip(self.marks, self.marks[1:], strict=False)],
            "before_s": first - BEGUN,
            "whole_s": time.perf_counter() - BEGUN,
            "losses": [float(loss) for loss in self.losses],
            "tokens": sum(tokens),
            "pass_tokens": tokens,
            "rows": [row for ids in self.rows for row in ids.tolist()] if rows else [],
            "peak_mb": peak_memory(),
            "gpu_peak_mb": _gpu_memory(),
            "setting": self.setting,
        }


def _gpu_memory() -> float:
    """MB that tensors held at most on the GPU; 0 without one."""
    import torch

    return torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else 0.0


def _recomputes(model: Any) -> bool:
    """Whether activations are computed a second time on the way back; transformers 5.23 has a new name for it."""
    flag = (
        "is_activation_checkpointing" if hasattr(model, "is_activation_checkpointing") else "is_gradient_checkpointing"
    )
    return bool(getattr(model, flag))


def peak_memory() -> float:
    """MB that this process held at most."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) * 1024 / 1e6 for line in status.splitlines() if line.startswith("VmHWM"))


def install() -> Probe:
    """From here on every trainer of this process is watched by the probe that is returned."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import Trainer, TrainerCallback

    probe = Probe()

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not probe.marks:
                probe.mark()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            probe.mark()

    made, step = Trainer.__init__, Trainer.training_step

    def watched(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        self.add_callback(Clock())

    def counted(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if not probe.setting:
            probe.describe(self)
        probe.batch(inputs)
        loss = step(self, model, inputs, *args, **kwargs)
        probe.losses.append(loss.detach())
        return loss

    Trainer.__init__, Trainer.training_step = watched, counted
    return probe
