"""AWQ: input channels that see much are rounded finer (Lin et al. 2023, arXiv:2306.00978).

The columns of the layers that read a value are multiplied by `s = mean(|x|)^alpha` before they are rounded, and what
makes the value is divided by s, so the network computes what it did. alpha is tried from 0 (no scales) to nearly 1; the
one is taken whose rounded layers lose least, tr(dW X'X dW') on calibration rows. In the place of the paper's search for
where to clip stands that of the grid (`grid.fit`).

    codes, facts = awq(network, packable(network, [grid]), batches(rows, 4096), grid, torch.float32, told)
    put_back(network, codes)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from components.compression.quantization.folding import Group, foldings
from components.compression.quantization.grid import Codes, Grid, round_to_nearest
from components.compression.quantization.weight_only import Inputs, inputs_by_block

ALPHAS = tuple(step / 20 for step in range(20))
LEAST = 1e-2
"""Of the mean channel: smaller ones count as so large, or what calibration rows hardly touch would be rounded away."""


class Scales(NamedTuple):
    """`factors` of channels (channels,), found with `alpha`; squared errors of the outputs with and without them."""

    factors: Any
    alpha: float
    lost: float
    lost_without: float


def awq(
    network: Any,
    layers: Mapping[str, Any],
    batches: Sequence[Sequence[Any]],
    grid: Grid,
    dtype: Any,
    told: Callable[[int, int], None],
) -> tuple[dict[str, Codes], dict[str, Any]]:
    """Codes of every layer, and figures. Scales are folded into the network, in place; it is not rounded."""
    names = {id(layer): name for name, layer in layers.items()}
    blocks = foldings(network, layers, max((row for rows in batches for row in rows), key=len))
    codes, found, left = dict[str, Codes](), list[Scales](), 0
    for groups, seen in zip(blocks, inputs_by_block(network, layers, batches, dtype, told), strict=True):
        importance = {name: inputs.moments.diagonal() for name, inputs in seen.items()}
        for group in groups:
            if group.maker is None:
                left += 1
                continue
            members = [names[id(reader)] for reader in group.readers]
            found.append(search(group, seen[members[0]], grid))
            group.fold(found[-1].factors)
            squares = group.maker.spread(found[-1].factors).square()
            importance |= {name: importance[name] / squares for name in members}
        # only now: the rows of a layer may have been divided for the layers after it
        codes |= {name: round_to_nearest(layers[name].weight.detach(), grid, importance[name]) for name in seen}
    return codes, _facts(found, left)


def search(group: Group, seen: Inputs, grid: Grid) -> Scales:
    """The scales of a group whose rounded layers lose least."""
    assert group.maker is not None
    weight = torch.cat([reader.weight.detach() for reader in group.readers])
    sizes = group.maker.pooled(seen.sizes)
    sizes = sizes.clamp_min(max(float(sizes.mean()) * LEAST, 1e-9))
    tried = []
    for alpha in ALPHAS:
        factors = sizes.log().mul(alpha)
        # around 1, so that what makes the value stays as large as it is
        factors = (factors - factors.mean()).exp()
        tried.append((error(weight, seen.moments, grid, group.maker.spread(factors)), alpha, factors))
    lost, alpha, factors = min(tried, key=lambda found: found[0])
    return Scales(factors, alpha, lost, tried[0][0])


def error(weight: Any, moments: Any, grid: Grid, scales: Any) -> float:
    """Squared error of outputs, tr(dW X'X dW'), if `weight` (outputs, inputs) is rounded times `scales` (inputs,)."""
    codes = round_to_nearest(weight * scales, grid, moments.diagonal() / scales.square())
    off = codes.dequantize().div_(scales).sub_(weight)
    return float(((off @ moments) * off).sum())


def _facts(found: Sequence[Scales], left: int) -> dict[str, Any]:
    if not found:
        return {"groups_scaled": 0, "groups_left": left}
    ratios = [scales.lost / scales.lost_without if scales.lost_without else 1.0 for scales in found]
    return {
        "groups_scaled": len(found),
        "groups_left": left,
        "mean_alpha": round(sum(scales.alpha for scales in found) / len(found), 3),
        "error_against_unscaled": round(sum(ratios) / len(ratios), 4),
    }
