"""Which weights of a matrix are zeroed by what goes into it: Wanda, and SparseGPT, which mends the others.

Both go from block to block, and look at what the blocks before, as they are now, make of the calibration rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from components.compression.blocks import BlockWalk
from components.compression.calibration import batches
from components.compression.listening import listen
from components.compression.pruning.sparsity import Pattern, kept, matrices
from components.compression.quantization.gptq import damped

TOKENS_AT_ONCE = 4096
COLUMNS = 128
"""Inputs whose zeros SparseGPT chooses at once."""


def magnitude(network: Any, share: float, pattern: Pattern) -> None:
    """Zero the smallest weights of every matrix."""
    for matrix in matrices(network):
        matrix.weight.mul_(kept(matrix.weight.abs(), share, pattern, "matrix"))


def wanda(network: Any, rows: Sequence[Any], share: float, pattern: Pattern, told: Callable[[int], None]) -> int:
    """Zero the weights of each row with the least |weight| * norm of its input (Sun et al. 2023, arXiv:2306.11695).

    Returns how many matrices no token went into; those lose their smallest weights.
    """

    def squares(inputs: Any) -> Any:
        return inputs.float().square().sum(0)

    def zero(weight: Any, sums: Any) -> None:
        norms = torch.ones(weight.shape[1]) if sums is None else sums.sqrt()
        weight.mul_(kept(weight.abs() * norms, share, pattern, "row"))

    return _by_block(network, rows, squares, zero, told)


def sparsegpt(network: Any, rows: Sequence[Any], share: float, pattern: Pattern, told: Callable[[int], None]) -> int:
    """Zero weights one input after the other, and mend with the others what each costs (arXiv:2301.00774).

    Returns how many matrices no token went into; those lose their smallest weights.
    """

    def moments(inputs: Any) -> Any:
        return inputs.float().T @ inputs.float()

    def zero(weight: Any, sums: Any) -> None:
        hessian = torch.zeros(weight.shape[1], weight.shape[1]) if sums is None else sums
        weight.copy_(mended(weight, hessian, share, pattern))

    return _by_block(network, rows, moments, zero, told)


def _by_block(
    network: Any,
    rows: Sequence[Any],
    statistics: Callable[[Any], Any],
    zero: Callable[[Any, Any], None],
    told: Callable[[int], None],
) -> int:
    walk, without = BlockWalk(network, batches([row.ids[0] for row in rows], TOKENS_AT_ONCE)), 0
    for done, block in enumerate(walk):
        sums: dict[str, Any] = {}

        def tell(name: str, inputs: Any, sums: dict[str, Any] = sums) -> None:
            found = statistics(inputs)
            sums[name] = sums[name].add_(found) if name in sums else found

        for matrix in listen(walk, block, network, tell):
            zero(matrix.weight, sums.get(matrix.name))
            without += matrix.name not in sums
        walk.advance()
        told(done + 1)
    return without


def mended(weight: Any, moments: Any, share: float, pattern: Pattern) -> Any:
    """The matrix with zeros that cost least on inputs with these second moments, the other weights mended."""
    weight = weight.float().clone()
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped(moments, 0.01))), upper=True)
    spread = inverse.diagonal()
    for start in range(0, weight.shape[1], COLUMNS):
        end = min(start + COLUMNS, weight.shape[1])
        stays = kept((weight[:, start:end] / spread[start:end]).square(), share, "unstructured", "matrix")
        lost = torch.zeros_like(weight[:, start:end])
        for column in range(start, end):
            if pattern == "2:4" and column % 4 == 0:
                group = (weight[:, column : column + 4] / spread[column : column + 4]).square()
                stays[:, column - start : column - start + 4] = kept(group, share, pattern, "row")
            off = weight[:, column] * ~stays[:, column - start] / spread[column]
            weight[:, column:end] -= torch.outer(off, inverse[column, column:end])
            weight[:, column].mul_(stays[:, column - start])  # exactly zero, not nearly
            lost[:, column - start] = off
        weight[:, end:] -= lost @ inverse[start:end, end:]
    return weight
