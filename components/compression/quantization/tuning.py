"""The last step of quantization: scales and norms are trained so that the network says what it said before.

Codes stay as they are, so nothing grows; the scales of all groups and the weights of the norms learn to keep the whole
network's distribution (KL from the unquantized one, on calibration rows), where rounding layer by layer knows only its
own layer. The second phase of EfficientQAT (arXiv:2407.11062), with the teacher's distribution in the place of text.

Logits of a vocabulary never stand in memory as a whole: the gradient that reaches the hidden states is computed with
them, a few positions at a time, in buffers that are used again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from components.compression.calibration import padded
from components.compression.quantization.grid import Codes, half_precision

ROWS = 192
"""Positions whose logits are held at once."""
ROUND = 64
"""Positions in a product are a multiple of this: oneDNN compiles a kernel for each new number, and keeps it."""
BETAS = (0.9, 0.95)
WARM_UP = 4


class _Weight(torch.autograd.Function):  # type: ignore[misc]
    """Codes and scales -> weights; the gradient goes to the scales."""

    @staticmethod
    def forward(ctx: Any, steps: Any, scales: Any, group: int) -> Any:
        ctx.save_for_backward(steps)
        ctx.group = group
        return (steps.unflatten(1, (-1, group)) * scales[..., None].to(steps.dtype)).flatten(1)

    @staticmethod
    def backward(ctx: Any, to_weight: Any) -> Any:
        (steps,) = ctx.saved_tensors
        return None, (to_weight * steps).unflatten(1, (-1, ctx.group)).sum(-1, dtype=torch.float32), None


class Scaled(nn.Module):  # type: ignore[misc]
    """A linear layer of fixed codes whose scales are trained. `dtype`: of its products."""

    def __init__(self, codes: Codes, bias: Any, dtype: Any) -> None:
        super().__init__()
        steps = codes.codes.float().unflatten(1, (-1, codes.grid.group)) - codes.zeros[..., None].float()
        self.group, self.bias = codes.grid.group, bias
        self.register_buffer("steps", steps.flatten(1).to(dtype), persistent=False)
        self.scales = nn.Parameter(codes.scales.clone())

    def forward(self, inputs: Any) -> Any:
        weight = _Weight.apply(self.steps, self.scales, self.group)
        return functional.linear(inputs.to(weight.dtype), weight, self.bias).to(inputs.dtype)


class Divergence:
    """Mean KL(teacher || student) at positions, for heads that stay as they are. Holds its buffers between calls."""

    def __init__(self, teacher_head: Any, head: Any, dtype: Any) -> None:
        self.teacher_head, self.head = teacher_head.detach().to(dtype), head.detach().to(dtype)
        self.rounded = torch.empty(ROWS, len(head), dtype=dtype)
        self.expected, self.found, self.likely, self.spare = (
            torch.empty(ROWS, len(head), dtype=torch.float32) for _ in range(4)
        )

    def __call__(self, taught: Any, hidden: Any) -> Any:
        """Of hidden states (positions, width) of both networks; differentiable with respect to the student's."""
        return _Divergence.apply(hidden, taught, self)

    def piece(self, taught: Any, hidden: Any) -> tuple[float, Any]:
        """Of up to `ROWS` positions: the sum, and its gradient with respect to `hidden`."""
        count, rows = len(hidden), len(hidden) + -len(hidden) % ROUND
        expected = self._log_probs(taught, self.teacher_head, self.expected[:rows])
        found = self._log_probs(hidden, self.head, self.found[:rows])
        likely = torch.exp(expected, out=self.likely[:rows])
        lost = torch.sub(expected, found, out=self.spare[:rows]).mul_(likely)
        surplus = self.rounded[:rows].copy_(found.exp_().sub_(likely))
        return float(lost[:count].sum()), (surplus @ self.head)[:count]

    def _log_probs(self, hidden: Any, head: Any, scores: Any) -> Any:
        hidden = functional.pad(hidden.to(head.dtype), (0, 0, 0, len(scores) - len(hidden)))
        scores.copy_(torch.mm(hidden, head.t(), out=self.rounded[: len(scores)]))
        return torch.log_softmax(scores, -1, out=scores)


