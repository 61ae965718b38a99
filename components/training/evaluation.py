"""Mean loss of a model on the trained tokens of a split, outside of training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from components.core.artifacts import Artifact
from components.core.dataset import IGNORED, token_lengths, tokens
from components.core.errors import TrainingError
from components.core.safeload import load_adapter, load_causal_lm, load_tokenizer
from components.training.rows import SIDES, padding

BATCH_TOKENS = 1024
"""Of a batch, filling included: their scores for the whole vocabulary must fit into memory."""


def evaluate(model: Artifact, base: Artifact | None, dataset: Artifact, split: str) -> dict[str, float]:
    """`loss` (nats a token), `perplexity` and `tokens`. `base`: what an adapter belongs on."""
    import torch

    counts = dataset.meta["rows"]
    if not counts.get(split):
        known = ", ".join(sorted(name for name, count in counts.items() if count)) or "none"
        raise TrainingError(f"there is nothing to evaluate on: no rows in the split '{split}' (with rows: {known})")
    tokenizer = load_tokenizer(model.path)
    rows = tokens(dataset, split, tokenizer, SIDES.get(dataset.meta["shape"], ("",))[0])
    network = load_causal_lm((base or model).path)
    if base is not None:
        network = load_adapter(network, model.path)
    network = network.to("cuda" if torch.cuda.is_available() else "cpu")
    total, count = 0.0, 0
    for batch in _batches(token_lengths(rows)):
        nats, labelled = _loss(network, rows[batch], padding(tokenizer))
        total, count = total + nats, count + labelled
    if not count:
        raise TrainingError(f"there is nothing to evaluate on: no row of the split '{split}' has a token to learn from")
    loss = total / count
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "tokens": float(count)}


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of rows, the longest first, so that those of a batch are of similar length and the first needs most."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _loss(network: Any, rows: dict[str, list[list[int]]], fill: int) -> tuple[float, int]:
    """Nats of all labelled tokens of a batch, and how many they are."""
    import torch

    width = max(map(len, rows["input_ids"]))

    def filled(lists: list[list[int]], value: int) -> Any:
        return torch.tensor([row + [value] * (width - len(row)) for row in lists], device=network.device)

    # filled up behind: no token sees what comes after it
    labels = filled(rows["labels"], IGNORED)[:, 1:]
    there = labels != IGNORED
    if not there.any():
        return 0.0, 0
    mask = filled([[1] * len(row) for row in rows["input_ids"]], 0)
    with torch.inference_mode():
        logits = network(input_ids=filled(rows["input_ids"], fill), attention_mask=mask, use_cache=False).logits
        nats = torch.nn.functional.cross_entropy(logits[:, :-1][there].float(), labels[there], reduction="none")
    return float(nats.double().sum()), int(there.sum())
