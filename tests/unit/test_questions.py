"""Questions of a benchmark's own: reading them, multiple choice by likelihood, answers by a scorer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.benchmarks import generative, multiple_choice
from components.benchmarks._likelihood import log_likelihood
from components.benchmarks._questions import read_questions
from components.benchmarks.generative import Open
from components.benchmarks.multiple_choice import Choice
from components.core.chat import encode_prompt
from components.core.errors import DataError
from components.core.events import EventBus
from components.core.kinds import registry
from components.core.spec import OfKind
from components.interfaces import EvalRows, Generation, Measurement, StepContext, Subject
from components.services.benchmarking import BenchmarkService
from tests import tiny

SIZE = 259


class Fluent:
    """A backend that finds every byte of `likes` likelier than any other, and answers with `says`."""

    def __init__(self, likes: str = "", says: tuple[str, ...] = ()) -> None:
        self.tokenizer, self.says = tiny.tokenizer(), list(says)
        self.liked = self.tokenizer(likes, add_special_tokens=False)["input_ids"]

    def logits(self, ids: list[int]) -> Any:
        found = np.zeros((len(ids), SIZE), dtype=np.float32)
        found[:, self.liked] = 5.0
        return found

    def generate(self, prompts: list[list[int]], max_new_tokens: int) -> list[Generation]:
        return [Generation(self.says.pop(0), 3, True) for _ in prompts]

    def __enter__(self) -> Fluent:
        return self

    def __exit__(self, *_: object) -> None: ...


def written(path: Path, *rows: Any) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def measured(
    patch: pytest.MonkeyPatch, module: Any, kind: str, backend: Fluent, rows: EvalRows | None = None, **config: Any
) -> Measurement:
    patch.setattr(module, "opened", lambda *_, **__: backend)
    subject, context = Subject.model_construct(name="base"), StepContext(1, EventBus())
    (found,) = registry.create("benchmark", kind, **config).measure([subject], rows or EvalRows([]), context)
    return found


# ---------------------------------------------------------------- files


def test_ids_are_given_or_made(tmp_path: Path) -> None:
    """A question without an id is known by its content, wherever it stands; further keys do not matter."""
    first = written(
        tmp_path / "a.jsonl", {"question": "A?", "answer": "a", "source": "x"}, {"id": "b", "question": "B?"}
    )
    second = written(tmp_path / "b.jsonl", {"id": "b", "question": "B?"}, {"question": "A?", "answer": "a"})
    ids = [[question.known_as for question in read_questions(file, Open)] for file in (first, second)]
    assert ids[0] == ids[1][::-1]
    assert ids[0][1] == "b"


def test_other_files_are_read_too(tmp_path: Path) -> None:
    """Whatever a reader reads may hold questions, a CSV for example."""
    file = tmp_path / "q.csv"
    file.write_text("question,answer\nWhat is 1 + 1?,2\n")
    assert [q.prompt for q in read_questions(str(file), Open)] == [[{"role": "user", "content": "What is 1 + 1?"}]]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "not JSON"),
        ({"answer": "a"}, "write either 'question', a text, or 'messages'"),
        ({"question": "A?", "messages": [{"role": "user", "content": "B?"}]}, "write either 'question'"),
        ({"messages": [{"role": "user"}]}, "each of 'messages' has a text under 'role' and under 'content'"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "the last of 'messages' is to be answered"),
        ({"question": 5}, "question: Input should be a valid string"),
        ({"question": "A?", "scorer": {"type": "numbr"}}, "did you mean 'number'"),
    ],
)
def test_bad_questions_are_refused(tmp_path: Path, row: Any, reason: str) -> None:
    """A file with one row that is no question is refused, with the line and the reason."""
    file = written(tmp_path / "q.jsonl", {"question": "Fine?"}, row)
    with pytest.raises(DataError, match="is not a file of questions") as caught:
        read_questions(file, Open)
    assert "q.jsonl:2: " in str(caught.value)
    assert reason in str(caught.value)


def test_twice_the_same_question(tmp_path: Path) -> None:
    """An id may stand there once: rows are compared by it."""
    file = written(tmp_path / "q.jsonl", {"id": "a", "question": "A?"}, {"id": "a", "question": "B?"})
    with pytest.raises(DataError, match="the question 'a' stands there twice"):
        read_questions(file, Open)


def test_no_questions(tmp_path: Path) -> None:
    """An empty file, and one that is not there, are errors with their name."""
    with pytest.raises(DataError, match=r"empty\.jsonl' holds no questions"):
        read_questions(written(tmp_path / "empty.jsonl"), Open)
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        read_questions(str(tmp_path / "gone.jsonl"), Open)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"answer": 2}, "the answer 2 is no position in 2 choices"),
        ({"answer": "red"}, "the answer 'red' is none of the choices"),
        ({"choices": ["a"]}, "choices"),
        ({"choices": ["a", "a"]}, "two of 'choices' are the same"),
        ({"choices": ["a", ""]}, "choices.1"),
    ],
)
def test_choices_that_make_no_sense(tmp_path: Path, changed: Any, reason: str) -> None:
    """A question to choose from has at least two different choices, and one of them is right."""
    row = {"question": "Which?", "choices": ["blue", "green"], "answer": 0}
    with pytest.raises(DataError, match=reason):
        read_questions(written(tmp_path / "q.jsonl", row | changed), Choice)


# ---------------------------------------------------------------- multiple choice


def test_likelihood_is_that_of_the_tokens() -> None:
    """The log-likelihood is the sum over the tokens said, each given what stands before it."""
    backend = Fluent("ab")
    ids = backend.tokenizer("xab", add_special_tokens=False)["input_ids"]
    nats, greedy = log_likelihood(backend, ids[:1], ids[1:])  # type: ignore[arg-type]
    assert nats == pytest.approx(2 * (5 - math.log(2 * math.exp(5) + SIZE - 2)))
    assert not greedy  # the first of two equally likely tokens is chosen each time


def test_the_likelier_choice_is_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Plain likelihood prefers short choices, likelihood per byte does not; both are reported row by row (D23)."""
    rows = [
        {"id": "short", "question": "?", "choices": ["z", "aaa"], "answer": "aaa"},
        {"id": "long", "question": "?", "choices": ["zz", "aa"], "answer": 1},
    ]
    file = written(tmp_path / "q.jsonl", *rows)
    found = measured(monkeypatch, multiple_choice, "multiple_choice", Fluent("abcdefghij"), questions=file)
    assert found.metrics == {"accuracy": 1.0, "accuracy_norm": 1.0}
    found = measured(monkeypatch, multiple_choice, "multiple_choice", Fluent(""), questions=file)
    by_id = {row["id"]: row for row in found.rows}
    assert by_id["short"]["accuracy"] == 0  # one byte is likelier than three
    assert by_id["short"]["log_likelihoods"] == pytest.approx([-math.log(SIZE), -3 * math.log(SIZE)])
    assert found.notes["guessing"] == 0.5
    low, high = found.notes["intervals"]["accuracy"]
    assert low < found.metrics["accuracy"] < high or found.metrics["accuracy"] in (low, high)


