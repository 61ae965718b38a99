"""GPTQ: rounding one input after the other, and making good what each lost with those that are not yet rounded.

Frantar et al. 2022, arXiv:2210.17323, with a range search for every group (`grid.fit`) when its turn comes.
"""

from __future__ import annotations

from typing import Any

import torch

from components.compression.quantization.grid import Codes, Grid, fit

DAMPING = 0.01
"""Of the mean of the moments' diagonal, added to it."""
COLUMNS = 128
"""Inputs after which what was lost is passed on to all that follow."""


def damped(moments: Any, damping: float = DAMPING) -> Any:
    """Inputs that never occur get a moment, too, so that the matrix can be inverted."""
    diagonal = moments.diagonal()
    return moments + torch.diag(diagonal.mean() * damping + (diagonal == 0).float())


def gptq(weight: Any, moments: Any, grid: Grid, damping: float = DAMPING) -> Codes:
    """Codes of `weight` (outputs, inputs) that lose least on inputs with the second moments X'X (inputs, inputs)."""
    weight = weight.detach().float().clone()
    hessian = damped(moments, damping)
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    outputs, inputs = weight.shape
    codes = torch.empty(outputs, inputs, dtype=torch.float32)
    scales, zeros = (torch.empty(outputs, inputs // grid.group, dtype=torch.float32) for _ in range(2))
    step = max(COLUMNS, grid.group)
    for start in range(0, inputs, step):
        end = min(start + step, inputs)
        lost = torch.zeros(outputs, end - start, dtype=torch.float32)
        for column in range(start, end):
            group, inside = divmod(column, grid.group)
            if not inside:
                span = slice(column, column + grid.group)
                found = fit(weight[:, span], grid, hessian.diagonal()[span])
                scales[:, group], zeros[:, group] = found[0][:, 0], found[1][:, 0]
            scale, zero = scales[:, group], zeros[:, group]
            codes[:, column] = (weight[:, column] / scale + zero).round_().clamp_(0, grid.top)
            off = (weight[:, column] - (codes[:, column] - zero) * scale) / inverse[column, column]
            weight[:, column:end] -= torch.outer(off, inverse[column, column:end])
            lost[:, column - start] = off
        weight[:, end:] -= lost @ inverse[start:end, end:]
    return Codes(grid, codes.to(torch.uint8), scales, zeros.to(torch.uint8))
