"""Quantization-aware training with torchao: weights learn while they are rounded at every step.

The forward pass sees the weights on the grid, the backward pass goes through as if they were not rounded (straight
through). What is learned is to say what the network in float says: the loss is KL(float || rounded) at every token.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from components.compression.calibration import padded
from components.compression.layers import block_linears
from components.compression.quantization.grid import Grid, round_to_nearest
from components.core.errors import TrainingError, require


def fake_quantized(network: Any, grid: Grid) -> list[Any]:
    """Let the linear layers in the blocks round their weights to the grid as they run; returns their parameters.

    torchao 0.18 has no asymmetric grid with whole zero points for groups (it stores them as floats and casts), so its
    layers get our grid to round with.
    """
    require("torchao", "qat")
    from torchao.quantization import quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    inside = set(block_linears(network))
    weights = IntxFakeQuantizeConfig(torch.int8, group_size=grid.group, is_symmetric=True)
    quantize_(network, QATConfig(weight_config=weights, step="prepare"), lambda _, name: name in inside)
    network.requires_grad_(False)
    layers = list(block_linears(network).values())
    for layer in layers:
        layer.weight_fake_quantizer = OnGrid(grid)
    return [layer.weight.requires_grad_(True) for layer in layers]


class OnGrid(torch.nn.Module):  # type: ignore[misc]
    """A weight rounded to nearest on a grid; its gradient goes through as if it were not (Bengio et al. 2013)."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, weight: Any) -> Any:
        with torch.no_grad():
            lost = round_to_nearest(weight, self.grid).dequantize() - weight
        return weight + lost


def learn(
    network: Any,
    teacher: Any,
    rows: Sequence[Any],
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    tell: Callable[[int], None] = lambda done: None,
) -> list[float]:
    """Train the parameters of `network` that want gradients; returns the loss of every step, in nats a token. `tell`
    is called with the number of steps that are done."""
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(wanted, lr=learning_rate, weight_decay=0.0)
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, max(0.05, (steps - step) / max(1, steps - warmup)))
    )
    losses: list[float] = []
    for batch in itertools.islice(_batches(rows, batch_size, seed), steps):
        loss = _divergence(network, teacher, *padded(batch))
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss became {float(loss)} at step {len(losses)}; lower learning_rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(wanted, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        tell(len(losses))
    return losses


def _batches(rows: Sequence[Any], size: int, seed: int) -> Iterator[list[Any]]:
    """All rows in a new order each time, without an end."""
    order = random.Random(seed)
    waiting: list[Any] = []
    while True:
        waiting += order.sample(list(rows), len(rows))
        while len(waiting) >= size:
            yield waiting[:size]
            waiting = waiting[size:]


def _divergence(network: Any, teacher: Any, ids: Any, mask: Any) -> Any:
    with torch.no_grad():
        expected = teacher(input_ids=ids, use_cache=False).logits[mask].float().log_softmax(-1)
    found = network(input_ids=ids, use_cache=False).logits[mask].float().log_softmax(-1)
    return torch.nn.functional.kl_div(found, expected, log_target=True, reduction="batchmean")
