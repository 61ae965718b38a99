"""Floating-point operations of training, and how much of the machine they use.

Per token, after Kaplan et al. 2020 (arXiv:2001.08361, section 2.1) and PaLM appendix B (arXiv:2204.02311): a weight
costs 2 operations forward, 2 for the gradient of its input, 2 for its own gradient. Full training is 6N. An adapter
spares the last part for the frozen weights: 4N + 6n. Attention adds 12 x layers x heads x head size x length (PaLM
counts the full square, though half of it is masked; so do we, to be comparable). Recomputation is not counted: model
FLOPs utilisation rates what the model needs, not what the program spends.
"""

from __future__ import annotations

from math import prod
from typing import Any

from components.core.families import Sizes, sizes


def flops_per_token(network: Any, length: int) -> float:
    """Operations to train this network, with what is trainable in it now, on one token of rows of `length` tokens."""
    weights, trainable = matrix_weights(network)
    return training_flops(weights, trainable, sizes(network.config), length)


def training_flops(weights: float, trainable: float, shape: Sizes, length: int) -> float:
    """4 x weights + 2 x trainable + attention. Weights: those a token is multiplied with, adapters included."""
    attention = 12 * (shape.layers or 0) * (shape.heads or 0) * (shape.head_dim or 0) * length
    return 4.0 * weights + 2.0 * trainable + attention


def matrix_weights(network: Any) -> tuple[float, float]:
    """Weights that one token is multiplied with, and the trainable ones among them.

    Embeddings are looked up, not multiplied, unless they are the output matrix as well. Of a mixture of experts,
    the share counts that a token is sent to.
    """
    from torch.nn import Embedding

    tables = (module for module in network.modules() if isinstance(module, Embedding))
    head = network.get_output_embeddings()
    output = {id(p) for p in head.parameters()} if head is not None else set()
    looked_up = {id(p) for table in tables for p in table.parameters()} - output
    share = _expert_share(network.config.get_text_config())
    weights = trainable = 0.0
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2 or id(parameter) in looked_up:
            continue
        count = _count(parameter) * (share if ".experts." in name else 1.0)
        weights += count
        trainable += count if parameter.requires_grad else 0.0
    return weights, trainable


def _count(parameter: Any) -> int:
    state = getattr(parameter, "quant_state", None)  # bitsandbytes packs two weights into a byte
    return prod(state.shape) if state is not None else int(parameter.numel())


def _expert_share(config: Any) -> float:
    """Experts that a token is sent to, of all in a layer."""
    counts = (getattr(config, name, None) for name in ("num_local_experts", "num_experts", "n_routed_experts"))
    every, used = next(filter(None, counts), None), getattr(config, "num_experts_per_tok", None)
    return float(used) / every if every and used else 1.0
