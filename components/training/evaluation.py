"""Mean loss of a model on the trained tokens of a split, outside of training."""

from __future__ import annotations

import math

from components.core.artifacts import Artifact
from components.core.dataset import token_lengths, tokens
from components.core.safeload import load_adapter, load_causal_lm, load_tokenizer
from components.training.rows import SIDES


def evaluate(model: Artifact, base: Artifact | None, dataset: Artifact, split: str) -> dict[str, float]:
    """`loss` (nats a token), `perplexity` and `tokens`. `base`: what an adapter belongs on."""
    import torch

    network = load_causal_lm((base or model).path)
    if base is not None:
        network = load_adapter(network, model.path)
    side = SIDES.get(dataset.meta["shape"], ("",))[0]
    rows = tokens(dataset, split, load_tokenizer(model.path), side)
    total, count = 0.0, 0
    for number in sorted(range(len(rows)), key=token_lengths(rows).__getitem__):
        row = rows[number]
        labels = torch.tensor(row["labels"])[1:]
        with torch.inference_mode():
            logits = network(torch.tensor([row["input_ids"]], device=network.device)).logits[0, :-1].float().cpu()
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        count += int((labels != -100).sum())
    loss = total / max(count, 1)
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "tokens": float(count)}
