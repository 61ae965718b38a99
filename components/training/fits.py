"""Whether tokens fit a model: refused before the first step, where torch would fail somewhere in the middle."""

from __future__ import annotations

from typing import Any

from components.core.errors import TrainingError
from components.core.families import sizes


def check_fits(network: Any, tokenizer: Any, longest: int) -> int | None:
    """Refuse tokens that the model has no embedding for, and rows beyond its positions; returns their number."""
    largest = max(tokenizer.get_vocab().values())
    places = network.get_input_embeddings().num_embeddings
    if largest >= places:
        raise TrainingError(
            f"the tokenizer gives ids up to {largest}, but the model has embeddings for {places} tokens only; "
            "they do not belong together: use the model's own tokenizer, or resize its embeddings"
        )
    positions = sizes(network.config).positions
    if positions and longest > positions:
        raise TrainingError(
            f"rows or packs of up to {longest} tokens do not fit the model, which has {positions} positions; "
            f"set max_length: {positions} or less"
        )
    return positions
