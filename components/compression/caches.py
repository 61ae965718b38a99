"""Key-value caches for generation in PyTorch, by configuration; a quantized one in plain torch, without a package.

cache = new_cache(network.config, KeyValueCache(type="quantized", bits=4), length=512)
network(input_ids=ids, past_key_values=cache, use_cache=True)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, QuantizedLayer, StaticCache

from components.compression.opening import KeyValueCache
from components.core.errors import ModelLoadError

GROUPS = (8, 32)
"""Fewest and most neighbouring numbers of one head that share a scale and a lowest value."""
ROOM = 128
"""Static caches come in multiples of so many tokens: a compiled network then meets few different shapes."""


class PackedLayer(QuantizedLayer):  # type: ignore[misc]
    """Keys and values of one layer as whole numbers of few bits, a scale and a lowest value for each group.

    Rounded one token at a time, so a token is rounded alike whatever stands around it (KIVI, arXiv:2402.02750, groups
    keys by channel instead; that needs all tokens at once).
    """

    def _quantize(self, tensor: Any, axis: int) -> tuple[Any, Any, Any]:
        groups = tensor.float().unflatten(-1, (-1, self.q_group_size))
        low = groups.amin(-1, keepdim=True)
        scale = ((groups.amax(-1, keepdim=True) - low) / (2**self.nbits - 1)).clamp_min(1e-8)
        codes = ((groups - low) / scale).round().to(torch.uint8)
        if self.nbits == 4:
            codes = codes[..., 0::2] | (codes[..., 1::2] << 4)
        return codes, scale.to(torch.bfloat16), low.to(torch.bfloat16)

    def _dequantize(self, packed: tuple[Any, Any, Any]) -> Any:
        codes, scale, low = packed
        if self.nbits == 4:
            codes = torch.stack((codes & 15, codes >> 4), -1).flatten(-2)
        return (codes * scale.float() + low.float()).flatten(-2).to(self.dtype)


def device_of(cache: str) -> str:
    """Where a network with such a cache is. Raises ModelLoadError, before any weight is read, if there is none here."""
    if cache != "offloaded":
        return "cpu"
    if not torch.cuda.is_available():
        raise ModelLoadError(
            "cache: offloaded moves keys and values out of a GPU's memory while no layer needs them, and there is no "
            "GPU here: they are in main memory already; take cache: quantized for less memory, or leave the pass out",
            "device",
        )
    return "cuda"


def new_cache(config: Any, choice: KeyValueCache, length: int) -> Cache | None:
    """An empty cache for `length` tokens; None where transformers' own is meant. A ModelLoadError if it cannot be."""
    if choice.type == "dynamic":
        return None
    if choice.type == "static":
        return StaticCache(config=config, max_cache_len=-(-length // ROOM) * ROOM)
    if choice.type == "offloaded":
        device_of(choice.type)
        return DynamicCache(config=config, offloading=True)
    text = config.get_text_config(decoder=True)
    problem = unfit(text)
    if problem:
        raise ModelLoadError(problem)
    keys = {"nbits": choice.bits, "residual_length": choice.recent, "q_group_size": _group(text)}
    return Cache(layers=[PackedLayer(**keys) for _ in range(text.num_hidden_layers)])


def unfit(config: Any) -> str | None:
    """Why the keys of such a network cannot be quantized; None if they can."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        return f"a quantized cache is for layers with full attention; this model has {', '.join(sorted(kinds))}"
    if _group(config) < GROUPS[0]:
        return f"a quantized cache needs heads whose size is a multiple of {GROUPS[0]}"
    return None


def _group(config: Any) -> int:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return math.gcd(int(size), GROUPS[1])


def cache_bytes(cache: Any, device: str) -> int:
    """Bytes of the tensors that a cache holds in the memory of this kind of device."""
    return sum(_bytes(value, device) for layer in cache.layers for value in vars(layer).values())


def _bytes(value: Any, device: str) -> int:
    if isinstance(value, torch.Tensor):
        return int(value.numel() * value.element_size()) if value.device.type == device else 0
    return sum(_bytes(item, device) for item in value) if isinstance(value, list | tuple) else 0
