"""How far a network is from the one it was made of, on rows that neither chose nor trained anything.

    rows = scored_rows(dataset, tokenizer, held_out_split(dataset), count=24, max_length=512, seed=17)
    distance(source, pruned, rows)      # {"mean_kl": nats, "top1_agreement": share, "tokens": ...}

Compared is what the assistant says, token by token; of texts, every token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from components.compression.calibration import SIDES, shuffled
from components.core.artifacts import Artifact
from components.core.dataset import IGNORED, token_lengths, tokens
from components.core.errors import DataError


@dataclass(frozen=True)
class ScoredRow:
    """A row's token ids (1, tokens), and the positions whose next token is scored."""

    ids: Any
    positions: Any


def scored_rows(
    dataset: Artifact | None, tokenizer: Any, split: str, count: int, max_length: int, seed: int, offset: int = 0
) -> list[ScoredRow]:
    """Up to `count` rows of a split in a seeded order after the first `offset`, cut off at `max_length` tokens."""
    if dataset is None:
        raise DataError("this pass looks at rows, and was given no data set")
    found = tokens(dataset, split, tokenizer, SIDES.get(dataset.meta["shape"], ""))
    usable = [number for number, length in enumerate(token_lengths(found)) if length > 1]
    rows = [_scored(found[number], max_length) for number in shuffled(usable, seed)[offset : offset + count]]
    if not rows:
        raise DataError(f"the {split} split has {len(usable)} rows of two tokens, too few to leave out {offset}")
    return rows


def _scored(row: Any, max_length: int) -> ScoredRow:
    ids = torch.tensor(row["input_ids"][:max_length])
    labelled = torch.tensor(row["labels"][:max_length])[1:] != IGNORED
    positions = labelled.nonzero()[:, 0]
    # a row without an answer within the length: all of it is text
    return ScoredRow(ids[None], positions if len(positions) else torch.arange(len(ids) - 1))


def held_out_split(dataset: Artifact) -> str:
    """The split that nothing is chosen by or trained on: eval where it has rows."""
    return "eval" if dataset.meta["rows"].get("eval") else "train"


def log_probabilities(network: Any, row: ScoredRow) -> Any:
    """Of every next token at the scored positions, float32 of shape (positions, vocabulary)."""
    with torch.inference_mode():
        logits = network(input_ids=row.ids, use_cache=False).logits[0, row.positions]
    return logits.float().log_softmax(-1)


def divergence(expected: Any, found: Any) -> Any:
    """KL(expected || found) in nats at each position."""
    return (expected.exp() * (expected - found)).sum(-1).clamp_min(0)


def mean_distance(pairs: Iterable[tuple[Any, Any]]) -> dict[str, float]:
    """Mean KL(expected || found) in nats, and the share of positions where both prefer the same token, of pairs of
    log-probabilities (positions, vocabulary)."""
    kl, same = [], []
    for expected, found in pairs:
        kl.append(divergence(expected, found))
        same.append((expected.argmax(-1) == found.argmax(-1)).float())
    return {"mean_kl": float(torch.cat(kl).mean()), "top1_agreement": float(torch.cat(same).mean())}


def distance(reference: Any, network: Any, rows: Sequence[ScoredRow]) -> dict[str, Any]:
    """`mean_distance` of the network from the reference on rows, and how many positions were compared."""
    pairs = ((log_probabilities(reference, row), log_probabilities(network, row)) for row in rows)
    return {**mean_distance(pairs), "tokens": sum(len(row.positions) for row in rows)}


def largest_difference(first: Callable[[Any], Any], second: Callable[[Any], Any], rows: Sequence[ScoredRow]) -> float:
    """Largest absolute difference between the logits of two networks, at any position of the rows."""
    with torch.inference_mode():
        worst = [(first(row.ids).logits - second(row.ids).logits).abs().max() for row in rows]
    return float(torch.stack(worst).max())  # NaN if one is
