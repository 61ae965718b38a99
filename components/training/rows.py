"""The tokens of a data set as a trainer wants them: fitting, and each with something to learn from."""

from __future__ import annotations

from typing import Any

from components.core.artifacts import Artifact
from components.core.dataset import index, token_lengths, tokens
from components.core.errors import TrainingError
from components.training.config import TrainingConfig

SIDES = {"preference": ("chosen_", "rejected_")}
"""Prefixes of the columns, for shapes whose rows are tokenised more than once."""


def length_problem(dataset: Artifact, config: TrainingConfig) -> str | None:
    """Why the rows of the train split are too long for this configuration; None if they fit."""
    if dataset.meta.get("tokenizer") is None:
        return None
    found = index(dataset, "train")
    lengths = _longest_sides(found, dataset.meta["shape"])
    too_long = sum(length > config.max_length for length in lengths)
    if too_long < len(lengths) and too_long <= config.max_too_long_fraction * len(lengths):
        return None
    return (
        f"{too_long} of {len(lengths)} training rows are longer than max_length={config.max_length} tokens; "
        "raise max_length, or allow leaving them out with max_too_long_fraction"
    )


def _longest_sides(rows: Any, shape: str) -> list[int]:
    sides = [token_lengths(rows, f"{side}input_ids") for side in SIDES.get(shape, ("",))]
    return [max(lengths) for lengths in zip(*sides, strict=True)]


def supervised_rows(dataset: Artifact, split: str, tokenizer: Any, config: TrainingConfig) -> Any:
    """Rows with `input_ids` and `labels`; of preferences, the chosen answers. Longer ones than allowed are left out.

    A TrainingError for a row without a token to learn from.
    """
    side = SIDES.get(dataset.meta["shape"], ("",))[0]
    rows = tokens(dataset, split, tokenizer, side)
    spans = rows.with_format("arrow")["spans"]
    silent = [number for number, found in enumerate(spans) if not len(found)]
    if silent:
        word = "training" if split == "train" else split
        raise TrainingError(f"{word} row {silent[0] + 1} has no token to learn from: the chat template hides it")
    return fitting(rows, token_lengths(rows), config.max_length)


def fitting(rows: Any, lengths: list[int], most: int) -> Any:
    """The rows of at most so many tokens."""
    short = [number for number, length in enumerate(lengths) if length <= most]
    return rows if len(short) == len(rows) else rows.select(short)


def eval_rows(dataset: Artifact, tokenizer: Any, config: TrainingConfig) -> Any:
    """The first of the eval rows, as the recipe's `evaluate` asks; None where it does not."""
    if config.evaluate is None:
        return None
    rows = supervised_rows(dataset, "eval", tokenizer, config)
    return rows.select(range(min(config.evaluate.rows, len(rows))))


def eval_problem(dataset: Artifact, config: TrainingConfig) -> str | None:
    """Why there is nothing to evaluate on; None if there is, or nothing is asked for."""
    if config.evaluate is None and config.samples is None or dataset.meta["rows"].get("eval"):
        return None
    return "evaluate and samples need rows in the eval split, which has none; give data.eval or data.split"
