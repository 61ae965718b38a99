"""Attention of short rows on a CPU, way back included, in one function: plain matrix products on groups of heads.

transformers' plain attention copies keys and values for every head of a group, and keeps scores, mask and
probabilities for the way back, each in a pass over memory of its own; PyTorch's fused attention has a slow way back on
a CPU. Here the heads that share a key are rows of one product, and the probabilities alone are kept. For whole rows
under autocast; anything else (generation, dropout, a bias on positions) is passed on to transformers' `sdpa`.

    network.set_attn_implementation(register_short_attention())
"""

from __future__ import annotations

from typing import Any

import torch

SHORT = "short"
"""Its name among transformers' attention implementations, and in a recipe: `speed: {attention: short}`."""
BIASES = ("position_bias", "softcap", "s_aux")
"""What some models hand to their attention and this one does not know."""


class _ShortAttention(torch.autograd.Function):  # type: ignore[misc]
    """`softmax(scaling * Q K' + mask) V`, heads that share a key being rows of one product.

    Q (batch * keys, group * length, width), K and V (batch * keys, length, width); `hidden`: True where a token is not
    seen, to be broadcast to (batch, heads, length, length).
    """

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, hidden: Any, scaling: float, heads: int) -> Any:
        scores = torch.bmm(query, key.transpose(1, 2)).float().mul_(scaling)
        scores.view(-1, heads, key.shape[1], key.shape[1]).masked_fill_(hidden, torch.finfo(scores.dtype).min)
        likely = torch.softmax(scores, -1, out=scores).to(query.dtype)
        ctx.save_for_backward(query, key, value, likely)
        ctx.scaling = scaling
        return torch.bmm(likely, value)

    @staticmethod
    def backward(ctx: Any, out: Any) -> Any:
        query, key, value, likely = ctx.saved_tensors
        to_value = torch.bmm(likely.transpose(1, 2), out)
        to_likely = torch.bmm(out, value.transpose(1, 2))
        to_scores = torch._softmax_backward_data(to_likely, likely, -1, likely.dtype).mul_(ctx.scaling)
        return torch.bmm(to_scores, key), torch.bmm(to_scores.transpose(1, 2), query), to_value, None, None, None


def register_short_attention() -> str:
    """Make it known to transformers; returns its name."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(SHORT, short_attention)
    AttentionMaskInterface.register(SHORT, sdpa_mask)
    return SHORT


def short_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **more: Any
) -> tuple[Any, None]:
    """As transformers calls it: query (batch, heads, length, width), mask True where a token is seen or None (causal).

    Returns (batch, length, heads, width).
    """
    if not _known(module, query, key, attention_mask, more):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found: tuple[Any, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
        return found
    dtype = torch.get_autocast_dtype(query.device.type)
    batch, heads, length, width = query.shape
    scaling = width**-0.5 if scaling is None else scaling
    query, key, value = (x.to(dtype).reshape(batch * key.shape[1], -1, x.shape[-1]) for x in (query, key, value))
    if attention_mask is None:
        hidden = torch.ones(1, 1, length, length, dtype=torch.bool, device=query.device).triu(1)
    else:
        hidden = ~attention_mask
    out = _ShortAttention.apply(query, key, value, hidden, scaling, heads)
    return out.view(batch, heads, length, -1).transpose(1, 2).contiguous(), None


def _known(module: Any, query: Any, key: Any, mask: Any, more: dict[str, Any]) -> bool:
    """Whether this is what training asks for: whole rows, half precision, a mask of who sees whom, and nothing else."""
    whole = key.shape[2] == query.shape[2] and torch.is_autocast_enabled(query.device.type)
    causal = getattr(module, "is_causal", True) if more.get("is_causal") is None else more["is_causal"]
    seen = causal if mask is None else mask.dtype == torch.bool
    return bool(whole and seen and not more.get("dropout") and all(more.get(name) is None for name in BIASES))
