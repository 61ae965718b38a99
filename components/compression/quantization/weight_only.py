"""From a network to codes: which matrices are packed, and what goes into them. Shared by the weight-only passes.

layers = packable(network, [Grid(4, 32)])
codes = {name: round_to_nearest(layer.weight, Grid(4, 32)) for name, layer in layers.items()}
codes |= head_codes(network, Grid(8, 64))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from components.compression.blocks import BlockWalk
from components.compression.layers import block_linears, decoder_layers, embedding_name, head_name, is_tied
from components.compression.quantization.grid import Codes, Grid, half_precision, round_to_nearest
from components.core.errors import ModelLoadError


def packable(network: Any, grids: Sequence[Grid]) -> dict[str, Any]:
    """The linear layers of the blocks by name. A ConfigError where a grid does not fit one; a ModelLoadError where the
    blocks hold matrices that are no linear layers (fused experts)."""
    layers = block_linears(network)
    inside = {id(layer.weight) for layer in layers.values()}
    blocks = decoder_layers(network)
    fused = [name for name, p in blocks.named_parameters() if p.dim() > 2 and id(p) not in inside]
    if fused:
        raise ModelLoadError(
            f"this model holds experts as one parameter ('{fused[0]}'), which has no packed form here; "
            "take {type: onnx, precision: int4}, whose exporter rounds it"
        )
    for name, layer in layers.items():
        for grid in grids:
            grid.check(layer.in_features, name)
    return layers


def head_codes(network: Any, grid: Grid) -> dict[str, Codes]:
    """Codes of the output matrix and, where it is another, of the embedding."""
    names = [head_name(network)] if is_tied(network) else [head_name(network), embedding_name(network)]
    found = {}
    for name in names:
        weight = network.get_submodule(name).weight.detach()
        grid.check(weight.shape[1], name)
        found[name] = half_precision(round_to_nearest(weight, grid, torch.ones(weight.shape[1])))
    return found


def put_back(network: Any, codes: Mapping[str, Codes]) -> None:
    """Write what the codes stand for into the network's matrices."""
    with torch.no_grad():
        for name, found in codes.items():
            network.get_submodule(name).weight.copy_(found.dequantize())


Moments = Mapping[str, Any]
"""By name of a layer, the second moments X'X (inputs, inputs) of what goes into it."""


def moments_by_block(
    network: Any,
    layers: Mapping[str, Any],
    batches: Sequence[Sequence[Any]],
    dtype: Any,
    progress: Callable[[int, int], None],
) -> Iterator[Moments]:
    """Of the layers of one block after the other; layers that read the same share one matrix."""
    walk, names = BlockWalk(network, batches, dtype), {id(layer): name for name, layer in layers.items()}
    for done, block in enumerate(walk, 1):
        here = {names[id(module)]: module for module in block.modules() if id(module) in names}
        sums: dict[str, Any] = {}
        # the walk goes on with what comes out of the block as it is: the caller may change it afterwards
        walk.hidden = walk.watch(here, walk.hidden, partial(_add, sums))
        yield _for_all(here, sums)
        progress(done, len(walk.blocks))


def _add(sums: dict[str, Any], name: str, inputs: Any) -> None:
    inputs = inputs.float()
    if name not in sums:
        sums[name] = torch.zeros(inputs.shape[1], inputs.shape[1])
    sums[name].addmm_(inputs.T, inputs)


def _for_all(layers: Mapping[str, Any], sums: Mapping[str, Any]) -> Moments:
    """Layers that read what another one read before them come right after it, and have its matrix."""
    found: dict[str, Any] = {}
    for name in layers:
        found[name] = sums[name] if name in sums else found[next(reversed(found))]
    return found
