"""Distance of an exported model to the float32 network, as served: MODEL EXPORTED ROWS [THREADS].

On every token that the assistant says: mean and 99th percentile of the Kullback-Leibler divergence in nats, share of
positions where both prefer the same token, and the ratio of perplexities with a paired bootstrap interval over rows.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax

from components.core.artifacts import Artifact
from components.core.chat import encode_chat
from components.interfaces import Subject
from components.runtime import opened

RESAMPLES, SEED = 2000, 17


def subject(path: Path, kind: str) -> Subject:
    """A directory as something that a backend opens."""
    artifact = Artifact(path=path, kind=kind, stage="", key="", digest="", parents={}, meta={}, size=0)
    return Subject(name=path.name, artifact=artifact)


def told(backend: Any, encoded: Any) -> tuple[Any, Any]:
    """Log-probabilities at every position before a token of the assistant, and those tokens."""
    places = np.flatnonzero(encoded.mask)
    logits = np.asarray(backend.logits(encoded.ids))[places - 1].astype(np.float32)
    return log_softmax(logits, axis=-1), np.asarray(encoded.ids)[places]


def row_figures(reference: Any, found: Any, said: Any) -> dict[str, Any]:
    at = np.arange(len(said))
    return {
        # never negative but for rounding
        "kl": np.maximum((np.exp(reference) * (reference - found)).sum(-1), 0),
        "same": reference.argmax(-1) == found.argmax(-1),
        "nats": float(-found[at, said].sum()),
        "reference_nats": float(-reference[at, said].sum()),
        "tokens": len(said),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all rows; the interval of the perplexity ratio resamples whole rows."""
    kl = np.concatenate([row["kl"] for row in rows])
    nats, reference, tokens = (np.array([row[key] for row in rows]) for key in ("nats", "reference_nats", "tokens"))
    picks = np.random.default_rng(SEED).integers(0, len(rows), (RESAMPLES, len(rows)))
    ratios = np.exp((nats - reference)[picks].sum(-1) / tokens[picks].sum(-1))
    return {
        "mean_kl": float(kl.mean()),
        "p99_kl": float(np.percentile(kl, 99)),
        "top1": float(np.concatenate([row["same"] for row in rows]).mean()),
        "perplexity": math.exp(nats.sum() / tokens.sum()),
        "reference_perplexity": math.exp(reference.sum() / tokens.sum()),
        "ratio": float(np.exp((nats - reference).sum() / tokens.sum())),
        "interval": [float(edge) for edge in np.percentile(ratios, (2.5, 97.5))],
        "tokens": int(tokens.sum()),
    }


def main() -> None:
    model, exported, rows = map(Path, sys.argv[1:4])
    chats = [json.loads(line)["messages"] for line in rows.read_text(encoding="utf-8").splitlines()]
    results = []
    with opened(subject(model, "model"), dtype="float32") as torch, opened(subject(exported, "onnx")) as ours:
        for chat in chats:
            encoded = encode_chat(torch.tokenizer, chat)
            reference, said = told(torch, encoded)
            results.append(row_figures(reference, told(ours, encoded)[0], said))
    print(json.dumps(summary(results)))


if __name__ == "__main__":
    main()
