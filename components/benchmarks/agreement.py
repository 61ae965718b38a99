"""How far a variant is from the trained model, in distribution space: a score alone hides changed behaviour.

On the tokens the assistant should say, the variant's next-token distribution is compared with the reference's
(float32): mean and 99th percentile of the Kullback-Leibler divergence in nats, and how often both prefer the same
token (Dutta et al. 2024, arXiv:2407.09141).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import PositiveInt

from components.core.chat import encode_chat
from components.core.component import StrictConfig
from components.core.errors import ConfigError
from components.core.events import StageProgress
from components.core.kinds import register
from components.interfaces import Backend, Benchmark, EvalRows, Measurement, Metric, StepContext, Subject
from components.runtime import choose_rows, opened


@register("benchmark", "agreement")
class Agreement(Benchmark):
    """Distance of every variant to the trained model: KL divergence and top-1 agreement."""

    metrics = (
        Metric("mean_kl", "nats", "lower", "KL"),
        Metric("p99_kl", "nats", "lower", "KL p99"),
        Metric("top1_agreement", "share", "higher", "top-1"),
    )
    together = True
    libraries = ("torch", "transformers", "onnxruntime-genai")

    class Config(StrictConfig):
        rows: PositiveInt = 24
        reference: str = "trained"

    config: Config

    def measure(self, subjects: Sequence[Subject], rows: EvalRows, context: StepContext) -> list[Measurement]:
        chosen = choose_rows(rows, self.config.rows, context.seed)
        by_name = {subject.name: subject for subject in subjects}
        if self.config.reference not in by_name:
            raise ConfigError(f"agreement.reference='{self.config.reference}' is none of {', '.join(by_name)}")
        with opened(by_name[self.config.reference], bus=context.bus, dtype="float32") as backend:
            expected = [_log_probabilities(backend, conversation) for conversation in chosen.conversations]
        measured = []
        for name, subject in by_name.items():
            if name in (self.config.reference, "base"):
                continue
            with opened(subject, bus=context.bus, dtype="float32") as backend:
                measured.append(self._compare(name, backend, chosen, expected))
            context.bus.emit(
                StageProgress(stage="benchmark", name="agreement", done=len(measured), total=len(by_name) - 2)
            )
        return measured

    @staticmethod
    def _compare(name: str, backend: Backend, rows: EvalRows, expected: list[Any]) -> Measurement:
        import numpy as np

        divergences, agreements, details = [], [], []
        for row_id, conversation, reference in zip(rows.ids, rows.conversations, expected, strict=True):
            found = _log_probabilities(backend, conversation)
            # never negative but for rounding
            kl = np.maximum((np.exp(reference) * (reference - found)).sum(axis=-1), 0)
            same = reference.argmax(axis=-1) == found.argmax(axis=-1)
            divergences.append(kl)
            agreements.append(same)
            details.append({"id": row_id, "mean_kl": float(kl.mean()), "top1_agreement": float(same.mean())})
        every = np.concatenate(divergences)
        figures = {
            "mean_kl": float(every.mean()),
            "p99_kl": float(np.percentile(every, 99)),
            "top1_agreement": float(np.concatenate(agreements).mean()),
        }
        notes = {"tokens": len(every)}
        return Measurement(subject=name, benchmark="agreement", metrics=figures, rows=details, notes=notes)


def _log_probabilities(backend: Backend, conversation: Any) -> Any:
    """Log-probabilities of what follows, at every position that predicts an assistant token: (tokens, vocabulary)."""
    import numpy as np
    from scipy.special import log_softmax

    encoded = encode_chat(backend.tokenizer, conversation)
    predicts = np.flatnonzero(encoded.mask) - 1
    return log_softmax(backend.logits(encoded.ids)[predicts].astype(np.float32), axis=-1)
