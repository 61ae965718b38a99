"""From a network to codes: which matrices are packed, and what goes into them. Shared by the weight-only passes.

layers = packable(network, [Grid(4, 32)])
codes = {name: round_to_nearest(layer.weight, Grid(4, 32)) for name, layer in layers.items()}
codes |= head_codes(network, Grid(8, 64))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from components.compression.blocks import BlockWalk
from components.compression.layers import block_linears, decoder_layers, head_name
from components.compression.quantization.grid import Codes, Grid, half_precision, round_to_nearest
from components.core.errors import ModelLoadError


def packable(network: Any, grids: Sequence[Grid]) -> dict[str, Any]:
    """The linear layers of the blocks by name. A ConfigError where a grid does not fit one; a ModelLoadError where the
    blocks hold matrices that are no linear layers (fused experts, GPT-2's transposed ones)."""
    layers = block_linears(network)
    if not layers:
        raise ModelLoadError(
            f"the blocks of a {network.config.model_type} model hold no linear layers to pack; "
            "take {type: onnx, precision: int4}, whose exporter rounds what they hold"
        )
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
    """Codes of the output matrix, by its name. An embedding of its own stays in float: exporters read no packed one."""
    name = head_name(network)
    weight = network.get_submodule(name).weight.detach()
    grid.check(weight.shape[1], name)
    return {name: half_precision(round_to_nearest(weight, grid, torch.ones(weight.shape[1], dtype=torch.float32)))}


def put_back(network: Any, codes: Mapping[str, Codes]) -> None:
    """Write what the codes stand for into the network's matrices."""
    with torch.no_grad():
        for name, found in codes.items():
            network.get_submodule(name).weight.copy_(found.dequantize())


class Inputs:
    """What calibration rows put into a layer: the second moments X'X (inputs, inputs), the sum of |x| (inputs,)."""

    def __init__(self, inputs: int) -> None:
        self.moments, self.sizes = (torch.zeros(shape, dtype=torch.float32) for shape in ((inputs, inputs), (inputs,)))

    def add(self, inputs: Any) -> None:
        """Of further tokens (tokens, inputs)."""
        inputs = inputs.float()
        self.moments.addmm_(inputs.T, inputs)
        self.sizes += inputs.abs().sum(0)


def inputs_by_block(
    network: Any,
    layers: Mapping[str, Any],
    batches: Sequence[Sequence[Any]],
    dtype: Any,
    progress: Callable[[int, int], None],
) -> Iterator[dict[str, Inputs]]:
    """By name, of the layers of one block after the other; layers that read the same share one object."""
    walk, names = BlockWalk(network, batches, dtype), {id(layer): name for name, layer in layers.items()}
    for done, block in enumerate(walk, 1):
        here = {names[id(module)]: module for module in block.modules() if id(module) in names}
        found: dict[str, Inputs] = {}

        def tell(name: str, inputs: Any, found: dict[str, Inputs] = found) -> None:
            if name not in found:
                found[name] = Inputs(inputs.shape[1])
            found[name].add(inputs)

        # the walk goes on with what comes out of the block as it is: the caller may change it afterwards
        walk.hidden = walk.watch(here, walk.hidden, tell)
        yield {name: found[walk.same[name]] for name in here}
        progress(done, len(walk.blocks))
