"""LoRA layers in fewer passes over memory: what PEFT and transformers compute, with less in between.

PEFT adds `scaling * B(A(x))` to the output of the frozen layer in two passes over it, and autocast rounds the same
input once for the layer and once for the adapter. Here the product with B is added by the product itself (`addmm`), on
the way back too. A gated MLP (`down(act(gate(x)) * up(x))`: Llama, Qwen, Mistral, Gemma and their like) is one function
that rounds its input once and keeps two wide activations for the way back instead of five. The same idea as Unsloth's
kernels; in bfloat16 it rounds less often than PEFT does.
Used in half precision for plain LoRA without dropout on plain linear layers; every other layer stays PEFT's.
"""

from __future__ import annotations

import types
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

HALF = (torch.bfloat16, torch.float16)
GATED = ("gate_proj", "up_proj", "down_proj")


# ------------------------------------------------------------ arithmetic


def _product(x: Any, layer: Sequence[Any], scaling: float) -> tuple[Any, Any]:
    """`x W' + s (x A') B'` for rows `x` of shape (rows, inputs) and a layer (W, A, B); and `x A'` for the way back."""
    weight, a, b = layer
    inner = x @ a.t()
    return (x @ weight.t()).addmm_(inner, b.t(), alpha=scaling), inner


def _to_adapter(out: Any, x: Any, inner: Any, b: Any, scaling: float) -> tuple[Any, Any, Any]:
    """Gradients of A and B from that of the output, and what A hands on to the input."""
    down = (out @ b) * scaling
    return down, (down.t() @ x).float(), (out.t() @ inner).float() * scaling


class _LoraProduct(torch.autograd.Function):  # type: ignore[misc]
    """One layer; gradients for x, A and B."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, a: Any, b: Any, scaling: float) -> Any:
        a, b = a.to(x.dtype), b.to(x.dtype)
        y, inner = _product(x, (weight, a, b), scaling)
        ctx.save_for_backward(x, weight, a, b, inner)
        ctx.scaling = scaling
        return y

    @staticmethod
    def backward(ctx: Any, out: Any) -> Any:
        x, weight, a, b, inner = ctx.saved_tensors
        down, to_a, to_b = _to_adapter(out, x, inner, b, ctx.scaling)
        to_x = (out @ weight).addmm_(down, a) if ctx.needs_input_grad[0] else None
        return to_x, None, to_a, to_b, None


class _GatedMlp(torch.autograd.Function):  # type: ignore[misc]
    """`down(act(gate(x)) * up(x))`, an adapter on each of the three; gradients for x and the adapters.

    `weights`: the frozen matrix, A and B of gate, up and down, in this order. What `act` gives is computed once more on
    the way back: elementwise work is cheaper than memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, act: Any, scalings: tuple[float, ...], *weights: Any) -> Any:
        rounded = [weight.to(x.dtype) for weight in weights]
        gate, gate_inner = _product(x, rounded[:3], scalings[0])
        up, up_inner = _product(x, rounded[3:6], scalings[1])
        y, down_inner = _product(act(gate) * up, rounded[6:], scalings[2])
        ctx.save_for_backward(x, gate, up, gate_inner, up_inner, down_inner, *rounded)
        ctx.act, ctx.scalings = act, scalings
        return y

    @staticmethod
    def backward(ctx: Any, out: Any) -> Any:
        x, gate, up, gate_inner, up_inner, down_inner, *rounded = ctx.saved_tensors
        (gate_w, gate_a, gate_b), (up_w, up_a, up_b), (down_w, down_a, down_b) = rounded[:3], rounded[3:6], rounded[6:]
        gate = gate.detach().requires_grad_()
        with torch.enable_grad():
            opened = ctx.act(gate)
        open_now = opened.detach()
        down, to_down_a, to_down_b = _to_adapter(out, open_now * up, down_inner, down_b, ctx.scalings[2])
        hidden = (out @ down_w).addmm_(down, down_a)
        to_up = hidden * open_now
        (to_gate,) = torch.autograd.grad(opened, gate, hidden.mul_(up))
        from_gate, to_gate_a, to_gate_b = _to_adapter(to_gate, x, gate_inner, gate_b, ctx.scalings[0])
        from_up, to_up_a, to_up_b = _to_adapter(to_up, x, up_inner, up_b, ctx.scalings[1])
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = (to_gate @ gate_w).addmm_(to_up, up_w).addmm_(from_gate, gate_a).addmm_(from_up, up_a)
        return to_x, None, None, None, to_gate_a, to_gate_b, None, to_up_a, to_up_b, None, to_down_a, to_down_b


