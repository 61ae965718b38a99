"""What an adapter's training does not have to do with the frozen weights below it: cast them again in every pass.

Under autocast a float32 matrix is rounded to bfloat16 each time it is used, and the copy is kept for the way back. A
matrix that nobody trains can be rounded once: the same numbers, half the memory, no copies. The rest is copied out of
the file that it was mapped from, so that the mapping, float32 weights and all, leaves the process's memory. It holds
only for adapters that never read these matrices themselves, so only for those that tests prove it of.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

HALF = (torch.bfloat16, torch.float16)
HELD = ("LORA", "IA3", "LN_TUNING")
"""Methods of PEFT (`peft_type`) that give the same logits, gradients and adapter, bit by bit, held or not."""
SWITCH = "cast_input_dtype_enabled"
"""PEFT's name for whether a layer brings its input to the precision of its own weights."""


def hold_frozen(network: Any, dtype: torch.dtype) -> None:
    """Keep frozen matrices of linear layers in `dtype`, which autocast would use for them anyway.

    Biases stay as they are: they are small, and some layers (Mamba's time steps) add them in float32 on their own.
    """
    tables = [module for module in network.modules() if isinstance(module, nn.Embedding)]
    looked_up = {id(weight) for table in tables for weight in table.parameters()}
    held = {id(weight) for weight in _matrices(network)} - looked_up
    for weight in network.parameters():
        if id(weight) in held:
            weight.data = weight.data.to(dtype)
        elif not weight.requires_grad and weight.dtype == torch.float32:
            weight.data = weight.data.clone()


def _matrices(network: Any) -> Iterator[nn.Parameter]:
    for module in network.modules():
        if type(module) is nn.Linear:
            weight = module.weight
            if not weight.requires_grad and weight.dtype in (torch.float32, *HALF):
                yield weight


def may_hold(network: Any) -> bool:
    """Whether no adapter reads the frozen weights itself, as DoRA does to know their length."""
    adapters = (getattr(network, "peft_config", None) or {}).values()
    return bool(adapters) and all(config.peft_type in HELD and not _reads_weights(config) for config in adapters)


def _reads_weights(config: Any) -> bool:
    """DoRA takes their length; LoRA on fused experts (`target_parameters`) adds to them."""
    return bool(getattr(config, "use_dora", False) or getattr(config, "target_parameters", None))


@contextmanager
def without_casts(network: Any, dtype: torch.dtype) -> Iterator[None]:
    """Adapters take their input as it comes: autocast rounds it to what they compute in anyway.

    Not so DoRA, which brings the weights to the precision of its input before it takes their length.
    """
    adapters = (getattr(network, "peft_config", None) or {}).values()
    exact = dtype not in HALF or any(getattr(config, "use_dora", False) for config in adapters)
    # PEFT's own helper wants the switch in every layer, and many a method's layers have none
    modules = [] if exact else [module for module in network.modules() if hasattr(module, SWITCH)]
    before = [getattr(module, SWITCH) for module in modules]
    for module in modules:
        setattr(module, SWITCH, False)
    try:
        yield
    finally:
        for module, enabled in zip(modules, before, strict=True):
            setattr(module, SWITCH, enabled)
