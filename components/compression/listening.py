"""What goes into the matrices of a block on calibration rows, experts included.

walk = BlockWalk(network, batches)
for block in walk:
    listen(walk, block, network, tell)      # tell(matrix name, inputs of real tokens (tokens, inputs))
    ...                                     # change the block
    walk.advance()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from components.compression.blocks import BlockWalk
from components.compression.pruning.sparsity import Matrix, is_experts, matrices_in

Tell = Callable[[str, Any], None]


def listen(walk: BlockWalk, block: Any, network: Any, tell: Tell) -> list[Matrix]:
    """Run the block at hand and tell what goes into each of its matrices, by their names; returns the matrices."""
    found = list(matrices_in(block, network))
    masks, now = iter(walk.masks), list[Any]()

    def begin(*_: Any) -> None:
        now[:] = [next(masks).flatten()]

    handles = [block.register_forward_pre_hook(begin)]
    for name in dict.fromkeys(matrix.module.removesuffix(_part(matrix)) for matrix in found):
        module = network.get_submodule(name)
        hear = _experts(name, module, now, tell) if is_experts(module) else _plain(f"{name}.weight", now, tell)
        handles.append(module.register_forward_pre_hook(hear))
    try:
        walk.through(walk.hidden)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _part(matrix: Matrix) -> str:
    """Of experts, the name of the parameter inside their module."""
    return "" if matrix.expert is None else f".{matrix.module.rpartition('.')[2]}"


def _plain(name: str, now: list[Any], tell: Tell) -> Callable[..., None]:
    def hear(module: Any, args: Any) -> None:
        tell(name, args[0].reshape(-1, args[0].shape[-1])[now[0]])

    return hear


def _experts(name: str, module: Any, now: list[Any], tell: Tell) -> Callable[..., None]:
    """Experts are told what is routed to them; what goes into their second matrix is computed from that."""

    def hear(_: Any, args: Any) -> None:
        hidden, chosen = args[0].reshape(-1, args[0].shape[-1])[now[0]], args[1].reshape(len(now[0]), -1)[now[0]]
        for expert in range(module.num_experts):
            mine = hidden[(chosen == expert).any(1)]
            if len(mine):
                for part, inputs in _inside(module, expert, mine).items():
                    tell(f"{name}.{part}.{expert}", inputs)

    return hear


def _inside(module: Any, expert: int, hidden: Any) -> Mapping[str, Any]:
    """What goes into each matrix of one expert, by the names of the parameters."""
    first = "gate_up_proj" if module.has_gate else "up_proj"
    weight = getattr(module, first)[expert]
    bias = getattr(module, f"{first}_bias")[expert] if module.has_bias else None
    with torch.no_grad():
        out = torch.nn.functional.linear(hidden, weight.T if module.is_transposed else weight, bias)
        between = module._apply_gate(out) if module.has_gate else module.act_fn(out)
    return {first: hidden, "down_proj": between}
