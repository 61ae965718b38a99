"""Which of several answers does the model find likeliest? Nothing is generated, so any model can be compared.

    benchmark: [{type: multiple_choice, questions: exam.jsonl}]

    {"question": "Which planet is the largest?", "choices": ["Mars", "Jupiter", "Venus"], "answer": 1}

`answer` is the position of the right choice, from 0, or its text. A choice is scored as the assistant's answer in the
model's chat template: the sum of the log-likelihoods of its tokens (`accuracy`), and the same per byte, which does not
prefer short choices (`accuracy_norm`). Both are the conventions of lm-evaluation-harness (Gao et al. 2024).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from components.benchmarks._intervals import of_mean
from components.benchmarks._likelihood import log_likelihood
from components.benchmarks._questions import Question, QuestionsConfig, choose, file_identity, read_questions
from components.core.artifacts import Artifact
from components.core.chat import encode_prompt
from components.core.errors import ConfigError
from components.core.events import StageProgress
from components.core.kinds import register
from components.interfaces import Backend, Benchmark, EvalRows, Measurement, Metric, StepContext, Subject
from components.runtime import opened


class Choice(Question):
    """A question with the answers to choose from."""

    choices: list[Annotated[str, StringConstraints(min_length=1)]] = Field(min_length=2)
    answer: int | str

    @model_validator(mode="after")
    def _one_is_right(self) -> Self:
        if len(set(self.choices)) < len(self.choices):
            raise ConfigError("two of 'choices' are the same")
        if isinstance(self.answer, str) and self.answer not in self.choices:
            raise ConfigError(f"the answer '{self.answer}' is none of the choices; write its text, or its position")
        if isinstance(self.answer, int) and not 0 <= self.answer < len(self.choices):
            raise ConfigError(f"the answer {self.answer} is no position in {len(self.choices)} choices, counted from 0")
        return self

    @property
    def right(self) -> int:
        return self.choices.index(self.answer) if isinstance(self.answer, str) else self.answer


@register("benchmark", "multiple_choice")
class MultipleChoice(Benchmark):
    """Share of questions whose right choice is the likeliest one."""

    metrics = (
        Metric("accuracy", "share", "higher", "accuracy"),
        Metric("accuracy_norm", "share", "higher", "accuracy/byte"),
    )
    libraries = ("torch", "transformers", "onnxruntime-genai")
    depends_on_machine = True
    neutral = ("questions",)  # the content of the file counts, not where it lies

    class Config(QuestionsConfig):
        questions: str = Field(min_length=1, description="file with the questions, or one of configs/suites")
        dtype: Literal["auto", "float32", "bfloat16"] = "float32"

    config: Config

    @classmethod
    def reports(cls, config: Any) -> tuple[Metric, ...]:
        return tuple(config.named(cls.metrics))

    def identity(self) -> Mapping[str, Any]:
        return file_identity(self.config.questions)

    def problem(self, dataset: Artifact) -> str | None:
        read_questions(self.config.questions, Choice)  # says itself what is wrong with them
        return None

    def measure(self, subjects: Sequence[Subject], rows: EvalRows, context: StepContext) -> list[Measurement]:
        asked = choose(read_questions(self.config.questions, Choice), self.config.rows, context.seed)
        measured = []
        for subject in subjects:
            with opened(subject, bus=context.bus, dtype=self.config.dtype) as backend:
                found = []
                for question in asked:
                    found.append(self._ask(backend, question))
                    context.bus.emit(
                        StageProgress(stage="benchmark", name=subject.name, done=len(found), total=len(asked))
                    )
            measured.append(self._summary(subject.name, asked, found))
        return measured

    def _ask(self, backend: Backend, question: Choice) -> dict[str, Any]:
        prompt = encode_prompt(backend.tokenizer, question.prompt)
        likely = [
            log_likelihood(backend, prompt, backend.tokenizer(choice, add_special_tokens=False)["input_ids"])[0]
            for choice in question.choices
        ]
        by_byte = [nats / len(choice.encode()) for nats, choice in zip(likely, question.choices, strict=True)]
        plain, norm = likely.index(max(likely)), by_byte.index(max(by_byte))
        return {
            "id": question.known_as,
            "choice": question.choices[plain],
            "log_likelihoods": likely,
            self.config.key("accuracy"): int(plain == question.right),
            self.config.key("accuracy_norm"): int(norm == question.right),
        }

    def _summary(self, name: str, asked: Sequence[Choice], found: list[dict[str, Any]]) -> Measurement:
        columns = {key: [row[key] for row in found] for key in map(self.config.key, ("accuracy", "accuracy_norm"))}
        figures = {key: sum(values) / len(values) for key, values in columns.items()}
        intervals = {key: of_mean(values) for key, values in columns.items()}
        guessing = sum(1 / len(question.choices) for question in asked) / len(asked)
        notes = {"questions": len(asked), "guessing": guessing, "intervals": intervals}
        return Measurement(subject=name, benchmark="multiple_choice", metrics=figures, rows=found, notes=notes)
