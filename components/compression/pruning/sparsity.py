"""Zeros in weight matrices: where they may be (`matrices`), which they become (`kept`), and how many there are.

    for matrix in matrices(network):
        matrix.weight.mul_(kept(matrix.weight.abs(), 0.5, "unstructured", by="matrix"))
    sparsity(network)       # {"sparsity": of the matrices, "model_sparsity": of all weights}

Matrices are those inside the decoder blocks, without the small ones that route tokens to experts. Experts that
transformers holds as one three-dimensional parameter are as many matrices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from components.compression.layers import decoder_layers
from components.core.errors import ConfigError, ModelLoadError
from components.core.safeload import load_causal_lm

Pattern = Literal["unstructured", "2:4"]
ROUTERS = ("gate", "router", "shared_expert_gate")


@dataclass(frozen=True)
class Matrix:
    """A weight matrix as (outputs, inputs): a view, so that changes in place reach the network.

    `module`, `expert`: where its inputs come from.
    """

    name: str
    weight: Any
    module: str
    expert: int | None = None


def matrices(network: Any) -> list[Matrix]:
    """All matrices inside the decoder blocks, in order; a ModelLoadError if there are none."""
    found = [matrix for block in decoder_layers(network) for matrix in matrices_in(block, network)]
    if not found:
        raise ModelLoadError(f"found no weight matrix inside the blocks of a {type(network).__name__}")
    return found


def matrices_in(block: Any, network: Any) -> Iterator[Matrix]:
    """The matrices of one block, by their full names."""
    inside = {id(module) for module in block.modules()}
    for name, module in network.named_modules():
        if id(module) not in inside or name.rpartition(".")[2] in ROUTERS:
            continue
        if isinstance(module, nn.Linear | Conv1D):
            turned = isinstance(module, Conv1D)
            yield Matrix(f"{name}.weight", module.weight.data.T if turned else module.weight.data, name)
        elif is_experts(module):
            yield from _experts(name, module)


def is_experts(module: Any) -> bool:
    """Whether a module holds all experts of a layer in three-dimensional parameters."""
    return any(weight.dim() == 3 for weight in module.parameters(recurse=False))


def _experts(name: str, module: Any) -> Iterator[Matrix]:
    for part, weight in module.named_parameters(recurse=False):
        if weight.dim() != 3:
            continue
        turned = getattr(module, "is_transposed", False)
        for expert, plane in enumerate(weight.data):
            yield Matrix(f"{name}.{part}.{expert}", plane.T if turned else plane, f"{name}.{part}", expert)


def check_pattern(network: Any, pattern: Pattern) -> None:
    """A ConfigError if a matrix has no whole number of groups."""
    odd = [matrix for matrix in matrices(network) if matrix.weight.shape[1] % 4]
    if pattern == "2:4" and odd:
        raise ConfigError(
            f'pattern "2:4" zeroes two of every four inputs, and {odd[0].name} has {odd[0].weight.shape[1]}; '
            "take pattern: unstructured"
        )


def kept(scores: Any, share: float, pattern: Pattern, by: Literal["matrix", "row"]) -> Any:
    """Where weights stay, boolean of the same shape: the lowest scores go, of each row or of the whole matrix."""
    outputs, inputs = scores.shape
    if pattern == "2:4":
        return _without_lowest(scores.reshape(-1, 4), 2).reshape(outputs, inputs)
    rows = scores.reshape(1, -1) if by == "matrix" else scores
    return _without_lowest(rows, int(share * rows.shape[1])).reshape(outputs, inputs)


def _without_lowest(scores: Any, count: int) -> Any:
    lowest = scores.argsort(dim=1, stable=True)[:, :count]
    return torch.ones_like(scores, dtype=torch.bool).scatter_(1, lowest, False)


def sparsity(network: Any) -> dict[str, Any]:
    """Measured: the share of zeros in the matrices, and in all weights."""
    found = matrices(network)
    zeros, size = (sum(values) for values in zip(*((_zeros(m.weight), m.weight.numel()) for m in found), strict=True))
    everything = [(_zeros(weight.data), weight.numel()) for weight in network.parameters()]
    all_zeros, all_size = (sum(values) for values in zip(*everything, strict=True))
    return {
        "sparsity": round(zeros / size, 5),
        "model_sparsity": round(all_zeros / all_size, 5),
        "matrices": len(found),
    }


def _zeros(weight: Any) -> int:
    return int((weight == 0).sum())


def set_zeros_again(sparse: Path, healed: Path) -> dict[str, Any]:
    """Zeros of the model in `sparse` become zeros of the one in `healed`; how many had moved, and what is zero now."""
    pattern, network, moved = load_causal_lm(sparse), load_causal_lm(healed), 0
    for before, after in zip(matrices(pattern), matrices(network), strict=True):
        zero = before.weight == 0
        moved += int((after.weight[zero] != 0).sum())
        after.weight.masked_fill_(zero, 0.0)
    if moved:
        network.save_pretrained(healed, safe_serialization=True)
    return {"zeros_set_again": moved, **sparsity(network)}
