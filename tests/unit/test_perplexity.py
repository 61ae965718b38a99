"""Perplexity: the right tokens are scored, each once, whatever the length of the row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from components.benchmarks import perplexity
from components.benchmarks.perplexity import Perplexity
from components.core.chat import encode_chat
from components.core.errors import DataError
from components.core.events import EventBus
from components.interfaces import EvalRows, Measurement, StepContext, Subject
from tests import tiny

SIZE = 259


class Guessing:
    """A backend that gives the next token of the same text `sure` logits more than any other."""

    def __init__(self, sure: float) -> None:
        self.sure, self.tokenizer, self.widths = sure, tiny.tokenizer(), list[int]()

    def logits(self, ids: list[int]) -> Any:
        self.widths.append(len(ids))
        found = np.zeros((len(ids), SIZE), dtype=np.float32)
        found[np.arange(len(ids) - 1), ids[1:]] = self.sure
        return found

    def __enter__(self) -> Guessing:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Measure rows with a backend that is `sure`."""

    def measured(rows: EvalRows, sure: float = 0.0, **config: Any) -> tuple[Measurement, Guessing]:
        backend = Guessing(sure)
        monkeypatch.setattr(perplexity, "opened", lambda *_, **__: backend)
        subject = Subject.model_construct(name="base")
        (found,) = Perplexity(Perplexity.Config(**config)).measure([subject], rows, StepContext(1, EventBus()))
        return found, backend

    return measured


def texts(*texts: str) -> EvalRows:
    return EvalRows([], [f"row{n}" for n in range(len(texts))], list(texts))


def test_knowing_nothing(measure: Any) -> None:
    """A model that knows nothing has the perplexity of its vocabulary; bits count per byte of text, not per token."""
    found, _ = measure(texts("kettle", "lämp"))
    assert found.metrics["perplexity"] == pytest.approx(SIZE)
    assert found.metrics["nll"] == pytest.approx(math.log(SIZE))
    # nothing predicts a first token; the end of a text is predicted, and has no bytes
    assert found.notes == {"tokens": 6 + 5, "bytes": 5 + 4}
    assert found.metrics["bits_per_byte"] == pytest.approx(11 * math.log2(SIZE) / 9)


def test_knowing_everything(measure: Any) -> None:
    """A model that is sure of every right token has perplexity 1."""
    assert measure(texts("kettle"), sure=50.0)[0].metrics["perplexity"] == pytest.approx(1)


@pytest.mark.parametrize("most", [2, 3, 10, 40, 41, 42, 1000])
def test_long_rows_are_cut(measure: Any, most: int) -> None:
    """However a text is cut, every token but the first is scored, once."""
    rows = texts("x" * 40)
    found, backend = measure(rows, sure=3.0, max_length=most)
    assert found.notes["tokens"] == 40
    assert found.metrics == pytest.approx(measure(rows, sure=3.0)[0].metrics)
    assert max(backend.widths) <= most


def test_answers(measure: Any) -> None:
    """Of a conversation what the assistant says is scored, with its end of turn."""
    talk = tiny.conversation(1)
    found, _ = measure(EvalRows([talk], ["a"]))
    assert found.notes["tokens"] == sum(encode_chat(tiny.tokenizer(), talk).mask)
    assert found.notes["bytes"] == len(talk[-1]["content"])


def test_rows_for_paired_tests(measure: Any) -> None:
    """Every row has the figures of its own, under the id of the data set."""
    found, _ = measure(texts("kettle", "lamp"), sure=2.0)
    assert [row["id"] for row in found.rows] == ["row0", "row1"]
    assert all(row.keys() == {"id", "nll", "perplexity", "bits_per_byte", "tokens"} for row in found.rows)
    total = sum(row["nll"] * row["tokens"] for row in found.rows)
    assert total / found.notes["tokens"] == pytest.approx(found.metrics["nll"])


def test_nothing_to_predict(measure: Any) -> None:
    """Without a token to predict there is no figure."""
    with pytest.raises(DataError, match="no row has a token to predict"):
        measure(texts(""))
