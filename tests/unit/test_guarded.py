"""The trainer's own parts: order of rows, the loss on trained tokens, the guard against NaN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from components.core.errors import TrainingError
from components.core.events import CheckpointSaved, EpochFinished, Event, EventBus, TrainStep
from components.core.kinds import registry
from components.interfaces import StepContext
from components.training.head import has_plain_head
from components.training.order import bucketed_order, rows_in_a_pass
from tests import tiny
from tests.training_world import lean_loss

WEIGHTS = "adapter_model.safetensors"
LENGTHS = [50 + (37 * i) % 300 for i in range(257)]


def batches(order: list[int], size: int) -> list[list[int]]:
    return [order[i : i + size] for i in range(0, len(order), size)]


def test_order_follows_the_seed() -> None:
    """The same seed gives the same order, another seed another one."""
    assert bucketed_order(LENGTHS, 8, 17, 400) == bucketed_order(LENGTHS, 8, 17, 400)
    assert bucketed_order(LENGTHS, 8, 17, 400) != bucketed_order(LENGTHS, 8, 18, 400)


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("count", [1, 64, 1000])
def test_batches_are_full(size: int, count: int) -> None:
    """There are at least as many rows as asked for, and every batch is full and without a repeated row."""
    order = bucketed_order(LENGTHS, size, 17, count)
    assert len(order) >= count
    assert len(order) % size == 0
    assert all(len(set(batch)) == size for batch in batches(order, size))


def test_batches_hold_rows_of_similar_length() -> None:
    """Padding within batches is a fraction of what random batches waste."""
    grouped, plain = bucketed_order(LENGTHS, 8, 17, 256), list(range(256))

    def padding(order: list[int]) -> int:
        return sum(8 * max(LENGTHS[i] for i in b) - sum(LENGTHS[i] for i in b) for b in batches(order, 8))

    assert padding(grouped) < 0.25 * padding(plain)


def test_last_batches_are_not_all_short() -> None:
    """Training does not end on the shortest rows: batches of all lengths stand at the end."""
    means = [sum(LENGTHS[i] for i in batch) / 8 for batch in batches(bucketed_order(LENGTHS, 8, 17, 256), 8)]
    average = sum(means) / len(means)
    assert any(mean > average for mean in means[-8:])
    assert any(mean < average for mean in means[-8:])


def test_each_epoch_uses_nearly_every_row_once() -> None:
    """An epoch repeats no row, and leaves out less than one batch."""
    epoch = bucketed_order(LENGTHS, 8, 17, 1)
    assert len(set(epoch)) == len(epoch) > len(LENGTHS) - 8


def test_fewer_rows_than_a_batch() -> None:
    """With fewer rows than a batch holds the order still ends."""
    assert set(bucketed_order([5, 6, 7], 8, 17, 16)) == {0, 1, 2}


def inputs(seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch of two rows, the second one shorter and padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 259, (2, 20), generator=generator)
    labels = ids.clone()
    labels[0, :12] = -100
    labels[1, :5] = -100
    ids[1, 15:], labels[1, 15:] = 0, -100
    mask = torch.ones_like(ids)
    mask[1, 15:] = 0
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def plain_loss(model: Any, batch: dict[str, torch.Tensor], reduction: str) -> torch.Tensor:
    """Cross-entropy of all logits, the way every library computes it."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].float()
    return functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction=reduction)


@pytest.fixture
def model(one_thread: None) -> Any:
    return tiny.network()


def test_loss_is_plain_cross_entropy(model: Any) -> None:
    """The loss on trained tokens only equals that of the full logits, padding included, to 1e-5."""
    with torch.no_grad():
        assert float(lean_loss(model, inputs(), None)) == pytest.approx(
            float(plain_loss(model, inputs(), "mean")), abs=1e-5
        )
        assert float(lean_loss(model, inputs(), 100)) == pytest.approx(
            float(plain_loss(model, inputs(), "sum")) / 100, abs=1e-5
        )


def test_gradients_are_those_of_plain_cross_entropy(model: Any) -> None:
    """The gradients agree too, for every weight."""
    lean_loss(model, inputs(), None).backward()
    ours = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    plain_loss(model, inputs(), "mean").backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(ours[name], weight.grad, atol=1e-5, rtol=1e-4)


def test_scaled_logits_take_the_slow_way(model: Any) -> None:
    """A model that changes its logits after the head is left to the library's own loss."""
    assert has_plain_head(model)
    model.config.final_logit_softcapping = 30.0
    assert not has_plain_head(model)


