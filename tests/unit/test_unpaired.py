"""KTO's own parts: batches that stay together, mismatched pairs, a reference that is scored once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from components.core.errors import ConfigError, TrainingError
from components.core.events import EventBus, TrainStep
from components.core.kinds import registry
from components.core.safeload import load_causal_lm, load_tokenizer
from components.interfaces import StepContext
from components.training.unpaired import JudgedCollator, JudgedRows, SafeKto, batch_order, judged_answers

SMALL = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 0, "dtype": "float32"}


def kto(**config: Any) -> Any:
    return registry.create("trainer", "kto", **(SMALL | config))


def answers_of(lab: Any, dataset: Any, **config: Any) -> Any:
    return judged_answers(dataset, "train", load_tokenizer(lab.base.path), kto(**config).config)


@pytest.fixture
def answers(lab: Any, datasets_by_shape: dict[str, Any]) -> Any:
    return answers_of(lab, datasets_by_shape["unpaired"])


def test_judgements_belong_to_their_answers(lab: Any, datasets_by_shape: dict[str, Any], answers: Any) -> None:
    """Labels stay with their rows, also where rows are left out; a bad answer is one that the data calls bad."""
    assert sum(answers.labels) == 16
    most = sorted(answers.lengths())[11]
    fewer = answers_of(lab, datasets_by_shape["unpaired"], max_length=most, max_too_long_fraction=0.9)
    kept = [number for number, length in enumerate(answers.lengths()) if length <= most]
    assert 0 < len(kept) < 24
    assert fewer.labels == [answers.labels[number] for number in kept]
    assert [fewer.tokens(n) for n in range(len(kept))] == [answers.tokens(number) for number in kept]


def test_preferences_are_two_judgements(lab: Any, datasets_by_shape: dict[str, Any]) -> None:
    """Of a preference, the chosen answer is good and the rejected one bad, after the same prompt."""
    found = answers_of(lab, datasets_by_shape["preference"])
    assert found.labels == [True] * 24 + [False] * 24
    (good, mask), (bad, other) = found.tokens(3), found.tokens(27)
    start = mask.index(1)
    assert start == other.index(1)
    assert good[:start] == bad[:start]
    assert good[start:] != bad[start:]


@pytest.mark.parametrize("size", [2, 5, 7, 24, 30])
def test_every_answer_is_in_a_full_batch(answers: Any, size: int) -> None:
    """No answer is left out because rows do not divide by the batch size; the last batch is filled up with others."""
    order = batch_order(answers, kto(batch_size=size).config, 17)
    assert len(order) % size == 0
    assert len(order) - 24 < size
    assert set(order) == set(range(24))


def test_mismatched_pairs_are_those_of_the_batch(answers: Any) -> None:
    """Each prompt meets the answer of another row of its batch, and each answer of the batch is met once."""
    config = kto(batch_size=4).config
    rows = JudgedRows(answers, batch_order(answers, config, 17), 4, 1024)
    for places in (range(start, start + 4) for start in range(0, len(rows), 4)):
        matched, mismatched = [], []
        for place in places:
            row = rows[place]
            begin, other = row["completion_mask"].index(1), row["KL_completion_mask"].index(1)
            assert row["input_ids"][:begin] == row["KL_input_ids"][:other]
            matched.append(row["input_ids"][begin:])
            mismatched.append(row["KL_input_ids"][other:])
        assert mismatched == [matched[-1], *matched[:-1]]


def test_batches_are_those_of_trl(answers: Any) -> None:
    """Tensors are the ones TRL's own collator makes of the same rows; only what follows an answer is not part of it."""
    rows = [JudgedRows(answers, range(6), 6, 1024)[place] for place in range(6)]
    theirs = []
    for row in rows:
        start, other = row["completion_mask"].index(1), row["KL_completion_mask"].index(1)
        plain = {"prompt_ids": row["input_ids"][:start], "completion_ids": row["input_ids"][start:]}
        theirs.append(plain | {"KL_completion_ids": row["KL_input_ids"][other:], "label": row["label"]})
    expected, found = DataCollatorForUnpairedPreference(pad_token_id=0)(theirs), JudgedCollator(0)(rows)
    assert found.keys() == expected.keys()
    for prefix in ("", "KL_"):
        # the template ends a turn with a line break, which nobody writes
        ends = expected[f"{prefix}attention_mask"].sum(-1) - 1
        expected[f"{prefix}completion_mask"][torch.arange(6), ends] = 0
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_mismatched_pairs_are_cut(answers: Any) -> None:
    """A long prompt with another row's long answer is cut, as TRL does; rows themselves never are."""
    whole, cut = (JudgedRows(answers, range(6), 6, most) for most in (1024, 100))
    for place in range(6):
        row, other = whole[place], cut[place]
        assert other["input_ids"] == row["input_ids"]
        assert other["KL_input_ids"] == row["KL_input_ids"][:100]
        assert len(other["KL_completion_mask"]) == 100


