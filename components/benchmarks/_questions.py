"""Questions of a benchmark's own, in a file beside the recipe or the suite: JSON Lines, CSV, Parquet, ...

    {"question": "What is 7 * 8?", "answer": "56"}
    {"messages": [{"role": "system", "content": "Answer with one letter."}, {"role": "user", "content": "..."}], ...}

All of them are sound, or nothing is measured: a share of the questions that happened to be readable is no score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from components.core.artifacts import hash_json
from components.core.chat import Message
from components.core.component import StrictConfig
from components.core.config import validation_problems
from components.core.errors import ConfigError, DataError
from components.core.kinds import registry
from components.core.suites import data_file
from components.interfaces import EvalRows, Metric, RawRow
from components.runtime import choose_rows

SHOWN = 5
"""So many bad questions are listed in an error."""


class NamedConfig(StrictConfig):
    """Keys of every benchmark of which a recipe may have several."""

    name: str = Field(
        "", pattern=r"^([a-z][a-z0-9_]{0,30})?$", description="goes before the names of the metrics: maths_score"
    )

    def key(self, metric: str) -> str:
        """The name of a metric in a recipe with several such benchmarks."""
        return f"{self.name}_{metric}" if self.name else metric

    def named(self, metrics: Sequence[Metric]) -> tuple[Metric, ...]:
        """The metrics under their names."""
        if not self.name:
            return tuple(metrics)
        return tuple(replace(each, name=self.key(each.name), title=f"{self.name} {each.title}") for each in metrics)


class QuestionsConfig(NamedConfig):
    """Keys of every benchmark that asks questions."""

    rows: PositiveInt = Field(100, description="so many questions are asked, the same ones for every subject")


class Question(BaseModel):
    """One question; further keys of a row do not matter. Without an id of its own it is known by its content."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)
    id: str = ""
    question: str = ""
    messages: list[Message] = []

    @model_validator(mode="after")
    def _asked_once(self) -> Self:
        if bool(self.question) == bool(self.messages):
            raise ConfigError("write either 'question', a text, or 'messages', a conversation to be answered")
        texts = (message.get(key) for message in self.messages for key in ("role", "content"))
        if not all(isinstance(text, str) for text in texts):
            raise ConfigError("each of 'messages' has a text under 'role' and under 'content'")
        if self.messages and self.messages[-1]["role"] == "assistant":
            raise ConfigError("the last of 'messages' is to be answered; write the expected answer under 'answer'")
        return self

    @property
    def prompt(self) -> list[Message]:
        return self.messages or [{"role": "user", "content": self.question}]

    @property
    def known_as(self) -> str:
        return self.id or hash_json(self.model_dump(mode="json"))[:16]


Q = TypeVar("Q", bound=Question)


def read_questions(file: str, form: type[Q]) -> list[Q]:
    """Every question of a file; a DataError lists the rows that are none."""
    found: dict[str, Q] = {}
    problems: list[str] = []
    for row in _reader(file).rows():
        question, reasons = _read(row, form)
        if question and question.known_as in found:
            reasons = [f"the question '{question.known_as}' stands there twice"]
        if question and not reasons:
            found[question.known_as] = question
        problems += [f"{row.file}:{row.line}: {reason}" for reason in reasons]
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise DataError("\n".join([f"'{file}' is not a file of questions:", *problems[:SHOWN], *more]))
    if not found:
        raise DataError(f"'{file}' holds no questions")
    return list(found.values())


def _read(row: RawRow, form: type[Q]) -> tuple[Q | None, list[str]]:
    if row.error:
        return None, [row.error]
    try:
        return form.model_validate(row.value), []
    except ValidationError as error:
        found = ((".".join(map(str, at)), text) for at, text in validation_problems(error, form))
        return None, [f"{at}: {text}" if at else text for at, text in found]


def file_identity(file: str) -> Mapping[str, Any]:
    """The content of a file of questions."""
    return {"questions": list(_reader(file).fingerprint().values())}


def _reader(file: str) -> Any:
    return registry.create("reader", "auto", path=data_file(file))


def choose(questions: Sequence[Q], count: int, seed: int) -> list[Q]:
    """So many of the questions, as rows are chosen."""
    by_id = {question.known_as: question for question in questions}
    return [by_id[each] for each in choose_rows(EvalRows([q.prompt for q in questions], list(by_id)), count, seed).ids]