class _Divergence(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, hidden: Any, taught: Any, of: Divergence) -> Any:
        pieces = [of.piece(*pair) for pair in zip(taught.split(ROWS), hidden.detach().split(ROWS), strict=True)]
        ctx.save_for_backward(torch.cat([direction for _, direction in pieces]))
        return torch.tensor(sum(lost for lost, _ in pieces) / len(hidden))

    @staticmethod
    def backward(ctx: Any, to_mean: Any) -> Any:
        (direction,) = ctx.saved_tensors
        return direction.float() * (to_mean / len(direction)), None, None


def install(network: Any, codes: Mapping[str, Codes], dtype: Any) -> dict[str, Scaled]:
    """Put `Scaled` in the place of the linear layers that have codes; returns them by name."""
    found = {name: Scaled(codes[name], network.get_submodule(name).bias, dtype) for name in codes}
    for name, layer in found.items():
        owner, _, last = name.rpartition(".")
        setattr(network.get_submodule(owner), last, layer)
    return found


def settle(network: Any, scaled: Mapping[str, Scaled], codes: Mapping[str, Codes]) -> dict[str, Codes]:
    """Plain linear layers again, with the trained scales rounded to float16; returns their codes."""
    found = {}
    for name, layer in scaled.items():
        before = codes[name]
        found[name] = half_precision(Codes(before.grid, before.codes, layer.scales.detach(), before.zeros))
        weight = found[name].dequantize()
        plain = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None)
        plain.weight, plain.bias = nn.Parameter(weight), layer.bias
        owner, _, last = name.rpartition(".")
        setattr(network.get_submodule(owner), last, plain)
    return found


class Tuning:
    """Trains the scales and norms of `student` (whose linear layers are `Scaled`) towards `teacher`."""

    def __init__(self, teacher: Any, student: Any, scaled: Mapping[str, Scaled], dtype: Any) -> None:
        self.teacher, self.student, self.dtype = teacher.requires_grad_(False), student.requires_grad_(False), dtype
        heads = [network.get_output_embeddings().weight for network in (teacher, student)]
        self.divergence = Divergence(heads[0], heads[1], dtype)
        self.scales = [layer.scales.requires_grad_(True) for layer in scaled.values()]
        self.norms = [p.requires_grad_(True) for p in _vectors(student)]
        self._taught: dict[int, Any] = {}

    def train(
        self,
        batches: Sequence[Sequence[Any]],
        steps: int,
        learning_rate: float,
        seed: int,
        told: Callable[[int, float], None],
    ) -> list[float]:
        """Divergence before each step; `learning_rate` is relative to the size of what is learnt."""
        groups = [
            {"params": [p], "lr": 0.0, "full": learning_rate * rate * float(p.detach().abs().mean())}
            for tensors, rate in ((self.scales, 1.0), (self.norms, 0.02))
            for p in tensors
        ]
        rule, order, losses = torch.optim.Adam(groups, betas=BETAS), list(range(len(batches))), []
        random.Random(seed).shuffle(order)
        for step in range(steps):
            for group in rule.param_groups:
                group["lr"] = group["full"] * _schedule(step, steps)
            number = order[step % len(order)]
            loss = self._loss(number, batches[number])
            loss.backward()
            rule.step()
            rule.zero_grad(set_to_none=True)
            losses.append(float(loss.detach()))
            told(step + 1, losses[-1])
        return losses

    def _loss(self, number: int, rows: Sequence[Any]) -> Any:
        if number not in self._taught:
            with torch.no_grad():
                self._taught[number] = self._hidden(self.teacher, rows).to(self.dtype)
        return self.divergence(self._taught[number], self._hidden(self.student, rows))

    def _hidden(self, network: Any, rows: Sequence[Any]) -> Any:
        ids, mask = padded(rows)
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            return network.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state[
                mask
            ]


def _vectors(network: Any) -> list[Any]:
    """The weights of norms: every parameter of one dimension that is no bias."""
    return [p for name, p in network.named_parameters() if p.dim() == 1 and not name.endswith("bias")]


def _schedule(step: int, steps: int) -> float:
    """A short warm-up, then a cosine to nearly nothing."""
    return min(1.0, (step + 1) / WARM_UP) * max(0.02, (1 + math.cos(math.pi * step / steps)) / 2)
