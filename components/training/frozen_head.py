"""How likely a frozen output matrix finds the labels: the logits are used while they are there, and not kept.

The gradient of a label's log-probability with respect to its hidden state is `W' (onehot - softmax)`, whatever the loss
does with the log-probability afterwards. So it is computed in the forward pass, from logits that are at hand, and a row
of `width` numbers is kept for the way back in place of several of `vocabulary` numbers. Logits live in two buffers of
`ROWS` positions that are filled again and again: fresh memory of that size costs more than the arithmetic on it.
The idea of fused linear cross-entropy (Liger Kernel, arXiv:2410.10989), for a matrix that nobody trains.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

ROWS = 192
"""Positions whose logits are held at once. SmolLM2-135M: 64 and 128 are slower, as the matrix is read more often."""
ROUND = 64
"""Positions in a product are a multiple of this: oneDNN compiles a kernel for each new number, and keeps it."""


class _LabelScores(torch.autograd.Function):  # type: ignore[misc]
    """Log-probabilities of labels and, with `top`, whether each is the likeliest token; both of shape (positions,)."""

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, labels: Any, top: bool) -> tuple[Any, Any]:
        hidden = hidden.to(weight.dtype)
        found = torch.empty(len(labels), device=hidden.device)
        best = torch.empty(len(labels), dtype=torch.bool, device=hidden.device) if top else None
        direction = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        rows = min(ROWS, len(labels) + -len(labels) % ROUND)
        rounded = torch.empty(rows, len(weight), dtype=weight.dtype, device=hidden.device)
        exact = torch.empty(rows, len(weight), device=hidden.device)
        for start in range(0, len(labels), ROWS):
            piece, wanted = hidden[start : start + ROWS], labels[start : start + ROWS, None]
            count, end = len(piece), start + len(piece)
            piece = functional.pad(piece, (0, 0, 0, -count % ROUND))
            logits = torch.mm(piece, weight.t(), out=rounded[: len(piece)])
            scores = exact[: len(piece)].copy_(logits)
            if best is not None:
                best[start:end] = scores[:count].argmax(-1) == wanted[:, 0]
            torch.log_softmax(scores, -1, out=scores)
            found[start:end] = scores[:count].gather(1, wanted)[:, 0]
            if direction is not None:
                surplus = scores.exp_()
                surplus[:count].scatter_add_(1, wanted, surplus.new_full((count, 1), -1.0))
                direction[start:end] = (rounded[: len(piece)].copy_(surplus) @ weight)[:count]
        if direction is not None:
            ctx.save_for_backward(direction)
        if best is not None:
            ctx.mark_non_differentiable(best)
        return found, best

    @staticmethod
    def backward(ctx: Any, to_found: Any, _: Any) -> Any:
        (direction,) = ctx.saved_tensors
        return direction * -to_found[:, None], None, None, None


class FrozenHead:
    """What a head that `fits` makes of hidden states. Its matrix is rounded once, where autocast does in every pass."""

    def __init__(self) -> None:
        self.weight: Any = None
        self.rounded: Any = None

    def scores(self, head: Any, hidden: Any, labels: Any, top: bool = True) -> tuple[Any, Any]:
        """For hidden states (positions, width), the labels' log-probabilities and, with `top`, whether each is the
        likeliest token, both (positions,)."""
        dtype = torch.get_autocast_dtype(hidden.device.type)
        if self.weight is not head.weight or self.rounded.dtype != dtype:
            self.weight, self.rounded = head.weight, head.weight.detach().to(dtype)
        found: tuple[Any, Any] = _LabelScores.apply(hidden, self.rounded, labels, top)
        return found


def fits(head: Any, hidden: Any) -> bool:
    """Whether logits are a plain product with a matrix that stays as it is, in half precision on a CPU."""
    plain = type(head) is nn.Linear and head.bias is None and not head.weight.requires_grad
    heard = head._forward_hooks or head._forward_pre_hooks
    return plain and not heard and hidden.device.type == "cpu" and torch.is_autocast_enabled("cpu")
