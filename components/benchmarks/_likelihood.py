"""How likely a model finds a text after another one."""

from __future__ import annotations

from collections.abc import Sequence

from components.interfaces import Backend


def log_likelihood(backend: Backend, context: Sequence[int], said: Sequence[int]) -> tuple[float, bool]:
    """Nats of the tokens `said` after `context` (negative), and whether they are what greedy decoding says."""
    import numpy as np
    from scipy.special import logsumexp

    if not context:
        raise ValueError("nothing predicts the first token: give a context of one token at least")
    logits = np.asarray(backend.logits([*context, *said]))[len(context) - 1 : -1].astype(np.float64)
    chosen = logits[np.arange(len(said)), np.asarray(said, dtype=int)]
    return float((chosen - logsumexp(logits, axis=-1)).sum()), bool((logits.argmax(axis=-1) == np.asarray(said)).all())
