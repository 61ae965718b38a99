"""MinHash: texts as short signatures whose agreement estimates how much the texts share (their Jaccard similarity).

A text is the set of its word triples. Signs count as words, and in scripts without spaces every letter does, so that
Chinese works like English. `rensa` makes signatures of 128 numbers; the low 16 bits of each are enough to compare.
Bands of a signature find candidates: texts that agree in a whole band are compared, all others never meet.
"""

from __future__ import annotations

from typing import Any, NamedTuple

PERMUTATIONS = 128
FEWEST_WORDS = 5
"""Shorter texts are left to the exact rules: one changed word changes nearly all of them."""
MISSED = 0.01
"""Share of the pairs exactly at the threshold that no band may find."""
_SEED = 17
_NO_SPACES = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_WORD = rf"[{_NO_SPACES}]|[\w--[{_NO_SPACES}]]+|[^\w\s]"
_PRIME = 0x9E3779B97F4A7C15


class Sketches(NamedTuple):
    """Signatures of those texts that are long enough."""

    rows: Any
    """numpy: their positions."""
    signatures: Any
    """numpy uint16, one row a text."""


def sketches(texts: Any, words: int, apart: Any = None) -> Sketches:
    """Signatures of a polars column of texts. `apart`: numbers; texts that differ in them share nothing."""
    import numpy as np
    from rensa import RMinHash

    split = texts.str.to_lowercase().str.extract_all(_WORD)
    counts = split.list.len().to_numpy()
    rows = np.flatnonzero(counts >= max(FEWEST_WORDS, words))
    if not len(rows):
        return Sketches(rows, np.empty((0, PERMUTATIONS), np.uint16))
    counts = counts[rows].astype(np.int64)
    hashes = split.gather(rows).explode().hash(_SEED).to_numpy()
    if apart is not None:
        hashes = hashes ^ (np.repeat(apart[rows].astype(np.uint64), counts) * np.uint64(_PRIME))
    shingles, offsets = _shingles(hashes, counts, words)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(shingles, offsets, num_perm=PERMUTATIONS, seed=_SEED)
    return Sketches(rows, np.array(matrix.to_rows(), dtype=np.uint32).astype(np.uint16))


def _shingles(hashes: Any, counts: Any, words: int) -> tuple[Any, Any]:
    """Hashes of every `words` neighbours of the same text, and where each text's begin."""
    import numpy as np

    ends = np.cumsum(counts)
    mixed = hashes
    for step in range(1, words):
        mixed = _mix(mixed[:-1]) + hashes[step:]
    within = np.ones(len(hashes), dtype=bool)
    for step in range(1, words):
        within[ends - step] = False
    offsets = np.concatenate([[0], np.cumsum(counts - words + 1)]).astype(np.uint64)
    return mixed[within[: len(mixed)]], offsets


def _mix(numbers: Any) -> Any:
    import numpy as np

    mixed = numbers * np.uint64(_PRIME)
    return mixed ^ (mixed >> np.uint64(29))


def band_width(threshold: float) -> int:
    """Numbers in a band: as many as still find nearly all pairs at the threshold. Wider bands have fewer candidates."""
    fits = [
        width for width in range(1, PERMUTATIONS + 1) if (1 - threshold**width) ** (PERMUTATIONS // width) <= MISSED
    ]
    return max(fits, default=1)


def band_keys(signatures: Any, width: int) -> Any:
    """numpy uint32, a row a text, a column a band; equal where a whole band is, and else once in 4 billion."""
    import numpy as np

    bands = PERMUTATIONS // width
    parts = signatures[:, : bands * width].reshape(len(signatures), bands, width).astype(np.uint64)
    keys = np.zeros(parts.shape[:2], dtype=np.uint64)
    for number in range(width):
        keys = _mix(keys ^ parts[:, :, number])
    return (keys >> np.uint64(32)).astype(np.uint32)


def ranked(keys: Any, start: int = 0) -> Any:
    """numpy uint64, keys in the upper and their places (from `start` on) in the lower half; sorted in place they are
    an index."""
    import numpy as np

    pairs = keys.astype(np.uint64)
    pairs <<= np.uint64(32)
    pairs |= np.arange(start, start + len(keys), dtype=np.uint32)
    return pairs


def likeness(some: Any, others: Any) -> Any:
    """Estimated Jaccard similarity of each pair of signatures."""
    return (some == others).mean(axis=1)
