"""The order in which rows are trained on: laid out for the whole run before it starts, by the seed alone.

A run that is one long list of row numbers has no epoch boundary to get wrong: after a kill, the position is the number
of batches that were trained on, whatever the number of processes or the size of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random


def rows_in_a_pass(rows: int, batch_size: int) -> int:
    """How many rows `bucketed_order` takes in one pass: a last batch that is not full is left out."""
    return rows if rows < batch_size else rows - rows % batch_size


def bucketed_order(lengths: Sequence[int], batch_size: int, seed: int, count: int) -> list[int]:
    """Row numbers in training order: batches of similar length (little padding), the batches themselves shuffled.

    transformers' own grouping sorts long stretches from long to short, so training ends on the shortest rows only.
    """
    random = Random(seed)
    order: list[int] = []
    while len(order) < count:
        rows = list(range(len(lengths)))
        random.shuffle(rows)
        pool = batch_size * 16
        batches = []
        for start in range(0, len(rows), pool):
            alike = sorted(rows[start : start + pool], key=lambda row: lengths[row])
            batches += [alike[i : i + batch_size] for i in range(0, len(alike), batch_size)]
        random.shuffle(batches)
        order += [row for batch in batches if len(batch) == batch_size or len(rows) < batch_size for row in batch]
    return order


def shuffled_passes(rows: int, seed: int, count: int) -> list[int]:
    """At least `count` row numbers: one shuffled pass over all rows after the other, none left out."""
    random = Random(seed)
    order: list[int] = []
    while len(order) < count:
        once = list(range(rows))
        random.shuffle(once)
        order += once
    return order
