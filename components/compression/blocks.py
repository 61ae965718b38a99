"""Walking through a network block by block: what calibration rows put into the layers of each.

    walk = BlockWalk(network, batches)
    for block in walk:                                             # nn.Module, in order
        walk.watch({"down": block.mlp.down_proj}, walk.hidden, tell)   # tell("down", inputs)
        walk.advance()                                             # through the block as it is now, changed or not

Only the hidden states between two blocks are held, so memory does not grow with depth. Rows go through the network as
it is given: with what earlier blocks make of them once they are quantized, results were the same here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from components.compression.calibration import padded
from components.compression.layers import decoder_layers


class BlockWalk:
    """Hidden states of padded batches on their way through the decoder blocks.

    `hidden`: one tensor (rows, tokens, width) a batch; `masks`: which of its tokens are real; `same`: by name of a
    layer that was watched, the first layer that read the same.
    """

    def __init__(self, network: Any, batches: Sequence[Sequence[Any]], dtype: Any = torch.float32) -> None:
        self.blocks, self.dtype = decoder_layers(network), dtype
        self.hidden: list[Any] = []
        self.masks: list[Any] = []
        self.same: dict[str, str] = {}
        self._calls: list[list[tuple[Any, Any]]] = []
        for rows in batches:
            ids, mask = padded(rows)
            self.masks.append(mask)
            hidden, calls = _recorded(network, self.blocks, ids, mask)
            self.hidden.append(hidden)
            self._calls.append(calls)

    def __iter__(self) -> Iterator[nn.Module]:
        for position, block in enumerate(self.blocks):
            self.position = position
            yield block

    def through(self, hidden: Sequence[Any]) -> list[Any]:
        """What the block at hand makes of these hidden states."""
        block, found = self.blocks[self.position], []
        for states, calls in zip(hidden, self._calls, strict=True):
            args, kwargs = calls[self.position]
            # without its cache: a weight that was changed would be read as it was
            half = torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32, cache_enabled=False)
            with torch.no_grad(), half:
                result = block(states, *args, **kwargs)
            found.append(result[0] if isinstance(result, tuple) else result)
        return found

    def advance(self) -> None:
        """Go on to the next block, through the one at hand as it is now."""
        self.hidden = self.through(self.hidden)

    def watch(self, layers: Mapping[str, nn.Module], hidden: Sequence[Any], tell: Callable[[str, Any], None]) -> Any:
        """Run the block and call `tell(name, inputs)` with the real tokens (tokens, inputs) that go into each layer;
        where several layers read the same, only for the first, which `same` names afterwards. Returns what comes out of
        the block."""
        masks, real, heard = iter(self.masks), list[Any](), dict[str, Any]()
        self.same = {}

        def begin(*_: Any) -> None:
            real[:] = [next(masks).flatten()]
            heard.clear()

        def hear(name: str) -> Callable[[Any, Any], None]:
            def hook(_: Any, args: Any) -> None:
                first = next((other for other, inputs in heard.items() if inputs is args[0]), None)
                if first is None:
                    tell(name, args[0].reshape(-1, args[0].shape[-1])[real[0]])
                self.same[name] = first or name
                heard[name] = args[0]

            return hook

        handles = [self.blocks[self.position].register_forward_pre_hook(begin)]
        handles += [module.register_forward_pre_hook(hear(name)) for name, module in layers.items()]
        try:
            return self.through(hidden)
        finally:
            for handle in handles:
                handle.remove()


def _recorded(network: Any, blocks: nn.ModuleList, ids: Any, mask: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """What goes into the first block, and the other arguments of every block: positions and masks, which do not hang
    on weights."""
    first: list[Any] = []
    calls: list[tuple[Any, Any]] = []

    def hear(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        hidden, rest = (args[0], args[1:]) if args else (kwargs["hidden_states"], ())
        first.append(hidden)
        del first[1:]
        calls.append((rest, {name: value for name, value in kwargs.items() if name != "hidden_states"}))

    handles = [block.register_forward_pre_hook(hear, with_kwargs=True) for block in blocks]
    try:
        with torch.no_grad():
            network.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return first[0], calls
