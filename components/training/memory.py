"""When memory runs out: smaller micro-batches, activation checkpointing, lower precision, the CPU, in that order.

Each rung keeps the effective batch, and with it what is learnt; rounding changes, so the step goes on record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from components.training.setting import Setting

SAID_BY_ALLOCATORS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator gave up; torch has an error class for GPUs, on a CPU only the message tells."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in SAID_BY_ALLOCATORS)


def _smaller_batch(now: Setting) -> Setting | None:
    """Half the rows in a forward pass, twice the passes: the same step."""
    if now.micro_batch % 2:
        return None
    return now.changed(micro_batch=now.micro_batch // 2, accumulate=now.accumulate * 2)


def _activation_checkpointing(now: Setting) -> Setting | None:
    return None if now.activation_checkpointing else now.changed(activation_checkpointing=True)


def _lower_precision(now: Setting) -> Setting | None:
    return now.changed(dtype="bfloat16") if now.dtype == "float32" else None


def _cpu(now: Setting) -> Setting | None:
    return None if now.device == "cpu" else now.changed(device="cpu", dtype="float32", attention="eager")


RUNGS: dict[str, Callable[[Setting], Setting | None]] = {
    "smaller_batch": _smaller_batch,
    "activation_checkpointing": _activation_checkpointing,
    "lower_precision": _lower_precision,
    "cpu": _cpu,
}


def next_setting(now: Setting, rungs: Sequence[str]) -> Setting | None:
    """The first allowed way that differs from the one that failed; None at the bottom of the ladder."""
    return next((way for rung in rungs if (way := RUNGS[rung](now)) is not None), None)


def difference(before: Setting, after: Setting) -> str:
    """`micro_batch 8 -> 4, accumulate 1 -> 2`."""
    old, new = before.notes(), after.notes()
    return ", ".join(f"{name} {old[name]} -> {new[name]}" for name in old if old[name] != new[name])
