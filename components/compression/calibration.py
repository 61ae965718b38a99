"""Rows that a pass looks at: of the training rows, a seeded choice, as tokens. Eval rows are never among them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from components.core.artifacts import Artifact
from components.core.dataset import token_lengths, tokens
from components.core.errors import DataError

SIDES = {"preference": "chosen_"}
LEAST = 2
"""Tokens of a row that says anything: the first is only read."""


def calibration_ids(dataset: Artifact | None, tokenizer: Any, rows: int, max_length: int, seed: int) -> list[Any]:
    """Up to `rows` rows of the train split, cut off at `max_length` tokens: 1-D tensors of token ids."""
    if dataset is None:
        raise DataError("this pass calibrates on rows, and was given no data set")
    found = tokens(dataset, "train", tokenizer, SIDES.get(dataset.meta["shape"], ""))
    long_enough = [number for number, length in enumerate(token_lengths(found)) if length >= LEAST]
    chosen = shuffled(long_enough, seed)[:rows]
    if not chosen:
        raise DataError(f"the data set {dataset.key} has no training row of {LEAST} tokens to calibrate on")
    return [torch.tensor(found[number]["input_ids"][:max_length]) for number in chosen]


def shuffled(numbers: Sequence[int], seed: int) -> list[int]:
    """The same order for the same seed, which stays when rows are added at the end."""
    return sorted(numbers, key=lambda number: hashlib.sha256(f"{seed}:{number}".encode()).digest())


def batches(rows: Sequence[Any], tokens_at_once: int) -> list[list[Any]]:
    """Rows of like length together, at most so many tokens of padded batch (or one row)."""
    found: list[list[Any]] = []
    for row in sorted(rows, key=len):
        if found and len(row) * (len(found[-1]) + 1) <= tokens_at_once:
            found[-1].append(row)
        else:
            found.append([row])
    return found


def padded(rows: Sequence[Any]) -> tuple[Any, Any]:
    """(ids, mask) of a batch, padded on the right with zeros: causal attention never sees them from a real token."""
    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
        mask[number, : len(row)] = True
    return ids, mask
