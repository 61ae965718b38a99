"""Which decoder blocks a network can do without, by what they change on calibration rows.

blocks = Blocks(network)
removed = least_influential(block_influence(blocks, rows), 8)
removed = greedily(blocks, rows, 8)             # slower: removes what costs least, measured, again and again
with blocks.bypassed(removed): network(ids)     # the network as it will be
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from components.compression.distance import ScoredRow, divergence, log_probabilities
from components.compression.layers import decoder_layers
from components.core.machine import machine


class Blocks:
    """The decoder blocks of a network: what goes through them, and the network without some of them."""

    def __init__(self, network: Any) -> None:
        self.network, self.layers = network, decoder_layers(network)
        self._tuples = False  # whether blocks of this family hand on a tuple
        self.states(torch.zeros(1, 2, dtype=torch.long))

    def __len__(self) -> int:
        return len(self.layers)

    @contextmanager
    def bypassed(self, removed: Sequence[int], given: Mapping[int, Any] | None = None) -> Iterator[None]:
        """Hidden states pass the removed blocks unchanged; those in `given` hand on these hidden states instead."""
        given = given or {}
        replaced = {*removed, *given}
        for number in replaced:
            self.layers[number].forward = self._passing(given.get(number))
        try:
            yield
        finally:
            for number in replaced:
                del self.layers[number].forward

    def _passing(self, given: Any) -> Callable[..., Any]:
        def forward(hidden_states: Any, *rest: Any, **named: Any) -> Any:
            found = hidden_states if given is None else given
            return (found,) if self._tuples else found

        return forward

    def states(self, ids: Any) -> list[Any]:
        """What goes into each block, and last what comes out of the last one."""
        found: list[Any] = []

        def into(_: Any, args: Any, named: Any) -> None:
            found.append(args[0] if args else named["hidden_states"])

        def out_of(_: Any, __: Any, output: Any) -> None:
            self._tuples = isinstance(output, tuple)
            found.append(output[0] if self._tuples else output)

        hooks = [layer.register_forward_pre_hook(into, with_kwargs=True) for layer in self.layers]
        hooks.append(self.layers[-1].register_forward_hook(out_of))
        try:
            with torch.inference_mode():
                self.network(input_ids=ids, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return found


def block_influence(blocks: Blocks, rows: Sequence[ScoredRow]) -> list[float]:
    """1 - mean cosine of the hidden states before and after each block (ShortGPT, arXiv:2403.03853)."""
    total, count = torch.zeros(len(blocks)), 0
    for row in rows:
        states = blocks.states(row.ids)
        cosines = [functional.cosine_similarity(a, b, dim=-1).sum() for a, b in zip(states, states[1:], strict=False)]
        total += torch.stack(cosines)
        count += states[0][..., 0].numel()
    return [1 - float(value) / count for value in total]


def least_influential(influence: Sequence[float], count: int) -> list[int]:
    """The blocks with the least influence, in the order in which they stand."""
    return sorted(sorted(range(len(influence)), key=influence.__getitem__)[:count])


def evenly(total: int, count: int) -> list[int]:
    """Blocks at equal distances, the first and the last ones kept."""
    kept = torch.linspace(0, total - 1, total - count).round().long().tolist()
    return [number for number in range(total) if number not in kept]


def greedily(
    blocks: Blocks, rows: Sequence[ScoredRow], count: int, told: Callable[[int], None] = lambda done: None
) -> list[int]:
    """Remove, `count` times, the block without which the network stays nearest to the whole one: measured KL."""
    expected = [log_probabilities(blocks.network, row) for row in rows]
    removed: list[int] = []
    while len(removed) < count:
        costs = _costs(blocks, rows, expected, removed)
        removed.append(min(costs, key=lambda number: costs[number]))
        told(len(removed))
    return sorted(removed)


def _fast() -> Any:
    """Matrices in bfloat16 where the processor multiplies them faster: costs are compared, not reported."""
    return torch.autocast("cpu", torch.bfloat16, enabled=machine().bf16)


def _costs(
    blocks: Blocks, rows: Sequence[ScoredRow], expected: Sequence[Any], removed: Sequence[int]
) -> dict[int, float]:
    """Summed KL without each of the remaining blocks. What stands before a block is computed once for all of them."""
    costs = dict.fromkeys((number for number in range(len(blocks)) if number not in removed), 0.0)
    for row, reference in zip(rows, expected, strict=True):
        with blocks.bypassed(removed):
            states = blocks.states(row.ids)
        for number in costs:
            with _fast(), blocks.bypassed([*removed, *range(number + 1)], {0: states[number]}):
                costs[number] += float(divergence(reference, log_probabilities(blocks.network, row)).sum())
    return costs