def test_likelihood_on_a_real_graph(lab: Any) -> None:
    """On an exported graph the log-likelihood is that of the network it was made of, to rounding."""
    from components.runtime import opened

    found = []
    for name in ("merged", "fp32"):
        with opened(lab.subject(name), dtype="float32") as backend:
            prompt = encode_prompt(backend.tokenizer, tiny.conversation(1))
            found.append(log_likelihood(backend, prompt, prompt[:9])[0])
    assert found[0] == pytest.approx(found[1], abs=1e-3)


# ---------------------------------------------------------------- answers


def test_each_question_by_its_own_scorer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A question's scorer comes before the benchmark's; answers are kept row by row (D23, A45)."""
    rows = [
        {"id": "a", "question": "7 * 8?", "answer": 56},
        {"id": "b", "question": "A list, please?", "scorer": {"type": "json"}},
        {"id": "c", "question": "An object?", "answer": {"x": 1}, "scorer": {"type": "json"}},
    ]
    file = written(tmp_path / "q.jsonl", *rows)
    backend = Fluent(says=("It is 56.", '{"x": 2}', "[1]"))
    settings = {"questions": file, "scorer": {"type": "number"}, "name": "mixed", "batch_size": 1}
    found = measured(monkeypatch, generative, "generative", backend, **settings)
    assert found.metrics == {"mixed_score": pytest.approx(2 / 3), "mixed_answers_finished": 1.0}
    lines = {row["id"]: row for row in found.rows}
    assert {name: (row["answer"], row["mixed_score"]) for name, row in lines.items()} == {
        "a": ("It is 56.", 1.0),
        "b": ("[1]", 1.0),
        "c": ('{"x": 2}', 0.0),
    }


def test_held_out_rows_are_the_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file the run's held-out rows are asked, and their last turn is the expected answer."""
    rows = EvalRows([tiny.conversation(0), tiny.conversation(1)], ["x", "y"])
    right = tiny.conversation(0)[-1]["content"]
    backend = Fluent(says=(right, right))
    found = measured(monkeypatch, generative, "generative", backend, rows)
    assert [(row["id"], row["score"]) for row in found.rows] == [("x", 1.0), ("y", 0.0)]
    assert found.rows[0]["expected"] == right


def test_an_answer_is_needed_to_compare_with(tmp_path: Path, lab: Any) -> None:
    """A question without an answer is refused before any work, where its scorer compares with one."""
    file = written(tmp_path / "q.jsonl", {"id": "a", "question": "A?"})
    benchmark = registry.create("benchmark", "generative", questions=file)
    with pytest.raises(DataError, match="the question 'a' has no 'answer', which the scorer 'equals' compares with"):
        benchmark.problem(lab.dataset)
    assert (
        registry.create("benchmark", "generative", questions=file, scorer={"type": "regex"}).problem(lab.dataset)
        is None
    )


def test_own_questions_need_no_rows(tmp_path: Path, datasets_by_shape: dict[str, Any]) -> None:
    """With questions of its own a benchmark runs on any data set; without, only where rows have answers."""
    file = written(tmp_path / "q.jsonl", {"question": "A?", "answer": "a"})
    texts = datasets_by_shape["text"]
    assert registry.create("benchmark", "generative", questions=file).problem(texts) is None
    assert "takes rows of shape" in (registry.create("benchmark", "generative").problem(texts) or "")


def test_an_edited_question_is_asked_again(tmp_path: Path, lab: Any) -> None:
    """Results are kept by the content of the file: moved, it is the same; edited, another (A28)."""
    service, subjects = BenchmarkService(lab.workspace), [lab.subject("base")]

    def key(file: str) -> str:
        plain = {"type": "generative", "questions": file, "max_new_tokens": 2, "dtype": "float32"}
        spec = OfKind("benchmark").parse(plain)
        assert spec
        return service.run(spec, subjects, lab.dataset, 17)[0].key

    row = {"question": "A?", "answer": "a"}
    first = key(written(tmp_path / "q.jsonl", row))
    assert key(written(tmp_path / "moved.jsonl", row)) == first
    assert key(written(tmp_path / "q.jsonl", row | {"answer": "b"})) != first
