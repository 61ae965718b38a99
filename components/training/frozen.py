"""What an adapter's training does not have to do with the frozen weights below it: cast them again in every pass.

Under autocast a float32 matrix is rounded to bfloat16 each time it is used, and the copy is kept for the way back. A
matrix that nobody trains can be rounded once: the same numbers, half the memory, no copies. The rest is copied out of
the file that it was mapped from, so that the mapping, float32 weights and all, leaves the process's memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

HALF = (torch.bfloat16, torch.float16)


def hold_frozen(network: Any, dtype: torch.dtype) -> None:
    """Keep frozen matrices of linear layers in `dtype`, which autocast would use for them anyway."""
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
            for weight in module.parameters(recurse=False):
                if not weight.requires_grad and weight.dtype in (torch.float32, *HALF):
                    yield weight


def may_hold(network: Any) -> bool:
    """Whether the adapter never reads the frozen weights itself, as DoRA does to know their length."""
    adapters = getattr(network, "peft_config", {})
    return bool(adapters) and not any(getattr(config, "use_dora", False) for config in adapters.values())


def without_casts(network: Any, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Adapters take their input as it comes: autocast rounds it to what they compute in anyway."""
    if not getattr(network, "peft_config", None) or dtype not in HALF:
        return nullcontext()
    from peft.helpers import disable_input_dtype_casting

    casting: AbstractContextManager[Any] = disable_input_dtype_casting(network)
    return casting
