"""What it costs to round a matrix: the Kullback-Leibler divergence from the network as it was, to second order.

Near the network, KL = 1/2 E[(g . delta)^2], where g is the gradient of the log-probability of a token that is drawn
from the network itself. Each drawn batch says so of all matrices and of all grids at once; rounding errors of
different outputs have nothing to do with each other, so their squares are added (as in HAWQ-V2, arXiv:1911.03852, with
the Fisher matrix in the place of the Hessian).

`allocate` then gives more bits where they buy most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from components.compression.calibration import padded
from components.compression.quantization.grid import Codes
from components.core.errors import ConfigError

Options = Mapping[str, Sequence[Codes]]
"""By name of a matrix, its codes on different grids, the smallest first."""


def sensitivities(
    network: Any, options: Options, batches: Sequence[Sequence[Any]], seed: int
) -> dict[str, list[float]]:
    """For every option of every matrix, the mean KL in nats a token if it alone is taken."""
    layers = {name: network.get_submodule(name) for name in options}
    network.requires_grad_(False)
    for layer in layers.values():
        layer.weight.requires_grad_(True)
    draw, tokens = torch.Generator().manual_seed(seed), 0
    costs = {name: [0.0] * len(found) for name, found in options.items()}
    for rows in batches:
        tokens += _gradients(network, rows, draw)
        for name, layer in layers.items():
            gradient, layer.weight.grad = layer.weight.grad, None
            for number, codes in enumerate(options[name]):
                delta = codes.dequantize().sub_(layer.weight.detach())
                costs[name][number] += float(delta.mul_(gradient).sum(1).square().sum()) / 2
    network.requires_grad_(False)
    return {name: [cost / tokens for cost in found] for name, found in costs.items()}


def _gradients(network: Any, rows: Sequence[Any], draw: torch.Generator) -> int:
    """Gradients of the log-probabilities of drawn next tokens, summed over all tokens; how many there were."""
    ids, mask = padded(rows)
    hidden = network.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state[mask]
    log_probs = network.get_output_embeddings()(hidden).float().log_softmax(-1)
    drawn = torch.multinomial(log_probs.detach().exp(), 1, generator=draw)
    log_probs.gather(1, drawn).sum().backward()
    return len(hidden)


def allocate(options: Options, costs: Mapping[str, Sequence[float]], budget: int) -> dict[str, int]:
    """Which option each matrix takes, so that all together fit `budget` bytes: from the smallest of each, step by step
    to where a byte buys most. A ConfigError if the smallest are too many."""
    taken = dict.fromkeys(options, 0)
    used = sum(found[0].size for found in options.values())
    if used > budget:
        raise ConfigError(
            f"the matrices take {used / 1e6:.1f} MB at the fewest bits that were asked for, and the budget leaves "
            f"{budget / 1e6:.1f} MB for them; raise it, or allow fewer bits"
        )
    while steps := [
        ((costs[name][now] - costs[name][now + 1]) / more, name, more)
        for name, now in taken.items()
        if now + 1 < len(options[name])
        and used + (more := options[name][now + 1].size - options[name][now].size) <= budget
    ]:
        gain, name, more = max(steps)
        if gain <= 0:
            break
        taken[name] += 1
        used += more
    return taken
