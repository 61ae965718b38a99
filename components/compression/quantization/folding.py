"""Factors moved from what makes a value into the linear layers that read it; the network computes what it did.

    for groups in foldings(network, block_linears(network), row):     # of one block after the other
        for group in groups:
            group.fold(factors)          # where group.maker is not None

Nothing here knows families. Which layers read one value is seen by watching a block; what makes it is tried out: a norm
whose output it is, with weights of either kind (`weight * x`, `(1 + weight) * x`), or the last rows of a linear layer
before them (`up` before `down`, `v` before `o`, in matrices of their own or fused with others). A candidate is taken if
the block's output stays the same with its channels divided by random factors and the readers multiplied by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from components.compression.blocks import BlockWalk

TOKENS = 32
"""Of the row that candidates are tried on."""
TOLERANCE = 1e-4
"""Of what a block adds to the hidden states, that may change. In random models of nine families right candidates change
2e-7 at most, wrong ones 1e-2 at least."""


@dataclass(frozen=True)
class Maker:
    """The last `channels` outputs of a module, as what makes a value.

    `offset`: 1 for norms of the kind `(1 + weight) * x`. `heads`: how many query heads read each channel of a value
    head of `size` channels; 1 where an input is a channel.
    """

    module: nn.Module
    channels: int
    offset: float = 0.0
    heads: int = 1
    size: int = 1

    def pooled(self, inputs: Any) -> Any:
        """The mean over the inputs (inputs,) that one channel becomes, (channels,)."""
        return inputs.unflatten(0, (-1, self.heads, self.size)).mean(1).flatten()

    def spread(self, factors: Any) -> Any:
        """Factors (channels,) for the inputs that channels become, (inputs,)."""
        return factors.unflatten(0, (-1, self.size)).repeat_interleave(self.heads, 0).flatten()

    def divide(self, factors: Any) -> None:
        """Make the channels smaller by these factors (channels,)."""
        rows = slice(-self.channels, None)
        weight, bias = self.module.weight[rows], getattr(self.module, "bias", None)
        weight.add_(self.offset).div_(factors.reshape(-1, *[1] * (weight.dim() - 1))).sub_(self.offset)
        if bias is not None:
            bias[rows].div_(factors)


@dataclass(frozen=True)
class Group:
    """Linear layers that read one value, and what makes it; None where nothing can be folded into."""

    readers: Sequence[nn.Linear]
    maker: Maker | None

    def fold(self, factors: Any) -> None:
        """Divide the channels by factors (channels,), and multiply the columns that read them."""
        assert self.maker is not None
        with torch.no_grad():
            self.maker.divide(factors)
            for reader in self.readers:
                reader.weight.mul_(self.maker.spread(factors))


class _Call(NamedTuple):
    module: nn.Module
    read: Any
    made: Any


def foldings(network: Any, layers: Mapping[str, nn.Linear], row: Any) -> Iterator[list[Group]]:
    """The groups of `layers` in one block after the other, in the order in which they run; found on a row of token ids
    (tokens,). A block may be folded before the next one is asked for."""
    walk, ours = BlockWalk(network, [[row[:TOKENS]]]), {id(layer) for layer in layers.values()}
    for block in walk:
        before, calls = walk.through(walk.hidden)[0], _calls(walk, block)
        readers: dict[int, list[nn.Linear]] = {}
        for call in calls:
            if id(call.module) in ours:
                readers.setdefault(id(call.read), []).append(call.module)
        found = []
        for together in readers.values():
            makers = _makers(calls, together, network.config)
            found.append(Group(together, next((m for m in makers if _same(walk, before, together, m)), None)))
        yield found
        walk.advance()


def _calls(walk: BlockWalk, block: nn.Module) -> list[_Call]:
    """What ran inside the block at hand, with what it read and made; all of it stays alive, so that identity tells."""
    found: list[_Call] = []

    def hear(module: Any, args: Any, made: Any) -> None:
        if args:
            found.append(_Call(module, args[0], made))

    handles = [module.register_forward_hook(hear) for module in block.modules() if not list(module.children())]
    try:
        walk.through(walk.hidden)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _makers(calls: Sequence[_Call], readers: Sequence[nn.Linear], config: Any) -> Iterator[Maker]:
    """What may make the value that these layers read, the likeliest first."""
    place = next(place for place, call in enumerate(calls) if call.module is readers[0])
    value, width = calls[place].read, readers[0].in_features
    for call in calls[:place]:
        weight = getattr(call.module, "weight", None)
        if call.made is value and weight is not None and weight.shape == (width,):
            yield from (Maker(call.module, width), Maker(call.module, width, offset=1.0))
            return
    size, values = _value_heads(config)
    for call in reversed(calls[:place]):
        outputs = call.module.out_features if isinstance(call.module, nn.Linear) else 0
        if outputs >= width:
            yield Maker(call.module, width)
        if values and outputs >= values < width and width % values == 0:
            yield Maker(call.module, values, heads=width // values, size=size)


def _value_heads(config: Any) -> tuple[int, int]:
    """Width of a head, and of all value heads together; zeros where the configuration does not say one for all."""
    heads = getattr(config, "num_attention_heads", None)
    values = getattr(config, "num_key_value_heads", None) or heads
    if not isinstance(heads, int) or not isinstance(values, int):
        return 0, 0
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return size, size * values


def _same(walk: BlockWalk, before: Any, readers: Sequence[nn.Linear], maker: Maker) -> bool:
    """Whether the block at hand gives what it gave `before` with random factors folded. It is left as it was."""
    touched = [p for module in (maker.module, *readers) for p in module.parameters(recurse=False)]
    kept = [p.detach().clone() for p in touched]
    # powers of two: products with them are exact, and so is what a right candidate gives
    factors = 2.0 ** torch.randint(-1, 2, (maker.channels,), generator=torch.Generator().manual_seed(0))
    Group(readers, maker).fold(factors)
    after = walk.through(walk.hidden)[0]
    for parameter, value in zip(touched, kept, strict=True):
        parameter.data.copy_(value)
    return bool((after - before).norm() <= TOLERANCE * (before - walk.hidden[0]).norm())
