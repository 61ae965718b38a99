"""How one run does its arithmetic on this machine: devices, dtype, threads, sizes. Never what it computes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from components.core.families import GENERIC, Family
from components.core.machine import machine
from components.training.config import Speed, TrainingConfig

PADDED = 16
"""Width of batches in bfloat16 on a CPU. SmolLM2-135M, rows of 72 to 179 tokens: 8 to 32 are equally fast."""
SHORT_ROWS = 512
"""Tokens up to which attention by plain products is used on a CPU; its memory grows with the square of the length."""


@dataclass(frozen=True)
class Setting:
    """One way to train. `micro_batch` rows in a forward pass of one process, `accumulate` passes in a step."""

    device: str
    dtype: str
    micro_batch: int
    accumulate: int
    threads: int
    attention: str | None
    activation_checkpointing: bool = False
    compile: bool = False
    chunk: int = 2048
    bucketing: bool = True
    pad_to: int = 1
    """Batches are padded to a multiple of this many tokens."""

    def notes(self) -> dict[str, Any]:
        """As plain data, for reports and checkpoints."""
        return asdict(self)

    def changed(self, **changes: Any) -> Setting:
        return replace(self, **changes)


def by_rules(config: TrainingConfig, longest: int, family: Family | None = None) -> Setting:
    """What the machine, the recipe, the longest row (tokens) and the model's family suggest."""
    import torch

    said = config.speed if isinstance(config.speed, Speed) else Speed()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = _dtype(device) if config.dtype == "auto" else config.dtype
    short = _short(dtype, family) if device == "cpu" and longest <= SHORT_ROWS else None
    return Setting(
        device=device,
        dtype=dtype,
        micro_batch=config.batch_size // config.launcher.world,
        accumulate=config.accumulate,
        threads=said.threads or _threads(config.launcher.processes),
        attention=said.attention or short or _attention(family, device, dtype),
        activation_checkpointing=said.activation_checkpointing,
        compile=said.compile,
        chunk=said.chunk,
        bucketing=said.bucketing,
        pad_to=_pad_to(device, dtype),
    )


def _short(dtype: str, family: Family | None) -> str:
    """The fused attention's way back is slow on a CPU. Ours is for half precision and networks that are known to have
    nothing about their attention that `sdpa` lacks."""
    known = family is not None and family.name != GENERIC and family.attention.cpu == "sdpa"
    return "short" if known and dtype != "float32" else "eager"


def _pad_to(device: str, dtype: str) -> int:
    """oneDNN, which multiplies in bfloat16 on a CPU, compiles a kernel for each new shape and keeps it: with a width
    of its own for every batch, memory grows and each step waits for compilers."""
    return PADDED if device == "cpu" and dtype == "bfloat16" else 1


def _dtype(device: str) -> str:
    import torch

    if device == "cpu":
        return machine().dtype()
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def _attention(family: Family | None, device: str, dtype: str) -> str | None:
    """What the family asks for. None leaves it to transformers: sdpa where the network has it."""
    wanted = "sdpa" if family is None else getattr(family.attention, "cuda" if device == "cuda" else "cpu")
    if wanted == "flash_attention_2":
        from transformers.utils import is_flash_attn_2_available

        if dtype == "float32" or not is_flash_attn_2_available():
            return None
    return None if wanted == "sdpa" else wanted


def _threads(processes: int) -> int:
    """What was decided for this process (OMP_NUM_THREADS, torch.set_num_threads); of several, each has its share."""
    import torch

    return torch.get_num_threads() if processes == 1 else max(1, machine().cores // processes)


@contextmanager
def applied(setting: Setting, determinism: str) -> Iterator[None]:
    """Threads and determinism of this process for the time of the block; set back afterwards."""
    import torch

    threads = torch.get_num_threads()
    exact, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory
    torch.set_num_threads(setting.threads)
    if determinism == "exact":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=False)
        # a guard against reading memory that was never written, and a write of every fresh tensor
        torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(exact, warn_only=warn)
        torch.utils.deterministic.fill_uninitialized_memory = filling
