"""How near two networks are on a few fixed texts: the parity check of everything that merges weights or writes them in
a new layout.

The texts are short and the same for every model; what a model loses on the rows of a run is what the benchmarks
measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

TEXTS = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "Triage as JSON: category, priority. My kettle, order 58213, arrived damaged!",
    "Où est passée ma commande n° 58213 ?  Ich warte seit drei Wochen.\n\nÜber 1.250,75 € sind zu zahlen.",
    "def add(a, b):\n    return a + b  # 2 + 3 == 5\n\nprint(add(2, 3))\n",
    "Water boils at 100 degrees; it freezes at 0. Why? Because that's how Celsius defined them, isn't it?",
    "多谢 🙏🏽 — it works now.\t\tSee you on 2026-03-14 at 09:26.",
)


def probe_rows(tokenizer: Any) -> list[Any]:
    """The texts as tokens, each of shape (1, tokens)."""
    import torch

    return [torch.tensor([tokenizer(text).input_ids]) for text in TEXTS]


def logits_of(network: Any, rows: Sequence[Any]) -> list[Any]:
    """Logits at every position of every row, float32 of shape (tokens, vocabulary)."""
    import torch

    with torch.inference_mode():
        return [network(input_ids=row, use_cache=False).logits[0].float() for row in rows]


def worst_difference(expected: Sequence[Any], found: Sequence[Any]) -> float:
    """The largest difference of two logits; NaN if there is one."""
    import torch

    return float(torch.stack([(a - b).abs().max() for a, b in zip(expected, found, strict=True)]).max())


def distance(reference: Sequence[Any], found: Sequence[Any]) -> dict[str, float]:
    """Mean Kullback-Leibler divergence from the reference in nats a token, and how often the likeliest token is one."""
    from components.compression.distance import mean_distance

    return mean_distance((a.log_softmax(-1), b.log_softmax(-1)) for a, b in zip(reference, found, strict=True))
