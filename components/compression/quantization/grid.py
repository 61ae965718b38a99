"""Grids of few bits: where the points lie (`fit`), which point each weight takes (`round_to_nearest`), and back again.

A grid has one scale and one zero point for each group of consecutive inputs of an output row, as ONNX Runtime's
MatMulNBits reads them: weight = scale * (code - zero).

    codes = round_to_nearest(linear.weight, Grid(bits=4, group=32))
    linear.weight.copy_(codes.dequantize())
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from components.core.errors import ConfigError

SHRINKS = tuple(1 - 0.03 * step for step in range(16))
"""Parts of a group's range that the search tries: a narrower grid rounds finer and cuts off what lies outside."""


@dataclass(frozen=True)
class Grid:
    """Bits of a code, and how many inputs share a scale; symmetric grids have their zero point in the middle."""

    bits: int = 4
    group: int = 32
    symmetric: bool = False

    @property
    def top(self) -> int:
        """The highest code."""
        return int(2**self.bits - 1)

    @property
    def bits_per_weight(self) -> float:
        """With a scale in float16 and a zero point in `bits` bits for each group."""
        return self.bits + (16 + (0 if self.symmetric else self.bits)) / self.group

    def check(self, inputs: int, name: str) -> None:
        """A ConfigError if a row of so many inputs has no whole number of groups."""
        if inputs % self.group:
            raise ConfigError(
                f"group: {self.group} does not divide the {inputs} inputs of '{name}'; choose one that does, "
                f"for example {next(g for g in (128, 64, 32, 16, 8, 4, 2, 1) if inputs % g == 0)}"
            )


@dataclass
class Codes:
    """A matrix in few bits: `codes` (outputs, inputs) and `zeros` (outputs, groups) as uint8, `scales` in float32."""

    grid: Grid
    codes: Any
    scales: Any
    zeros: Any

    def dequantize(self) -> Any:
        """The weights that the codes stand for, float32 of shape (outputs, inputs)."""
        grouped = self.codes.float().unflatten(1, (-1, self.grid.group))
        return ((grouped - self.zeros[..., None].float()) * self.scales[..., None]).flatten(1)

    @property
    def size(self) -> int:
        """Bytes it takes when packed."""
        return int(self.codes.numel() * self.grid.bits_per_weight / 8)


def fit(weight: Any, grid: Grid, importance: Any = None) -> tuple[Any, Any]:
    """(scales, zeros), both (outputs, groups), of the range that loses least; zeros are whole codes, as floats.

    `importance` (inputs,): what a squared error of each input costs; with it the range is searched, without it the
    whole range is taken.
    """
    groups = weight.float().unflatten(1, (-1, grid.group))
    low, high = groups.amin(-1).clamp_max(0), groups.amax(-1).clamp_min(0)
    if grid.symmetric:
        high = torch.maximum(high, -low)
        low = -high
    if importance is None:
        return _points(low, high, grid)
    costs = importance.float().reshape(-1, grid.group)
    best = torch.full_like(low, torch.inf)
    scales, zeros = torch.empty_like(low), torch.empty_like(low)
    for shrink in SHRINKS:
        scale, zero = _points(low * shrink, high * shrink, grid)
        codes = (groups / scale[..., None] + zero[..., None]).round_().clamp_(0, grid.top)
        lost = ((codes - zero[..., None]) * scale[..., None] - groups).square_().mul_(costs).sum(-1)
        better = lost < best
        best = torch.where(better, lost, best)
        scales, zeros = torch.where(better, scale, scales), torch.where(better, zero, zeros)
    return scales, zeros


def _points(low: Any, high: Any, grid: Grid) -> tuple[Any, Any]:
    scale = ((high - low) / grid.top).clamp_min(1e-9)
    if grid.symmetric:
        # the runtime's zero point of a grid without one
        return high.div(2 ** (grid.bits - 1) - 0.5).clamp_min(1e-9), torch.full_like(scale, 2 ** (grid.bits - 1))
    return scale, (-low / scale).round().clamp(0, grid.top)


def encode(weight: Any, scales: Any, zeros: Any, grid: Grid) -> Codes:
    """The nearest point of the grid for each weight."""
    groups = weight.float().unflatten(1, (-1, grid.group))
    codes = (groups / scales[..., None] + zeros[..., None]).round_().clamp_(0, grid.top)
    return Codes(grid, codes.flatten(1).to(torch.uint8), scales.float(), zeros.to(torch.uint8))


def round_to_nearest(weight: Any, grid: Grid, importance: Any = None) -> Codes:
    """Each weight to the nearest point of a fitted grid; `importance` as in `fit`."""
    return encode(weight, *fit(weight, grid, importance), grid)


def half_precision(codes: Codes) -> Codes:
    """The same codes with scales that float16 can hold: files store them in half the bytes."""
    return Codes(codes.grid, codes.codes, codes.scales.half().float(), codes.zeros)
