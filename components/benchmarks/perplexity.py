"""How well does the model predict the texts or answers? Without generating anything, and on any row that has either.

    benchmark: [{type: perplexity, rows: 100}]

On texts every token but the first is scored, and the end of the text; of conversations, what the assistant says and
its end of turn: what the model was trained on. Bits per byte can be compared between models with different
tokenizers, the other figures cannot. Measured through the artifact that will be served.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, PositiveInt

from components.core.chat import encode_chat, whole_backend
from components.core.component import StrictConfig
from components.core.errors import DataError
from components.core.events import StageProgress
from components.core.kinds import register
from components.interfaces import Backend, Benchmark, EvalRows, Measurement, Metric, StepContext, Subject
from components.runtime import choose_rows, opened


@dataclass(frozen=True)
class _Row:
    """Token ids, positions in them that are to be predicted, and the bytes of text that those stand for."""

    ids: list[int]
    scored: list[int]
    size: int


@register("benchmark", "perplexity")
class Perplexity(Benchmark):
    """How well texts or answers are predicted: loss per token, perplexity, bits per byte."""

    metrics = (
        Metric("nll", "nats", "lower", "loss"),
        Metric("perplexity", "tokens", "lower", "perplexity"),
        Metric("bits_per_byte", "bits", "lower", "bits/byte"),
    )
    shapes = (*Benchmark.shapes, "text")
    libraries = ("torch", "transformers", "onnxruntime-genai")
    depends_on_machine = True

    class Config(StrictConfig):
        rows: PositiveInt = 100
        max_length: int = Field(1024, ge=2, description="tokens that the model sees at once; longer rows are cut")
        dtype: Literal["auto", "float32", "bfloat16"] = "float32"

    config: Config

    def measure(self, subjects: Sequence[Subject], rows: EvalRows, context: StepContext) -> list[Measurement]:
        chosen = choose_rows(rows, self.config.rows, context.seed)
        measured = []
        for subject in subjects:
            with opened(subject, bus=context.bus, dtype=self.config.dtype) as backend:
                measured.append(self._measure(subject.name, backend, chosen, context))
        return measured

    def _measure(self, name: str, backend: Backend, rows: EvalRows, context: StepContext) -> Measurement:
        width = min(self.config.max_length, int(backend.tokenizer.model_max_length))
        found, results = [], []
        for row_id, row in zip(rows.ids, _encoded(backend.tokenizer, rows), strict=True):
            found.append((_loss(backend, row, width), len(row.scored), row.size))
            results.append({"id": row_id, **_figures(*found[-1]), "tokens": len(row.scored)})
            context.bus.emit(StageProgress(stage="benchmark", name=name, done=len(results), total=len(rows.ids)))
        nats, tokens, size = (sum(column) for column in zip(*found, strict=True))
        if not tokens or not size:
            raise DataError("perplexity: no row has a token to predict")
        figures, notes = _figures(nats, int(tokens), int(size)), {"tokens": tokens, "bytes": size}
        return Measurement(subject=name, benchmark="perplexity", metrics=figures, rows=results, notes=notes)


def _encoded(tokenizer: Any, rows: EvalRows) -> Iterator[_Row]:
    """The rows as this model's tokens, and what of them is scored."""
    for text in rows.texts:
        encoding = whole_backend(tokenizer).encode(text + (tokenizer.eos_token or ""), add_special_tokens=False)
        # nothing predicts the first token, so its bytes do not count either
        told = encoding.offsets[0][1] if encoding.ids else 0
        yield _Row(encoding.ids, list(range(1, len(encoding.ids))), len(text[told:].encode()))
    for conversation in rows.conversations:
        encoded = encode_chat(tokenizer, conversation)
        said = [turn.get("content") or "" for turn in conversation if turn["role"] == "assistant"]
        scored = [place for place, trained in enumerate(encoded.mask) if trained and place]
        yield _Row(encoded.ids, scored, len("".join(said).encode()))


def _loss(backend: Backend, row: _Row, width: int) -> float:
    """Nats of all scored tokens. A long row is cut; each piece begins with the last token of the one before it."""
    import numpy as np
    from scipy.special import logsumexp

    total, ids = 0.0, np.array(row.ids)
    for start in range(0, max(1, len(row.ids) - 1), width - 1):
        places = np.array([place for place in row.scored if start < place < start + width], dtype=int)
        if len(places):
            logits = np.asarray(backend.logits(row.ids[start : start + width]))[places - 1 - start]
            likely = logits[np.arange(len(places)), ids[places]]
            total += float((logsumexp(logits.astype(np.float64), axis=-1) - likely).sum())
    return total


def _figures(nats: float, tokens: int, size: int) -> dict[str, float]:
    """The metrics; none without a token, and of a text without bytes only those that need none."""
    if not tokens:
        return {}
    loss = nats / tokens
    figures = {"nll": loss, "perplexity": math.exp(min(loss, 700.0))}
    return figures | ({"bits_per_byte": nats / math.log(2) / size} if size else {})
