"""A network without some of its decoder blocks, as a plain smaller model that every exporter takes.

removed = remove_layers(network, [20, 21, 22])      # in place: blocks, configuration
network.save_pretrained(out)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from components.compression.distance import ScoredRow
from components.compression.layers import decoder_layers
from components.compression.pruning.influence import Blocks, block_influence, evenly, greedily, least_influential
from components.core.errors import ConfigError
from components.core.events import EventBus, StageProgress

NOT_PER_LAYER = ("architectures", "eos_token_id", "bos_token_id", "pad_token_id", "suppress_tokens")
"""Lists of a configuration that are never one value a layer, however long they are."""


def share_of(asked: float, total: int, what: str) -> int:
    """`0.25` of so many, or a count, as a number between 1 and total - 1; halves are rounded up."""
    count = math.floor(asked * total + 0.5) if asked < 1 else int(asked)
    if not 0 < count < total:
        raise ConfigError(f"{what}: {asked:g} of {total} are {count}; at least one must go, and at least one must stay")
    return count


def choose_layers(
    blocks: Blocks, rows: Sequence[ScoredRow], asked: float, by: str, bus: EventBus
) -> tuple[list[int], list[float]]:
    """The blocks to take out, and the influence of every block."""
    count = share_of(asked, len(blocks), "layers")
    influence = [round(value, 5) for value in block_influence(blocks, rows)]

    def told(done: int) -> None:
        bus.emit(StageProgress(stage="optimize", name="prune_depth", done=done, total=count))

    if by == "greedy":
        return greedily(blocks, rows, count, told), influence
    return (evenly(len(blocks), count) if by == "even" else least_influential(influence, count)), influence


def remove_layers(network: Any, removed: Sequence[int]) -> list[int]:
    """Take blocks out of the network and of its configuration; returns the numbers of those that stay."""
    layers = decoder_layers(network)
    kept = [number for number in range(len(layers)) if number not in removed]
    config = shallower(network.config, kept, len(layers))
    _replace(network, layers, nn.ModuleList([layers[number] for number in kept]))
    network.config = config
    return kept


def _replace(network: Any, old: nn.ModuleList, new: nn.ModuleList) -> None:
    for module in network.modules():
        for name, child in module.named_children():
            if child is old:
                setattr(module, name, new)
                return


def shallower(config: Any, kept: Sequence[int], total: int) -> Any:
    """The configuration with these layers only: their number, and every list that has one value a layer."""
    plain = config.to_dict()
    changed = {
        name: [value[number] for number in kept] for name, value in plain.items() if _per_layer(name, value, total)
    }
    made = type(config).from_dict({**plain, **changed, **_experts(plain, kept), _depth_key(config): len(kept)})
    made._attn_implementation = config._attn_implementation
    return made


def _depth_key(config: Any) -> str:
    """How this family calls the number of layers."""
    return str(config.attribute_map.get("num_hidden_layers", "num_hidden_layers"))


def _per_layer(name: str, value: Any, total: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == total and name not in NOT_PER_LAYER


def _experts(plain: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """Which layers have experts, where the configuration says so by rules about their numbers."""
    changed: dict[str, Any] = {}
    if isinstance(plain.get("first_k_dense_replace"), int):
        changed["first_k_dense_replace"] = sum(number < plain["first_k_dense_replace"] for number in kept)
    if isinstance(plain.get("mlp_only_layers"), list):
        step = plain.get("decoder_sparse_step") or 1
        dense = [n in plain["mlp_only_layers"] or (n + 1) % step != 0 for n in kept]
        changed["mlp_only_layers"] = [place for place, is_dense in enumerate(dense) if is_dense]
        changed["decoder_sparse_step"] = 1
    return changed
