"""Loss of a model on a split, outside of training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components.core.dataset import index, tokens
from components.core.errors import TrainingError
from components.core.safeload import load_adapter, load_causal_lm, load_tokenizer
from components.services.training import TrainingService
from components.training import evaluation


def row_by_row(lab: Any, split: str) -> tuple[float, int]:
    """The loss of the trained adapter, one row at a time."""
    network = load_adapter(load_causal_lm(lab.base.path), lab.trained.path)
    total, count = 0.0, 0
    for row in tokens(lab.dataset, split, load_tokenizer(lab.trained.path)):
        labels = torch.tensor(row["labels"])[1:]
        with torch.inference_mode():
            logits = network(torch.tensor([row["input_ids"]])).logits[0, :-1].float()
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        count += int((labels != -100).sum())
    return total / count, count


@pytest.mark.parametrize("size", [1, 700, 10**6])
def test_batches_give_what_rows_give(lab: Any, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Rows filled up to batches have the loss that they have one by one (E16)."""
    monkeypatch.setattr(evaluation, "BATCH_TOKENS", size)
    loss, count = row_by_row(lab, "train")
    found = TrainingService(lab.workspace).evaluate(lab.trained, lab.dataset, "train")
    assert found["tokens"] == count
    assert found["loss"] == pytest.approx(loss, abs=1e-5)


def test_batches_are_of_similar_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row once, the longest first, and no batch of several rows over the limit; a row alone may be."""
    monkeypatch.setattr(evaluation, "BATCH_TOKENS", 10)
    lengths = [3, 12, 5, 1, 5, 2, 3]
    batches = list(evaluation._batches(lengths))
    assert batches == [[1], [2, 4], [0, 6, 5], [3]]
    assert list(evaluation._batches([])) == []


def test_a_split_that_is_missing(lab: Any) -> None:
    """A split without rows is one clear error that names those with rows."""
    with pytest.raises(TrainingError, match=r"no rows in the split 'test' \(with rows: eval, train\)"):
        TrainingService(lab.workspace).evaluate(lab.trained, lab.dataset, "test")


def test_nothing_to_learn_from(lab: Any, datasets_by_shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows without a labelled token are an error, not a loss of nought."""
    rows = index(lab.dataset, "eval").select(range(2))
    silent = rows.with_transform(
        lambda b: {"input_ids": b["input_ids"], "labels": [[-100] * len(r) for r in b["input_ids"]]}
    )
    monkeypatch.setattr(evaluation, "tokens", lambda *_: silent)
    with pytest.raises(TrainingError, match="no row of the split 'eval' has a token to learn from"):
        evaluation.evaluate(lab.base, None, lab.dataset, "eval")


def test_the_device_that_is_there(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network goes to the GPU where there is one."""
    asked: list[str] = []

    def moved(device: str) -> Any:
        asked.append(device)
        raise RuntimeError("on its way")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(evaluation, "load_causal_lm", lambda path: SimpleNamespace(to=moved))
    with pytest.raises(RuntimeError, match="on its way"):
        evaluation.evaluate(lab.base, None, lab.dataset, "eval")
    assert asked == ["cuda"]