# ------------------------------------------------------------ layers


def fuse_lora(network: Any) -> int:
    """Give every plain LoRA layer of a PEFT model the short way; returns how many there are."""
    from peft.tuners.lora.layer import Linear

    plain = {module for module in network.modules() if type(module) is Linear and _is_plain(module)}
    for module in plain:
        module.forward = types.MethodType(_forward, module)
    for module in network.modules():
        if _is_gated(module, plain):
            module.forward = types.MethodType(_gated_forward, module)
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


def _is_bare(layer: Any) -> bool:
    """Whether a layer is nothing but its product, so that it need not be called: no bias, nobody who listens."""
    return layer.base_layer.bias is None and not any(m._forward_hooks or m._forward_pre_hooks for m in layer.modules())


def _is_gated(mlp: Any, plain: Collection[Any]) -> bool:
    """Whether a module computes what its parts suggest, bit by bit on a few numbers; some clip, scale or add."""
    parts = [getattr(mlp, name, None) for name in GATED]
    if not all(part in plain and _is_bare(part) for part in parts) or not callable(getattr(mlp, "act_fn", None)):
        return False
    weight, training = mlp.gate_proj.base_layer.weight, mlp.training
    x = torch.linspace(-2, 2, 2 * weight.shape[1], device=weight.device).reshape(2, -1)
    x = torch.cat([x, 1e3 * x])  # large ones too: what clips leaves small ones alone
    try:
        mlp.train()  # and what drops some does so in training alone
        with torch.random.fork_rng(), torch.no_grad(), torch.autocast(weight.device.type, weight.dtype):
            gated = mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))
            return bool(torch.equal(mlp(x), gated))
    finally:
        mlp.train(training)


def _shortened(layer: Any, x: Any) -> bool:
    """Whether the short way may be taken now; where not, PEFT's."""
    return not layer.disable_adapters and not layer.merged and torch.is_autocast_enabled(x.device.type)


def _forward(layer: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    if args or kwargs or not _shortened(layer, x):
        return type(layer).forward(layer, x, *args, **kwargs)
    weight, a, b, scaling = _weights(layer)
    rows = x.to(weight.dtype).reshape(-1, x.shape[-1])
    out = _LoraProduct.apply(rows, weight, a, b, scaling)
    bias = layer.base_layer.bias
    out = out if bias is None else out + bias
    return out.reshape(*x.shape[:-1], -1)


def _gated_forward(mlp: Any, x: Any) -> Any:
    layers = [getattr(mlp, name) for name in GATED]
    if not all(_shortened(layer, x) for layer in layers):
        return type(mlp).forward(mlp, x)
    found = [_weights(layer) for layer in layers]
    rows = x.to(found[0][0].dtype).reshape(-1, x.shape[-1])
    scalings = tuple(scaling for *_, scaling in found)
    out = _GatedMlp.apply(rows, mlp.act_fn, scalings, *(part for *parts, _ in found for part in parts))
    return out.reshape(*x.shape[:-1], -1)


def _weights(layer: Any) -> tuple[Any, Any, Any, float]:
    """The frozen matrix, A, B, and how the adapter is scaled."""
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return layer.base_layer.weight, a, b, layer.scaling["default"]
