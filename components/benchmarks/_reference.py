"""What a model says at every token of some answers, small enough to keep: its likeliest tokens, a sample of the rest.

Of a vocabulary of 50,000 the `top_k` likeliest tokens are kept with their log-probabilities, the probability of all
others together (`tail`), and a seeded sample of those others. The Kullback-Leibler divergence is then the sum of two
parts, neither of which is negative:

* between distributions over `top_k + 1` outcomes, the rest as one. Alone it is below the full divergence, because
  merging outcomes loses information, by `tail * KL(rest of the reference || rest of the other)`;
* an estimate of that loss from the sample, `tail * mean(r - 1 - log r)` with the ratio `r` of the two rests' shares.
  It is right on average (Schulman 2020, "Approximating KL Divergence"), and off by at most a share of `tail`, which the
  notes report: 0 where `top_k` reaches the size of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core.chat import encode_chat
from components.core.errors import PostmillError
from components.interfaces import Backend

FILE = "reference.safetensors"
COLUMNS = ("ids", "log_probabilities", "tail", "drawn", "drawn_log_probabilities")
SMALLEST = 1e-300


@dataclass(frozen=True)
class Kept:
    """One row's reference: `ids` and `log_probabilities` (tokens, top_k), likeliest first; `tail` (tokens,), and a
    sample of it: `drawn` and `drawn_log_probabilities` (tokens, samples)."""

    ids: Any
    log_probabilities: Any
    tail: Any
    drawn: Any
    drawn_log_probabilities: Any
    vocabulary: int

    def distance(self, found: Any) -> tuple[Any, Any]:
        """Of log-probabilities (tokens, vocabulary): KL(reference || found) in nats at each token, never negative, and
        whether both prefer the same token."""
        import numpy as np

        if found.shape[-1] != self.vocabulary:
            raise PostmillError(
                f"a model with {found.shape[-1]} logits cannot be compared with one of {self.vocabulary}: their "
                "vocabularies differ; measure agreement among variants of one model"
            )
        mine = np.take_along_axis(found, self.ids, axis=-1).astype(np.float64)
        theirs = self.log_probabilities.astype(np.float64)
        # a rest that underflowed: its logarithm is large, not infinite
        tail, rest = (np.maximum(each, SMALLEST) for each in (self.tail, rest_of(found, self.ids)))
        ratio = np.log(tail) - np.log(rest)
        apart = (np.exp(theirs) * (theirs - mine)).sum(axis=-1) + self.tail * ratio
        return np.maximum(apart, 0.0) + self.tail * self._within(found, ratio), self.ids[:, 0] == found.argmax(axis=-1)

    def _within(self, found: Any, ratio: Any) -> Any:
        """How differently the two spread their rests over the tokens in it, in nats at each token."""
        import numpy as np

        if not self.drawn.shape[-1]:
            return np.zeros(len(self.tail))
        mine = np.take_along_axis(found, self.drawn, axis=-1).astype(np.float64)
        log_r = mine - self.drawn_log_probabilities + ratio[:, None]
        return (np.expm1(log_r) - log_r).mean(axis=-1)


def kept(found: Any, top_k: int, samples: int = 0, seed: int = 0) -> Kept:
    """The reference of a row's log-probabilities (tokens, vocabulary)."""
    import numpy as np

    count = min(top_k, found.shape[-1])
    ids = np.sort(np.argpartition(found, -count, axis=-1)[:, -count:], axis=-1)
    # in a stable order, so that of equally likely tokens the first stands first, as argmax has it
    order = np.argsort(-np.take_along_axis(found, ids, axis=-1), axis=-1, kind="stable")
    ids = np.take_along_axis(ids, order, axis=-1).astype(np.int32)
    drawn = _draw(found, ids, samples if count < found.shape[-1] else 0, seed)
    likely, unlikely = (np.take_along_axis(found, each, axis=-1) for each in (ids, drawn))
    return Kept(ids, likely, rest_of(found, ids), drawn, unlikely, found.shape[-1])


def _draw(found: Any, ids: Any, samples: int, seed: int) -> Any:
    """Tokens of the rest, as often as they are likely in it, evenly over its whole (systematic sampling)."""
    import numpy as np

    drawn = np.empty((len(found), samples), dtype=np.int32)
    starts = np.random.default_rng(seed).random(len(found))
    for token, summed in enumerate(np.cumsum(_without(found, ids), axis=-1) if samples else ()):
        places = (np.arange(samples) + starts[token]) / samples * summed[-1]
        drawn[token] = np.minimum(np.searchsorted(summed, places, side="right"), len(summed) - 1)
    return drawn


def rest_of(found: Any, ids: Any) -> Any:
    """Probability of all tokens but these, float64 (tokens,): summed, because one minus the others would be rounding
    where it is small."""
    return _without(found, ids).sum(axis=-1)


def _without(found: Any, ids: Any) -> Any:
    import numpy as np

    probabilities = np.exp(found.astype(np.float64))
    np.put_along_axis(probabilities, ids.astype(np.int64), 0.0, axis=-1)
    return probabilities


def log_probabilities(backend: Backend, conversation: Any) -> Any:
    """Log-probabilities of what follows, at every position that predicts an assistant token: (tokens, vocabulary)."""
    import numpy as np
    from scipy.special import log_softmax

    encoded = encode_chat(backend.tokenizer, conversation)
    predicts = np.flatnonzero(encoded.mask) - 1
    return log_softmax(backend.logits(encoded.ids)[predicts].astype(np.float32), axis=-1)


def write_reference(rows: Sequence[Kept], directory: Path) -> None:
    """Write the references of all rows into one file."""
    import numpy as np
    from safetensors.numpy import save_file

    columns = {name: [getattr(row, name) for row in rows] for name in COLUMNS}
    tensors = {name: np.ascontiguousarray(np.concatenate(parts)) for name, parts in columns.items()}
    shape = {"lengths": [len(row.tail) for row in rows], "vocabulary": [row.vocabulary for row in rows]}
    save_file(tensors | {name: np.array(values, np.int64) for name, values in shape.items()}, directory / FILE)


def read_reference(directory: Path) -> Iterator[Kept]:
    """The references of all rows, in order."""
    import numpy as np
    from safetensors.numpy import load_file

    found = load_file(directory / FILE)
    ends = np.cumsum(found["lengths"])[:-1]
    parts = [np.split(found[name], ends) for name in COLUMNS]
    for *columns, size in zip(*parts, found["vocabulary"], strict=True):
        yield Kept(*columns, int(size))  # type: ignore[call-arg]
