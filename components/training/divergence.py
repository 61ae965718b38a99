"""How far a student is from its teacher, where of the teacher only the likeliest tokens are known.

The teacher's `k` likeliest tokens at a position keep their probabilities; all others are one bucket, whose probability
is what remains. KL(teacher || student) over these k + 1 outcomes is never more than over the whole vocabulary, and the
same where k is its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

LEAST = 1e-6
"""Probability below which the bucket is rounding, and left out."""


@dataclass(frozen=True)
class Mix:
    """How much of the loss is the teacher's distribution (`alpha`), and at which temperature it is compared."""

    alpha: float
    temperature: float


@dataclass
class TaughtOutput(ModelOutput):  # type: ignore[misc]
    """The loss, and its two parts as sums over positions, without gradient."""

    loss: Any = None
    kl: Any = None
    cross_entropy: Any = None


def taught_loss(head: Any, hidden: Any, labels: Any, taught: tuple[Any, Any], mix: Mix, chunk: int) -> Any:
    """Sums over positions: (loss, KL, cross-entropy). `hidden` (positions, width); `taught`: log-probabilities and ids
    of the teacher's likeliest tokens, both (positions, k)."""
    if len(labels) <= chunk:
        return _of_hidden(head, hidden, labels, *taught, mix)
    pieces = zip(*(tensor.split(chunk) for tensor in (hidden, labels, *taught)), strict=True)
    sums = [checkpoint(_of_hidden, head, *piece, mix, use_reentrant=False) for piece in pieces]
    return tuple(sum(parts) for parts in zip(*sums, strict=True))


def _of_hidden(head: Any, hidden: Any, labels: Any, log_probs: Any, ids: Any, mix: Mix) -> Any:
    return taught_sums(head(hidden), labels, log_probs, ids, mix)


def taught_sums(logits: Any, labels: Any, log_probs: Any, ids: Any, mix: Mix) -> tuple[Any, Any, Any]:
    """Sums over positions: alpha * T^2 * KL + (1 - alpha) * cross-entropy, and the two of them without gradient."""
    logits = logits.float()
    entropy = functional.cross_entropy(logits, labels, reduction="sum")
    scaled = logits / mix.temperature
    found = scaled.gather(-1, ids.long()) - scaled.logsumexp(-1, keepdim=True)
    kl = _divergence(log_probs, found).sum()
    total = mix.alpha * mix.temperature**2 * kl + (1 - mix.alpha) * entropy
    return total, kl.detach(), entropy.detach()


def _divergence(teacher: Any, student: Any) -> Any:
    """KL at each position over the known tokens and the bucket of all others."""
    likely = teacher.exp()
    known = (likely * (teacher - student)).sum(-1)
    rest, left = 1 - likely.sum(-1), (1 - student.exp().sum(-1)).clamp_min(LEAST)
    bucket = torch.where(rest > LEAST, rest * (rest.clamp_min(LEAST).log() - left.log()), torch.zeros_like(rest))
    return known + bucket


def likeliest(logits: Any, k: int, temperature: float) -> tuple[Any, Any]:
    """Log-probabilities and ids of the k likeliest tokens at each position."""
    found = (logits.float() / temperature).log_softmax(-1).topk(min(k, logits.shape[-1]), dim=-1)
    return found.values, found.indices.to(torch.int32)
