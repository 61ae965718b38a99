"""A network with fewer attention heads and narrower MLPs: as many in every block, so a plain configuration says it.

    cuts = Cuts(groups=2, channels=1152)            # what stays, of each block
    narrow(network, rows, cuts, compensate=True)    # in place: weights, configuration

Heads go in whole groups that share keys and values, so grouped attention stays valid. What stays is what gives most of
a block's output on calibration rows: |activation| * |weight|, as LLM-Pruner (arXiv:2305.11627) and Minitron
(arXiv:2407.14679) rank by activations. The matrices after what went are fitted anew by least squares, in closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from components.compression.blocks import BlockWalk
from components.compression.calibration import batches
from components.compression.pruning.sparsity import is_experts
from components.compression.quantization.gptq import damped
from components.core.errors import ConfigError

TOKENS_AT_ONCE = 4096
MLPS = (
    (("gate_proj", "up_proj"), "down_proj"),
    (("gate_up_proj",), "down_proj"),
    (("fc1",), "fc2"),
    (("c_fc",), "c_proj"),
    (("dense_h_to_4h",), "dense_4h_to_h"),
)
"""Matrices before and after the channels of an MLP, by family."""
OUTPUTS = ("o_proj", "dense", "out_proj")
"""How families call the matrix after the heads."""
WIDTHS = ("intermediate_size", "n_inner", "ffn_dim")


@dataclass(frozen=True)
class Cuts:
    """What stays of every block; None: all of it."""

    groups: int | None
    channels: int | None


@dataclass(frozen=True)
class Attention:
    """The attention of a block: heads of `size` in `groups`, each with `heads` queries that share a key and a value."""

    module: Any
    out: nn.Module
    size: int
    groups: int
    heads: int


def attention_of(network: Any, block: Any) -> Attention:
    """A ConfigError where query, key and value are one matrix."""
    config = network.config
    found = next((m for m in block.modules() if all(hasattr(m, n) for n in ("q_proj", "k_proj", "v_proj"))), None)
    out = next((getattr(found, name) for name in OUTPUTS if hasattr(found, name)), None)
    if found is None or out is None:
        raise ConfigError(
            f"heads: the attention of a {config.model_type} model has no matrices of its own for q, k and v; "
            "take only channels out"
        )
    size = found.q_proj.weight.shape[0] // config.num_attention_heads
    groups = found.k_proj.weight.shape[0] // size
    return Attention(found, out, size, groups, found.q_proj.weight.shape[0] // size // groups)


def mlp_of(network: Any, block: Any) -> tuple[list[Any], Any]:
    """The matrices before, and the one after the channels. A ConfigError for experts."""
    if any(is_experts(module) for module in block.modules()):
        raise ConfigError(f"channels: a {network.config.model_type} model has experts, whose widths stay as they are")
    for module in block.modules():
        for first, last in MLPS:
            if all(hasattr(module, name) for name in (*first, last)):
                return [getattr(module, name) for name in first], getattr(module, last)
    raise ConfigError(f"channels: found no MLP that is known in the blocks of a {network.config.model_type} model")


def channels_of(network: Any, block: Any) -> int:
    """How many channels an MLP has."""
    return int(_matrix(mlp_of(network, block)[1]).shape[1])


def narrow(
    network: Any, rows: Sequence[Any], cuts: Cuts, compensate: bool = True, told: Callable[[int], None] = lambda n: None
) -> dict[str, Any]:
    """Cut every block, one after the other, and say so in the configuration. Returns the share of the output's energy
    that stays of each block."""
    walk = BlockWalk(network, batches([row.ids[0] for row in rows], TOKENS_AT_ONCE))
    energies: dict[str, list[float]] = {"kept_heads_energy": [], "kept_channels_energy": []}
    for done, block in enumerate(walk):
        if cuts.groups is not None:
            attention = attention_of(network, block)
            energies["kept_heads_energy"].append(_cut_heads(attention, walk, cuts.groups, compensate))
        if cuts.channels is not None:
            energies["kept_channels_energy"].append(_cut_channels(network, block, walk, cuts.channels, compensate))
        walk.advance()
        told(done + 1)
    _say(network.config, cuts, attention if cuts.groups is not None else None)
    return {name: [round(value, 4) for value in values] for name, values in energies.items() if values}


def _moments(walk: BlockWalk, module: Any) -> Any:
    """X'X of what goes into a matrix of the block at hand."""
    sums: list[Any] = []

    def tell(_: str, inputs: Any) -> None:
        found = inputs.float().T @ inputs.float()
        sums[:] = [sums[0].add_(found) if sums else found]

    walk.watch({"out": module}, walk.hidden, tell)
    return sums[0]


