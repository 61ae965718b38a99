"""Where a network's blocks and matrices are, whatever its family calls them."""

from __future__ import annotations

from typing import Any

from torch import nn

from components.core.errors import ModelLoadError


def decoder_layers(network: Any) -> nn.ModuleList:
    """The blocks that hidden states go through, in order: the longest list of modules that are all of one class."""
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList) and len(module)]
    blocks = [found for found in lists if len({type(block) for block in found}) == 1]
    if not blocks:
        raise ModelLoadError(f"found no list of decoder blocks in a {type(network).__name__}")
    return max(blocks, key=lambda found: sum(p.numel() for p in found.parameters()))


def block_linears(network: Any) -> dict[str, nn.Linear]:
    """The linear layers inside the blocks, by their full name, in order."""
    blocks = decoder_layers(network)
    inside = {id(module) for block in blocks for module in block.modules()}
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and id(module) in inside
    }


def head_name(network: Any) -> str:
    """Name of the matrix that turns hidden states into logits."""
    return _name_of(network, network.get_output_embeddings())


def _name_of(network: Any, wanted: Any) -> str:
    return str(next(name for name, module in network.named_modules() if module is wanted))
