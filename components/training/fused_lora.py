"""One LoRA layer in five matrix products: what PEFT computes, without the passes over memory between them.

PEFT adds `scaling * B(A(x))` to the output of the frozen layer in two passes over it, and autocast rounds the same
input once for the layer and once for the adapter. Here the product with B is added by the product itself (`addmm`), on
the way back too. The same idea as Unsloth's kernels; in bfloat16 it rounds once where PEFT rounds three times.
Used in half precision for plain LoRA without dropout on plain linear layers; every other layer stays PEFT's.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import nn

HALF = (torch.bfloat16, torch.float16)


class _LoraProduct(torch.autograd.Function):  # type: ignore[misc]
    """`x W' + s (x A') B'` for rows `x` of shape (rows, inputs); gradients for x, A and B."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, a: Any, b: Any, scaling: float) -> Any:
        a, b = a.to(x.dtype), b.to(x.dtype)
        inner = x @ a.t()
        ctx.save_for_backward(x, weight, a, b, inner)
        ctx.scaling = scaling
        return (x @ weight.t()).addmm_(inner, b.t(), alpha=scaling)

    @staticmethod
    def backward(ctx: Any, out: Any) -> Any:
        x, weight, a, b, inner = ctx.saved_tensors
        down = (out @ b) * ctx.scaling
        to_x = (out @ weight).addmm_(down, a) if ctx.needs_input_grad[0] else None
        to_a = (down.t() @ x).float()
        to_b = (out.t() @ inner).float() * ctx.scaling
        return to_x, None, to_a, to_b, None


def fuse_lora(network: Any) -> int:
    """Give every plain LoRA layer of a PEFT model the short way; returns how many there are."""
    from peft.tuners.lora.layer import Linear

    plain = [module for module in network.modules() if type(module) is Linear and _is_plain(module)]
    for module in plain:
        module.forward = types.MethodType(_forward, module)
    return len(plain)


def _is_plain(layer: Any) -> bool:
    base, adapters = layer.base_layer, layer.active_adapters
    return (
        list(layer.lora_A) == list(adapters) == ["default"]
        and type(base) is nn.Linear
        and base.weight.dtype in HALF
        and not base.weight.requires_grad
        and type(layer.lora_dropout["default"]) is nn.Identity
        and layer.lora_B["default"].bias is None
        and not layer.lora_variant
        and not layer.fan_in_fan_out
    )


def _forward(layer: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    base = layer.base_layer
    if layer.disable_adapters or layer.merged or args or kwargs or not torch.is_autocast_enabled(x.device.type):
        return type(layer).forward(layer, x, *args, **kwargs)
    rows = x.to(base.weight.dtype).reshape(-1, x.shape[-1])
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    out = _LoraProduct.apply(rows, base.weight, a, b, layer.scaling["default"])
    out = out if base.bias is None else out + base.bias
    return out.reshape(*x.shape[:-1], -1)