def _cut_heads(attention: Attention, walk: BlockWalk, keep: int, compensate: bool) -> float:
    moments, weight = _moments(walk, attention.out), _matrix(attention.out)
    wide = attention.heads * attention.size
    spans = [torch.arange(group * wide, (group + 1) * wide) for group in range(attention.groups)]
    energy = torch.stack([((weight[:, s] @ moments[s][:, s]) * weight[:, s]).sum() for s in spans])
    groups = energy.topk(keep).indices.sort().values.tolist()
    queries = torch.cat([spans[group] for group in groups])
    size = attention.size
    keys = torch.cat([torch.arange(group * size, (group + 1) * size) for group in groups])
    _fit(attention.out, moments, queries, compensate)
    module = attention.module
    for name, kept in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
        _take_outputs(getattr(module, name), kept)
    for name, kept, full in (("q_norm", queries, attention.groups * wide), ("k_norm", keys, attention.groups * size)):
        norm = getattr(module, name, None)
        # some families normalise all heads together, others each
        if norm is not None and norm.weight.numel() == full:
            norm.weight = nn.Parameter(norm.weight.data[kept].clone())
    return float(energy[groups].sum() / energy.sum())


def _cut_channels(network: Any, block: Any, walk: BlockWalk, keep: int, compensate: bool) -> float:
    before, after = mlp_of(network, block)
    moments, weight = _moments(walk, after), _matrix(after)
    energy = weight.square().sum(0) * moments.diagonal()
    kept = energy.topk(keep).indices.sort().values
    total = weight.shape[1]
    _fit(after, moments, kept, compensate)
    for module in before:
        halves = _matrix(module).shape[0] // total  # two where gate and up are one matrix
        _take_outputs(module, torch.cat([kept + half * total for half in range(halves)]))
    return float(energy[kept].sum() / energy.sum())


def _fit(module: Any, moments: Any, kept: Any, compensate: bool) -> None:
    """Take inputs out of a matrix; what is left gives nearly what all gave: W X X_k' (X_k X_k')^-1."""
    weight = _matrix(module).float()
    left = weight[:, kept]
    if compensate:
        factor = torch.linalg.cholesky(damped(moments[kept][:, kept], 0.01))
        lost = weight @ moments[:, kept] - left @ moments[kept][:, kept]
        left = left + torch.cholesky_solve(lost.T, factor).T
    module.weight = nn.Parameter((left.T if isinstance(module, Conv1D) else left).contiguous().clone())
    if isinstance(module, nn.Linear):
        module.in_features = len(kept)


def _matrix(module: Any) -> Any:
    """The weights as (outputs, inputs)."""
    return module.weight.data.T if isinstance(module, Conv1D) else module.weight.data


def _take_outputs(module: Any, kept: Any) -> None:
    weight = _matrix(module)[kept]
    module.weight = nn.Parameter((weight.T if isinstance(module, Conv1D) else weight).contiguous().clone())
    if module.bias is not None:
        module.bias = nn.Parameter(module.bias.data[kept].clone())
    if isinstance(module, Conv1D):
        module.nf = len(kept)
    else:
        module.out_features = len(kept)


def _say(config: Any, cuts: Cuts, attention: Attention | None) -> None:
    """The new numbers in the configuration."""
    if attention is not None and cuts.groups is not None:
        config.num_attention_heads = cuts.groups * attention.heads
        config.num_key_value_heads = cuts.groups
        # many families derive it from the number of heads where it is not said
        config.head_dim = attention.size
    if cuts.channels is not None:
        plain = config.to_dict()
        setattr(config, next(name for name in WIDTHS if name in plain), cuts.channels)
