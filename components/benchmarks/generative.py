"""Does the model answer rightly, by a scorer of your choice? On questions of a file, or on the run's held-out rows.

    benchmark:
      - {type: generative, scorer: {type: contains}}                             # the held-out rows
      - {type: generative, name: maths, questions: maths.jsonl, scorer: {type: number}}

    {"question": "What is 7 * 8?", "answer": "56"}
    {"question": "Name three fruits as a JSON list.", "scorer": {"type": "json"}}

A question may bring its own scorer. Answers are generated greedily through the artifact that will be served; they are
read and compared, never executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from components.benchmarks._answering import answers
from components.benchmarks._intervals import of_mean
from components.benchmarks._questions import Question, QuestionsConfig, choose, file_identity, read_questions
from components.core.artifacts import Artifact
from components.core.chat import encode_prompt
from components.core.errors import DataError
from components.core.kinds import register
from components.core.provenance import code_digest
from components.core.spec import OfKind, Spec, default_spec
from components.interfaces import Benchmark, EvalRows, Generation, Measurement, Metric, StepContext, Subject
from components.runtime import choose_rows, opened


class Open(Question):
    """A question that is answered freely, with the expected answer or a scorer that needs none."""

    answer: Any = None
    scorer: Annotated[Spec | None, OfKind("scorer", optional=True)] = None

    @property
    def expected(self) -> str | None:
        """As a text; what a file holds as a number, a list or an object is compared as JSON."""
        if self.answer is None or isinstance(self.answer, str):
            return self.answer
        return json.dumps(self.answer, ensure_ascii=False)


@register("benchmark", "generative")
class Generative(Benchmark):
    """Mean score of the model's answers, by any registered scorer."""

    metrics = (
        Metric("score", "share", "higher", "score"),
        Metric("answers_finished", "share", "higher", "finished"),
    )
    libraries = ("torch", "transformers", "onnxruntime-genai")
    depends_on_machine = True
    neutral = ("questions",)  # the content of the file counts, not where it lies

    class Config(QuestionsConfig):
        questions: str | None = Field(
            None, description="file with the questions, or one of configs/suites; the held-out rows without it"
        )
        scorer: Annotated[Spec, OfKind("scorer")] = Field(
            default_factory=lambda: default_spec("scorer", "equals"), description="how right an answer is"
        )
        max_new_tokens: PositiveInt = 64
        batch_size: PositiveInt = 25
        dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    config: Config

    @classmethod
    def reports(cls, config: Any) -> tuple[Metric, ...]:
        return tuple(config.named(cls.metrics))

    def identity(self) -> Mapping[str, Any]:
        if self.config.questions is None:
            return {}
        own = [part for question in self._questions() if question.scorer for part in question.scorer.parts()]
        return {**file_identity(self.config.questions), "scorers": code_digest(*own)}

    def problem(self, dataset: Artifact) -> str | None:
        if self.config.questions is None:
            return super().problem(dataset)
        self._questions()  # says itself what is wrong with them
        return None

    def _questions(self) -> list[Open]:
        assert self.config.questions is not None
        found = read_questions(self.config.questions, Open)
        for question in found:
            scorer = question.scorer or self.config.scorer
            if scorer.component.needs_answer and question.answer is None:
                raise DataError(
                    f"'{self.config.questions}': the question '{question.known_as}' has no 'answer', which the scorer "
                    f"'{scorer.type}' compares with; write one, or name a scorer that needs none"
                )
        return found

    def _asked(self, rows: EvalRows, seed: int) -> list[Open]:
        if self.config.questions is not None:
            return choose(self._questions(), self.config.rows, seed)
        held_out = choose_rows(rows, self.config.rows, seed)
        # rows that were validated already, and may hold calls of tools
        return [
            Open.model_construct(id=row_id, messages=row[:-1], answer=row[-1].get("content") or "")
            for row_id, row in zip(held_out.ids, held_out.conversations, strict=True)
        ]

    def measure(self, subjects: Sequence[Subject], rows: EvalRows, context: StepContext) -> list[Measurement]:
        asked, config = self._asked(rows, context.seed), self.config
        measured = []
        for subject in subjects:
            with opened(subject, bus=context.bus, dtype=config.dtype) as backend:
                prompts = [encode_prompt(backend.tokenizer, question.prompt) for question in asked]
                said = answers(backend, prompts, config.max_new_tokens, config.batch_size, subject.name, context.bus)
            measured.append(self._summary(subject.name, asked, said))
        return measured

    def _summary(self, name: str, asked: Sequence[Open], said: Sequence[Generation]) -> Measurement:
        default, score, finished = self.config.scorer.build(), *map(self.config.key, ("score", "answers_finished"))
        found = []
        for question, answer in zip(asked, said, strict=True):
            scorer = question.scorer.build() if question.scorer else default
            value = scorer.score(answer.text, question.expected)
            line = {"id": question.known_as, "answer": answer.text, "expected": question.expected}
            found.append({**line, "tokens": answer.tokens, score: value, finished: int(answer.finished)})
        columns = {key: [row[key] for row in found] for key in (score, finished)}
        figures = {key: sum(values) / len(values) for key, values in columns.items()}
        notes = {"questions": len(found), "intervals": {key: of_mean(values) for key, values in columns.items()}}
        return Measurement(subject=name, benchmark="generative", metrics=figures, rows=found, notes=notes)
