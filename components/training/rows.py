"""The tokens of a data set as a trainer wants them: fitting, and each with something to learn from."""

from __future__ import annotations

from collections.abc import Mapping
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
    refuse_empty(rows, config)
    return rows.select(range(min(config.evaluate.rows, len(rows))))


def eval_problem(dataset: Artifact, config: TrainingConfig) -> str | None:
    """Why there is nothing to evaluate on; None if there is, or nothing is asked for."""
    if config.evaluate is None and config.samples is None or dataset.meta["rows"].get("eval"):
        return None
    return "evaluate and samples need rows in the eval split, which has none; give data.eval or data.split"


def preference_rows(dataset: Artifact, split: str, tokenizer: Any, config: TrainingConfig) -> Any:
    """Pairs with the tokens and spans of both answers. Longer ones than allowed, and of eval rows too many, are left
    out; a TrainingError for a pair with an answer of no tokens."""
    tokens(dataset, split, tokenizer, SIDES["preference"][0])  # refuses tokens of another tokenizer
    rows = index(dataset, split)
    for side in SIDES["preference"]:
        silent = [number for number, found in enumerate(rows.with_format("arrow")[f"{side}spans"]) if not len(found)]
        if silent:
            raise TrainingError(f"{split} row {silent[0] + 1} has no token to learn from in its {side[:-1]} answer")
    rows = fitting(rows, _longest_sides(rows, "preference"), config.max_length)
    if split == "eval" and config.evaluate:
        refuse_empty(rows, config)
        rows = rows.select(range(min(config.evaluate.rows, len(rows))))
    return rows


def text_pieces(dataset: Artifact, split: str, tokenizer: Any, most: int) -> Any:
    """Texts cut into pieces of at most `most` tokens, all of them labelled; each knows the place of its text.

    Pieces are new borders around tokens that are memory-mapped already: they are neither copied nor written.
    """
    from datasets import Dataset
    from datasets.table import InMemoryTable

    if most < SHORTEST:
        raise TrainingError(f"texts cannot be cut into pieces of {most} tokens; max_length must be at least {SHORTEST}")
    batches = tokens(dataset, split, tokenizer).with_format("arrow")[:].to_batches()
    pieces = Dataset(InMemoryTable.from_batches([_cut(batch, most) for batch in batches]))
    # the first token of a piece is only read: one that stands alone teaches nothing
    whole = [number for number, length in enumerate(token_lengths(pieces)) if length > 1]
    if not whole:
        raise TrainingError(f"no text of the {split} split has two tokens")
    return (pieces if len(whole) == len(pieces) else pieces.select(whole)).with_transform(_all_labelled)


SHORTEST = 3
"""Tokens of a piece at least, so that two are left where it gives one away."""


def _cut(batch: Any, most: int) -> Any:
    """The texts of a record batch in pieces of `most` tokens and a rest, with their places."""
    import numpy as np
    import pyarrow as pa

    column = batch.column("input_ids")
    borders = column.offsets.to_numpy().astype(np.int64)
    lengths = np.diff(borders)
    counts = np.maximum(1, -(-lengths // most))
    texts = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(texts)) - np.repeat(np.cumsum(counts) - counts, counts)
    # a rest of a single token takes one from the piece before it, so that it can be predicted
    lonely = (number > 0) & (lengths[texts] - number * most == 1)
    first = borders[texts] + number * most - lonely
    offsets = pa.array([*first, borders[-1]], column.offsets.type)
    named = {name: batch.column(name).take(pa.array(texts)) for name in ("file", "line")}
    return pa.record_batch({"input_ids": pa.ListArray.from_arrays(offsets, column.values), **named})


def _all_labelled(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {"input_ids": batch["input_ids"], "labels": [list(ids) for ids in batch["input_ids"]]}


def padding(tokenizer: Any) -> int:
    """The id that fills rows up to one length: the tokenizer's own, or of one without, its end token."""
    found = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return int(found)


def refuse_empty(rows: Any, config: TrainingConfig) -> None:
    """A TrainingError if no eval row is short enough to be evaluated on."""
    if not len(rows):
        raise TrainingError(f"every eval row is longer than max_length={config.max_length} tokens; raise max_length")
