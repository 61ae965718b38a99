"""How far a variant is from the trained model, in distribution space: a score alone hides changed behaviour.

    benchmark: [{type: agreement, rows: 24, top_k: 128}]

On the tokens the assistant should say, the variant's next-token distribution is compared with the reference's
(float32): mean and 99th percentile of the Kullback-Leibler divergence in nats, how often both prefer the same
token, and on how many rows they part at any token (Dutta et al. 2024, arXiv:2407.09141). What the reference says is
kept in the store, so a run with further variants does not open it again; `components.benchmarks._reference` says how,
and by how much that makes the divergence smaller.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from components.benchmarks._reference import Kept, kept, log_probabilities, read_reference, write_reference
from components.core.artifacts import hash_json
from components.core.component import StrictConfig
from components.core.errors import ConfigError
from components.core.events import StageProgress
from components.core.kinds import register
from components.interfaces import Backend, Benchmark, EvalRows, Measurement, Metric, StepContext, Subject
from components.runtime import choose_rows, opened


@register("benchmark", "agreement")
class Agreement(Benchmark):
    """Distance of every variant to the trained model: KL divergence, top-1 agreement, answers that flip."""

    metrics = (
        Metric("mean_kl", "nats", "lower", "KL"),
        Metric("p99_kl", "nats", "lower", "KL p99"),
        Metric("top1_agreement", "share", "higher", "top-1"),
        Metric("answer_flips", "share", "lower", "flips"),
    )
    together = True
    libraries = ("torch", "transformers", "onnxruntime-genai")

    class Config(StrictConfig):
        rows: PositiveInt = 24
        reference: str = "trained"
        top_k: int = Field(128, ge=1, le=4096, description="likeliest tokens of the reference that are kept one by one")
        tail_samples: int = Field(64, ge=0, le=4096, description="of the others, so many are kept to estimate them")

    config: Config

    def measure(self, subjects: Sequence[Subject], rows: EvalRows, context: StepContext) -> list[Measurement]:
        chosen = choose_rows(rows, self.config.rows, context.seed)
        by_name = {subject.name: subject for subject in subjects}
        if self.config.reference not in by_name:
            raise ConfigError(f"agreement.reference='{self.config.reference}' is none of {', '.join(by_name)}")
        expected = self._expected(by_name[self.config.reference], chosen, context)
        measured = []
        for name, subject in by_name.items():
            if name in (self.config.reference, "base"):
                continue
            with opened(subject, bus=context.bus, dtype="float32") as backend:
                measured.append(_compare(name, backend, chosen, expected))
            context.bus.emit(
                StageProgress(stage="benchmark", name="agreement", done=len(measured), total=len(by_name) - 2)
            )
        return measured

    def _expected(self, subject: Subject, rows: EvalRows, context: StepContext) -> list[Kept]:
        """What the reference says to these rows: found in the store, or asked."""
        sizes = {"top_k": self.config.top_k, "samples": self.config.tail_samples}

        def make(out: Path) -> None:
            with opened(subject, bus=context.bus, dtype="float32") as backend:
                found = (log_probabilities(backend, row) for row in rows.conversations)
                write_reference([kept(each, **sizes, seed=context.seed) for each in found], out)

        if context.keep is None:
            with tempfile.TemporaryDirectory() as folder:
                make(Path(folder))
                return list(read_reference(Path(folder)))
        config = {"rows": hash_json(rows.conversations), "seed": context.seed, **sizes}
        return list(read_reference(context.keep(subject.name, config, _inputs(subject), make)))


def _inputs(subject: Subject) -> dict[str, Any]:
    """An adapter says what it says on its base."""
    return {"subject": subject.artifact, **subject.parents}


def _compare(name: str, backend: Backend, rows: EvalRows, expected: Sequence[Kept]) -> Measurement:
    import numpy as np

    divergences, agreements = [], []
    details: list[dict[str, Any]] = []
    for row_id, conversation, reference in zip(rows.ids, rows.conversations, expected, strict=True):
        kl, same = reference.distance(log_probabilities(backend, conversation))
        divergences.append(kl)
        agreements.append(same)
        shares = {"mean_kl": float(kl.mean()), "top1_agreement": float(same.mean())}
        details.append({"id": row_id, **shares, "answer_flips": int(not same.all())})
    every = np.concatenate(divergences)
    figures = {
        "mean_kl": float(every.mean()),
        "p99_kl": float(np.percentile(every, 99)),
        "top1_agreement": float(np.concatenate(agreements).mean()),
        "answer_flips": sum(row["answer_flips"] for row in details) / len(details),
    }
    tail = float(np.concatenate([reference.tail for reference in expected]).mean())
    notes = {"tokens": len(every), "top_k": expected[0].ids.shape[-1], "tail": tail}
    return Measurement(subject=name, benchmark="agreement", metrics=figures, rows=details, notes=notes)