def test_reference_is_that_of_the_untrained_model(
    lab: Any, datasets_by_shape: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference scores are log-probabilities of the base model, computed once and found again after a kill."""
    scored: list[dict[str, Any]] = []
    original = SafeKto._score
    monkeypatch.setattr(SafeKto, "_score", lambda self, rows: scored.append(original(self, rows)) or scored[-1])
    context = StepContext(17, EventBus(), tmp_path / "scratch", {"run": 1})
    for folder in ("1", "2"):
        (tmp_path / folder).mkdir()
        kto(lora={"r": 4}).train(lab.base, datasets_by_shape["unpaired"], tmp_path / folder, context)
        shutil.rmtree(tmp_path / folder)
    assert len(scored) == 1
    answers = answers_of(lab, datasets_by_shape["unpaired"])
    order = batch_order(answers, kto().config, 17)
    ids, mask = answers.tokens(order[5])
    with torch.no_grad():
        logits = load_causal_lm(lab.base.path)(torch.tensor([ids])).logits[0, :-1]
    known = logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    expected = float((known * torch.tensor(mask[1:])).sum())
    assert float(scored[0]["ref_logps"][5]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("lora", [None, {"r": 4}])
def test_begins_at_the_reference(lab: Any, datasets_by_shape: dict[str, Any], tmp_path: Path, lora: Any) -> None:
    """Before the first step policy and reference agree: no drift, no reward, and the loss is half of the weights."""
    bus, steps = EventBus(), list[TrainStep]()
    bus.on(TrainStep, steps.append)
    trainer = kto(max_steps=1, desirable_weight=2.0, undesirable_weight=2.0, lora=lora)
    trainer.train(lab.base, datasets_by_shape["unpaired"], tmp_path, StepContext(17, bus))
    assert steps[0].loss == pytest.approx(1.0, abs=1e-4)
    assert steps[0].figures["kl"] == pytest.approx(0.0, abs=1e-3)
    assert steps[0].figures["rewards/chosen"] == pytest.approx(0.0, abs=1e-3)


def test_learns_what_was_judged(lab: Any, datasets_by_shape: dict[str, Any], tmp_path: Path) -> None:
    """Good answers gain on bad ones."""
    trainer = kto(max_steps=30, batch_size=8, learning_rate=2e-3)
    facts = trainer.train(lab.base, datasets_by_shape["preference"], tmp_path, StepContext(17, EventBus()))
    margins = facts["figures"]["rewards/margins"]
    assert sum(margins[-5:]) > sum(margins[:5])
    assert facts["losses"][-1] < 0.5
    assert (facts["rows"], facts["desirable"], facts["undesirable"]) == (48, 24, 24)


def test_one_answer_at_a_time_cannot_be_mismatched(lab: Any, datasets_by_shape: dict[str, Any], tmp_path: Path) -> None:
    """A batch of one is refused with the remedy, which works."""
    with pytest.raises(ConfigError, match="raise batch_size, or take loss_type: apo_zero_unpaired"):
        kto(batch_size=1)
    trainer = kto(batch_size=1, loss_type="apo_zero_unpaired")
    facts = trainer.train(lab.base, datasets_by_shape["unpaired"], tmp_path, StepContext(17, EventBus()))
    assert facts["steps"] == 3


@pytest.mark.parametrize("shape", ["unpaired", "preference"])
def test_the_poisoned_row_is_named(
    shape: str, lab: Any, datasets_by_shape: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one answer makes the loss no number, the error names the place of its row in the data."""
    compute, rows = SafeKto.compute_loss, answers_of(lab, datasets_by_shape[shape])
    poison = sum(rows.tokens(5)[0])
    same = [number for number in range(len(rows)) if sum(rows.tokens(number)[0]) == poison]
    assert same == [5]

    def poisoned(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss = compute(self, model, inputs, *args, **kwargs)
        return loss * float("nan") if (inputs["input_ids"].sum(1) == poison).any() else loss

    monkeypatch.setattr(SafeKto, "compute_loss", poisoned)
    settings = {"max_steps": 12, "warmup_steps": 12, "learning_rate": 1e-6}
    trainer, context = kto(**settings), StepContext(17, EventBus())
    with pytest.raises(TrainingError, match=r"alone, only this does: \S*train.jsonl:6; look at it"):
        trainer.train(lab.base, datasets_by_shape[shape], tmp_path, context)
