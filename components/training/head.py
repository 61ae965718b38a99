"""A language-model head that multiplies only the positions that are trained on: more than half of a step on a CPU.

TRL 1.16 gives its trainers a fused head (`model(..., labels=..., fused_lm_head=True)`). With Triton it scores the
labelled positions only; on a CPU it scores every position, and computes an entropy nobody reads. This one takes the
same call and puts the same fields where they are read. It sits inside the model's own forward, so that autocast, DDP,
FSDP and PEFT see the call that they wrap.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from trl.trainer.utils import FusedCausalLMOutput

from components.core.dataset import IGNORED
from components.training.divergence import Mix, TaughtOutput, taught_loss
from components.training.frozen_head import ROUND, FrozenHead, fits

CHUNK = 2048
"""Positions whose logits are held at once; more are computed in pieces, and once more on the way back."""
ALTERED = (
    *("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier"),
    *("logits_soft_cap", "output_logit_soft_cap", "logit_softcap", "logits_mup_width_multiplier"),
)


def has_plain_head(model: Any) -> bool:
    """Whether logits are nothing but hidden states times the output matrix (no capping, no scaling, no experts)."""
    config = model.config.get_text_config()
    experts = any(getattr(config, name, None) for name in ("num_local_experts", "num_experts", "n_routed_experts"))
    return not experts and not any(getattr(config, name, None) for name in ALTERED)


def add_lean_head(
    network: Any,
    chunk: int = CHUNK,
    scores: bool = True,
    temperature: float = 1.0,
    entropy: bool = False,
    mix: Mix | None = None,
) -> None:
    """Patch the causal language model inside `network` (a PEFT model or the model itself).

    `scores`: also give `log_probs` and `is_top1` for each position, shape (batch, length - 1), as preference losses
    want, of logits divided by `temperature`, and their `entropy` if asked for; without, only the `loss` (the sum over
    labelled tokens, divided by `num_items_in_batch`). `mix`: how a call with `taught=` weighs the teacher.
    """
    model = network.get_base_model() if hasattr(network, "get_base_model") else network
    original = model.forward
    frozen = FrozenHead()

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        if not fused_lm_head:
            return original(*args, **kwargs)
        labels, items = kwargs.pop("labels"), kwargs.pop("num_items_in_batch", None)
        taught = kwargs.pop("taught", None)
        if not _attends_left(kwargs):
            kwargs.pop("attention_mask", None)
        backbone = getattr(self, self.base_model_prefix)
        hidden = backbone(*args, **{**kwargs, "use_cache": False}).last_hidden_state[:, :-1]
        labels = labels[:, 1:]
        labelled = labels != IGNORED
        head = self.get_output_embeddings()
        items = labelled.sum() if items is None else items
        if taught is not None and mix is not None:
            total, kl, nll = taught_loss(head, hidden[labelled], labels[labelled], taught, mix, chunk)
            return TaughtOutput(loss=total / items, kl=kl, cross_entropy=nll)
        short = fits(head, hidden) and temperature == 1.0 and not entropy
        hidden, labels = hidden[labelled], labels[labelled]
        if short:
            found = frozen.scores(head, hidden, labels, top=scores)
        elif scores:
            found = _scores(head, hidden, labels, temperature, entropy)
        if scores:
            return _placed(labelled, *found)
        total = -found[0].sum() if short else total_loss(head, hidden, labels, chunk)
        return FusedCausalLMOutput(loss=total / items, label_mask=labelled)

    model.forward = types.MethodType(forward, model)


def _attends_left(kwargs: dict[str, Any]) -> bool:
    """Whether a mask is needed. Rows padded on the right need none: attention is causal, no real token sees a pad."""
    mask = kwargs.get("attention_mask")
    return mask is not None and not bool(mask[:, 0].all())


def total_loss(head: Any, hidden: Any, labels: Any, chunk: int) -> Any:
    """Summed negative log-likelihood; `hidden` has shape (positions, width), `labels` (positions,)."""
    if len(labels) <= chunk:
        return _negative_log_likelihood(head, hidden, labels)
    pieces = zip(hidden.split(chunk), labels.split(chunk), strict=True)
    return sum(checkpoint(_negative_log_likelihood, head, h, y, use_reentrant=False) for h, y in pieces)


def _negative_log_likelihood(head: Any, hidden: Any, labels: Any) -> Any:
    return functional.cross_entropy(logits_of(head, hidden), labels, reduction="sum")


def logits_of(head: Any, hidden: Any) -> Any:
    """float32 logits of positions, shape (positions, vocabulary)."""
    count = len(hidden)
    if hidden.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        # oneDNN compiles a kernel for each new number of positions, and keeps it; there are few multiples
        hidden = functional.pad(hidden, (0, 0, 0, -count % ROUND))
    return head(hidden)[:count].float()


def _scores(head: Any, hidden: Any, labels: Any, temperature: float, entropy: bool) -> tuple[Any, ...]:
    """Log-probabilities of labels, whether each is the likeliest token, and the entropy if it is asked for."""
    logits = logits_of(head, hidden)
    if temperature != 1.0:
        logits = logits / temperature
    found = -functional.cross_entropy(logits, labels, reduction="none")
    best = logits.detach().argmax(-1) == labels
    return (found, best, _entropy(logits.detach())) if entropy else (found, best)


def _placed(labelled: Any, found: Any, best: Any, entropy: Any = None) -> FusedCausalLMOutput:
    """What was found at labelled positions, where TRL looks for it: shape (batch, length - 1)."""
    # not computed unless asked for, and shown as such: few read the entropy, nobody the mean over the vocabulary
    unknown = torch.full(labelled.shape, torch.nan, device=found.device)
    spread = unknown if entropy is None else torch.zeros_like(unknown).masked_scatter(labelled, entropy)
    return FusedCausalLMOutput(
        # masked_scatter keeps the graph connected even where no position is labelled
        log_probs=found.new_zeros(labelled.shape).masked_scatter(labelled, found),
        is_top1=torch.zeros_like(labelled).masked_scatter(labelled, best),
        entropy=spread,
        mean_logits=unknown,
        label_mask=labelled,
    )


def _entropy(logits: Any) -> Any:
    found = logits.log_softmax(-1)
    return -(found.exp() * found).sum(-1)
