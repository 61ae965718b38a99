"""Does the model give the expected JSON? Every field must be right; layout and key order do not matter.

    benchmark: [{type: exact_match, rows: 100, max_new_tokens: 64}]

Answers are generated greedily through the artifact that will be served. Text around the JSON, a missing or an extra
key, or a wrong type is a wrong answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import PositiveInt

from components.benchmarks._answering import answers
from components.core.chat import encode_prompt
from components.core.component import StrictConfig
from components.core.kinds import register
from components.interfaces import Benchmark, EvalRows, Generation, Measurement, Metric, StepContext, Subject
from components.runtime import choose_rows, opened


@register("benchmark", "exact_match")
class ExactMatch(Benchmark):
    """Share of rows whose parsed JSON answer equals the expected one."""

    metrics = (
        Metric("exact_match", "share", "higher", "score"),
        Metric("json_valid", "share", "higher", "valid JSON"),
        Metric("field_accuracy", "share", "higher", "fields right"),
    )
    libraries = ("torch", "transformers", "onnxruntime-genai")
    depends_on_machine = True

    class Config(StrictConfig):
        rows: PositiveInt = 100
        max_new_tokens: PositiveInt = 64
        batch_size: PositiveInt = 25
        dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    config: Config

    def measure(self, subjects: Sequence[Subject], rows: EvalRows, context: StepContext) -> list[Measurement]:
        chosen = choose_rows(rows, self.config.rows, context.seed)
        measured = []
        for subject in subjects:
            with opened(subject, bus=context.bus, dtype=self.config.dtype) as backend:
                prompts = [encode_prompt(backend.tokenizer, conversation) for conversation in chosen.conversations]
                tokens, batch = self.config.max_new_tokens, self.config.batch_size
                said = answers(backend, prompts, tokens, batch, subject.name, context.bus)
            results = [
                _score(row_id, conversation[-1]["content"], answer)
                for row_id, conversation, answer in zip(chosen.ids, chosen.conversations, said, strict=True)
            ]
            measured.append(
                Measurement(subject=subject.name, benchmark="exact_match", metrics=_means(results), rows=results)
            )
        return measured


def _score(row_id: str, expected_text: str, answer: Generation) -> dict[str, Any]:
    said = {"id": row_id, "answer": answer.text, "tokens": answer.tokens, "finished": answer.finished}
    expected, found = _parsed(expected_text), _parsed(answer.text)
    if not isinstance(expected, dict) or not expected:
        # plain text: the same words, whatever the spacing
        return {**said, "exact_match": int(answer.text.split() == expected_text.split())}
    valid = isinstance(found, dict)
    right = sum(valid and key in found and same(found[key], value) for key, value in expected.items())
    return {
        **said,
        "exact_match": int(valid and found.keys() == expected.keys() and right == len(expected)),
        "json_valid": int(valid),
        "field_accuracy": right / len(expected),
    }


def _parsed(text: str) -> Any:
    """The text as JSON, None if it is none."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None


def same(found: Any, expected: Any) -> bool:
    """Equal as JSON: 49.9 equals 49.90, but true is not 1 and "49.9" is not 49.9."""
    if isinstance(found, bool) or isinstance(expected, bool):
        return found is expected
    if isinstance(found, int | float) and isinstance(expected, int | float):
        return found == expected
    return type(found) is type(expected) and bool(found == expected)


def _means(results: list[dict[str, Any]]) -> dict[str, float]:
    """Over the rows that have the figure: plain text is neither JSON nor has it fields."""
    figures = {
        name: [result[name] for result in results if name in result]
        for name in ("exact_match", "json_valid", "field_accuracy")
    }
    return {name: sum(values) / len(values) for name, values in figures.items() if values}