def test_nan_stops_before_the_optimizer(lab: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is no number raises a TrainingError before any weight moves (E31)."""
    networks: list[Any] = []
    before: dict[str, torch.Tensor] = {}

    def poisoned(self: Any, model: Any, batch: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        networks.append(model)
        before.update({name: weight.detach().clone() for name, weight in model.named_parameters()})
        return model(**batch, fused_lm_head=True).loss * float("nan")

    from components.training.supervised import SafeSft

    monkeypatch.setattr(SafeSft, "compute_loss", poisoned)
    trainer = lab.plan.train[0].build()
    expected = r"loss became nan at step 1, before any weight was changed. Rows in the batch: \S*train.jsonl:\d+, "
    with pytest.raises(TrainingError, match=expected):
        trainer.train(lab.base, lab.dataset, tmp_path, StepContext(17, EventBus()))
    assert networks
    for name, weight in networks[0].named_parameters():
        assert torch.equal(weight, before[name]), name


def test_events_of_every_step(lab: Any, tmp_path: Any) -> None:
    """Each optimizer step is told on the bus with loss, step and speed (B8)."""
    bus, steps = EventBus(), list[TrainStep]()
    bus.on(TrainStep, steps.append)
    facts = lab.plan.train[0].build().train(lab.base, lab.dataset, tmp_path, StepContext(17, bus))
    assert [step.step for step in steps] == [1, 2, 3]
    assert [round(step.loss, 5) for step in steps] == facts["losses"]
    assert all(step.total == 3 and step.tokens_per_s > 0 and step.figures["grad_norm"] > 0 for step in steps)
    assert all(step.figures.keys() == {"grad_norm", "learning_rate", "memory"} for step in steps)
    assert not bus.failures


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({"batch_size": 8, "max_steps": 7}, [(1.0, 3), (2.0, 6)]),
        # 24 rows in batches of 5: the last four rows of a pass are left out
        ({"batch_size": 5, "max_steps": 4}, [(1.0, 4)]),
        ({"batch_size": 6, "accumulate": 2, "max_steps": 3}, [(1.0, 2)]),
    ],
)
def test_passes_over_the_rows_are_told(
    lab: Any, tmp_path: Any, settings: dict[str, int], passes: list[tuple[float, int]]
) -> None:
    """Each time all rows were seen an epoch ends, right after its last step (B5)."""
    bus, told = EventBus(), list[Event]()
    bus.on_any(told.append)
    trainer = registry.create("trainer", "sft", **settings, warmup_steps=0, dtype="float32", lora={"r": 4})
    trainer.train(lab.base, lab.dataset, tmp_path, StepContext(17, bus))
    ended = [position for position, event in enumerate(told) if isinstance(event, EpochFinished)]
    assert [(told[i].data["epoch"], told[i].data["step"]) for i in ended] == passes
    assert all(isinstance(told[i - 1], TrainStep) and told[i - 1].data["step"] == told[i].data["step"] for i in ended)


@pytest.mark.parametrize(("rows", "batch_size", "expected"), [(24, 8, 24), (24, 5, 20), (3, 8, 3)])
def test_rows_in_a_pass_are_those_of_the_order(rows: int, batch_size: int, expected: int) -> None:
    """What counts as one pass is what the order takes before it begins anew."""
    assert rows_in_a_pass(rows, batch_size) == len(bucketed_order([50] * rows, batch_size, 17, 1)) == expected


def test_saved_weights_are_told(lab: Any, tmp_path: Any) -> None:
    """The directory of a saved checkpoint can be opened while the event is handled (B5)."""
    bus, saved = EventBus(), list[tuple[int, bool]]()
    bus.on(CheckpointSaved, lambda event: saved.append((event.step, (Path(event.path) / WEIGHTS).is_file())))
    lab.plan.train[0].build().train(lab.base, lab.dataset, tmp_path, StepContext(17, bus))
    assert saved == [(3, True)]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_accumulation_counts_tokens_not_batches(lab: Any, tmp_path: Any, accumulate: int) -> None:
    """One step over several batches has the loss of one large batch: tokens weigh alike (B15)."""
    config = {"max_steps": 1, "batch_size": 8 // accumulate, "accumulate": accumulate, "dtype": "float32"}
    trainer = registry.create("trainer", "sft", **config, warmup_steps=0, lora={"r": 4})
    facts = trainer.train(lab.base, lab.dataset, tmp_path, StepContext(17, EventBus()))
    assert facts["steps"] == 1
    assert 5.0 < facts["final_loss"] < 7.0
