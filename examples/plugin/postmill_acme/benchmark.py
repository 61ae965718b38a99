"""How many words does the model use? Short answers cost less and are read to the end.

benchmark: [{type: acme_words, rows: 20}]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import PositiveInt

from components.core.chat import encode_prompt
from components.core.component import StrictConfig
from components.interfaces import Benchmark, EvalRows, Measurement, Metric, StepContext, Subject
from components.runtime import choose_rows, opened


class Words(Benchmark):
    """Mean number of words in the greedy answers."""

    metrics = (Metric("acme_words", "words", "lower", "words"),)
    libraries = ("postmill", "postmill-acme", "torch", "transformers", "onnxruntime-genai")
    depends_on_machine = True

    class Config(StrictConfig):
        rows: PositiveInt = 20
        max_new_tokens: PositiveInt = 64

    config: Config

    def measure(self, subjects: Sequence[Subject], rows: EvalRows, context: StepContext) -> list[Measurement]:
        chosen = choose_rows(rows, self.config.rows, context.seed)
        return [self._measure(subject, chosen, context) for subject in subjects]

    def _measure(self, subject: Subject, rows: EvalRows, context: StepContext) -> Measurement:
        with opened(subject, bus=context.bus) as backend:  # the artifact that will be served, whatever its format
            prompts = [encode_prompt(backend.tokenizer, conversation) for conversation in rows.conversations]
            answers = backend.generate(prompts, self.config.max_new_tokens)
        results: list[dict[str, Any]] = [
            {"id": row_id, "acme_words": len(answer.text.split())}
            for row_id, answer in zip(rows.ids, answers, strict=True)
        ]
        mean = sum(result["acme_words"] for result in results) / len(results)
        return Measurement(subject=subject.name, benchmark="acme_words", metrics={"acme_words": mean}, rows=results)
