"""Packing: every row in a pack is trained on as if it stood alone, and a model that cannot do that is refused."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from components.core.errors import TrainingError
from components.core.events import EpochFinished, EventBus, TrainStep
from components.training.order import bucketed_order, shuffled_passes
from components.training.packing import PackCollator, PackedRows, best_fit, check_packing, wants_flat
from tests import tiny
from tests.training_world import lean_loss, sft

SIZES: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.15,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
GPT2 = {"vocab_size": 259, "n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.15}
KEEPS_ROWS_APART = {
    "llama": SIZES,
    "qwen3": SIZES | {"head_dim": 16},
    "gemma3_text": SIZES | {"head_dim": 16} | WINDOW,
    "gpt_neox": {key: value for key, value in SIZES.items() if key != "num_key_value_heads"},
    "gpt2": GPT2 | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}
CARRIES_STATE = {
    "mamba": {"vocab_size": 259, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
    "lfm2": SIZES | {"layer_types": ["conv", "full_attention"], "initializer_range": 0.02},
    "qwen3_next": SIZES
    | {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    | {"shared_expert_intermediate_size": 32, "linear_num_value_heads": 4, "linear_num_key_heads": 2}
    | {"linear_key_head_dim": 16, "linear_value_head_dim": 16, "layer_types": ["linear_attention", "full_attention"]},
    # attention only, but with a mask of its own that knows no packs
    "bloom": {"vocab_size": 259, "hidden_size": 64, "n_layer": 2, "n_head": 4},
}
LENGTHS = (9, 30, 17, 1, 23, 12)
MANY = [9 + (37 * i) % 60 for i in range(30)]


def network(kind: str, config: dict[str, Any], attention: str = "eager") -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    built = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config), attn_implementation=attention)
    return built.eval()


def some_rows(lengths: Any = LENGTHS, seed: int = 0) -> Any:
    """Rows of random tokens; about every second token is trained, a row's first token sometimes too."""
    from datasets import Dataset

    random = Random(seed)
    ids = [[random.randrange(3, 259) for _ in range(length)] for length in lengths]
    labels = [[token if random.random() < 0.5 else -100 for token in row] for row in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def packed(rows: Any, capacity: int = 48, flat: bool = False) -> dict[str, torch.Tensor]:
    """All rows as one batch of packs, without what only the trainer reads."""
    packs = PackedRows(rows, capacity, seed=17)
    batch = PackCollator(0, flat)([packs[i] for i in range(len(packs))])
    assert int(batch.pop("tokens")) == sum(map(len, rows["input_ids"]))
    return batch


ONE = torch.tensor(1)


def alone(model: Any, rows: Any) -> torch.Tensor:
    """The summed loss of every row, each in a forward pass of its own."""
    batches = [{"input_ids": torch.tensor([row["input_ids"]]), "labels": torch.tensor([row["labels"]])} for row in rows]
    return torch.stack([lean_loss(model, batch, ONE) for batch in batches])


def together(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The same out of one batch of packs: all other rows' labels are hidden, one row after the other."""
    places, losses = batch["position_ids"].flatten(), {}
    starts = (places == 0).cumsum(0).view_as(batch["position_ids"])
    # in the order of `LENGTHS`, all of which differ (a pad is a row of one token, but carries no label)
    for start in range(1, int(starts.max()) + 1):
        here = starts == start
        labels = torch.where(here, batch["labels"], -100)
        losses.setdefault(int(here.sum()), lean_loss(model, {**batch, "labels": labels}, ONE))
    return torch.stack([losses[length] for length in LENGTHS])


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference of a gradient, as a fraction of the largest gradient of that weight."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max() / (one[name].abs().max() + 1e-6)) for name in one)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", KEEPS_ROWS_APART)
def test_packed_is_unpacked(kind: str, attention: str, flat: bool, one_thread: None) -> None:
    """Loss and gradients of packed rows are those of the rows alone; without restarting positions they are not."""
    model, rows = network(kind, KEEPS_ROWS_APART[kind], attention), some_rows()
    batch, expected = packed(rows, flat=flat), alone(model, rows)
    torch.testing.assert_close(together(model, batch), expected, rtol=1e-6, atol=1e-5)
    right = gradients(model, expected.sum())
    assert furthest(right, gradients(model, lean_loss(model, batch, ONE))) < 1e-4
    # the control: the same batch with positions that run on, so plain causal attention over the whole pack
    running = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])
    glued = {**batch, "position_ids": running}
    assert furthest(right, gradients(model, lean_loss(model, glued, ONE))) > 0.1


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_positions_and_mask_are_both_needed(attention: str, one_thread: None) -> None:
    """Restarting positions under an all-ones mask, the way TRL collates, mix the rows: the test above would see it."""
    config = KEEPS_ROWS_APART["gpt2"]
    model, rows = network("gpt2", config, attention), some_rows()
    batch = packed(rows, flat=True)
    mask = torch.ones_like(batch["input_ids"])

    def distance(**changes: Any) -> float:
        """How far the loss of the worst token is from where it is with a pack that is kept apart."""
        losses = []
        for inputs in ({"position_ids": batch["position_ids"]}, changes):
            logits = model(input_ids=batch["input_ids"], use_cache=False, **inputs).logits[0, :-1]
            losses.append(torch.nn.functional.cross_entropy(logits, batch["labels"][0, 1:], reduction="none"))
        return float((losses[0] - losses[1]).detach().abs().max())

    rows_of = (batch["position_ids"][0] == 0).cumsum(0)
    apart = (rows_of[:, None] == rows_of[None, :]).tril()[None, None]
    blocks = torch.where(apart, 0.0, torch.finfo(torch.float32).min)
    running = torch.arange(mask.shape[1])[None]
    assert distance(position_ids=batch["position_ids"], attention_mask=blocks) < 1e-4
    assert distance(position_ids=batch["position_ids"], attention_mask=mask) > 0.1
    assert distance(position_ids=running, attention_mask=blocks) > 0.1
    assert distance(position_ids=running) > 0.1


def test_no_row_is_predicted_from_another(one_thread: None) -> None:
    """The first token of a row carries no loss, whatever its label was."""
    rows = some_rows().map(lambda row: {"labels": row["input_ids"]})
    batch = packed(rows, flat=True)
    starts = batch["position_ids"] == 0
    assert int(starts.sum()) == len(LENGTHS)
    assert bool((batch["labels"][starts] == -100).all())
    assert bool((batch["labels"][~starts] == batch["input_ids"][~starts]).all())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", KEEPS_ROWS_APART)
def test_check_accepts(kind: str, attention: str, one_thread: None) -> None:
    """The self-check passes for models that keep rows apart, and leaves the training mode as it was."""
    model = network(kind, KEEPS_ROWS_APART[kind], attention).train()
    check_packing(model, some_rows()["input_ids"])
    assert model.training


@pytest.mark.filterwarnings("ignore")  # the slow path of a layer without its kernel says so
@pytest.mark.parametrize("kind", CARRIES_STATE)
def test_check_refuses(kind: str, one_thread: None) -> None:
    """State across rows, short convolutions, or a mask of the model's own: refused, with the type and the remedy."""
    model = network(kind, CARRIES_STATE[kind])
    with pytest.raises(TrainingError, match=rf"'{kind}\w*'.*packed rows: .*set packing: false"):
        check_packing(model, some_rows()["input_ids"])


def test_check_refuses_a_forward_without_positions(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """A forward pass that takes no position ids is a refusal too, not a crash."""
    model = tiny.network()
    monkeypatch.setattr(model, "forward", lambda input_ids, use_cache=False: None)
    with pytest.raises(TrainingError, match=r"'llama'.*forward pass fails.*position_ids.*set packing: false"):
        check_packing(model, some_rows()["input_ids"])


def test_check_refuses_ignored_positions(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """A model that swallows position ids and counts on is refused."""
    model = tiny.network()
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda position_ids=None, **inputs: forward(**inputs))
    with pytest.raises(TrainingError, match="set packing: false"):
        check_packing(model, some_rows()["input_ids"])


@pytest.mark.parametrize("spread", [0.15, 0.0003])
def test_check_refuses_positions_that_count_on(spread: float, one_thread: None) -> None:
    """Rows kept apart by a mask, but at the places they have in the pack, are refused, however weak the model is."""
    model = network("gpt2", KEEPS_ROWS_APART["gpt2"] | {"initializer_range": spread})
    forward = model.forward

    def masked(input_ids: Any, position_ids: Any, **rest: Any) -> Any:
        row = (position_ids[0] == 0).cumsum(0)
        apart = (row[:, None] == row[None, :]).tril()[None, None]
        blocks = torch.where(apart, 0.0, torch.finfo(torch.float32).min)
        return forward(input_ids=input_ids, attention_mask=blocks, **rest)

    model.forward = masked
    with pytest.raises(TrainingError, match="and by 0 with the text of other rows"):
        check_packing(model, some_rows()["input_ids"])


def test_check_in_half_precision(one_thread: None) -> None:
    """In bf16 rounding is allowed for: rows apart pass, rows that are glued together do not."""
    model = tiny.network().to(torch.bfloat16)
    check_packing(model, some_rows()["input_ids"])
    forward = model.forward
    model.forward = lambda position_ids=None, **inputs: forward(**inputs)
    with pytest.raises(TrainingError, match="set packing: false"):
        check_packing(model, some_rows()["input_ids"])


def test_flash_attention_takes_one_flat_row() -> None:
    """FlashAttention separates rows only in a batch of one; the others take one pack a row."""
    model = tiny.network()
    for attention, flat in [("eager", False), ("sdpa", False), ("flex_attention", False), ("flash_attention_2", True)]:
        model.config._attn_implementation_internal = attention
        assert wants_flat(model) is flat


@pytest.mark.parametrize("seed", range(60))
def test_packs_hold_every_row_once(seed: int) -> None:
    """No row is lost, doubled or cut, no pack is empty or too long, and the same seed gives the same packs."""
    random = Random(seed)
    capacity = random.randint(100, 300)
    lengths = [random.randint(1, random.choice([5, 40, 100])) for _ in range(random.randint(0, 200))]
    packs = best_fit(lengths, capacity, seed)
    assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
    sizes = [sum(lengths[row] for row in pack) for pack in packs]
    assert all(0 < size <= capacity for size in sizes)
    # no two packs would fit into one: what any-fit packing promises, so at least half of all places are filled
    assert len(sizes) < 2 or sum(sorted(sizes)[:2]) > capacity
    assert packs == best_fit(lengths, capacity, seed)


def test_fullest_pack_first() -> None:
    """A row goes where it leaves the least room: these five rows fill two packs, with any other choice three."""
    packs = best_fit([2, 6, 3, 7, 2], 10, 17)
    assert sorted(sorted([2, 6, 3, 7, 2][row] for row in pack) for pack in packs) == [[2, 2, 6], [3, 7]]


def test_packs_are_full() -> None:
    """On lengths as they occur (log-normal, most rows short) at least 99 % of all places hold a token."""
    random = Random(0)
    lengths = [min(1024, max(8, int(random.lognormvariate(5.0, 0.8)))) for _ in range(5000)]
    packs = best_fit(lengths, 1024, 17)
    assert sum(lengths) / (1024 * len(packs)) > 0.99


def test_labels_made_when_read() -> None:
    """Rows whose labels are made only when they are read, as the data stage stores them, give the same packs."""
    plain = some_rows(MANY)
    lazy = plain.rename_column("labels", "kept").with_transform(
        lambda batch: {"input_ids": batch["input_ids"], "labels": batch["kept"]}
    )
    packs = [PackedRows(rows, 96, 17) for rows in (plain, lazy)]
    assert [packs[0][i] for i in range(len(packs[0]))] == [packs[1][i] for i in range(len(packs[1]))]


def test_a_row_that_fits_nowhere() -> None:
    """A row longer than a pack stops the run; it is not cut."""
    with pytest.raises(TrainingError, match=r"101 tokens fits into no pack of max_length=100"):
        best_fit([3, 101], 100, 17)


def test_seed_changes_packs() -> None:
    """Another seed puts rows of equal length together in another way."""
    assert best_fit([30] * 50, 100, 17) != best_fit([30] * 50, 100, 18)


@pytest.mark.parametrize("packs", [1, 3, 10])
def test_each_pass_has_every_pack(packs: int) -> None:
    """The order is one pass after another, each with every pack once; batches may straddle passes."""
    order = shuffled_passes(packs, 17, 25)
    assert len(order) >= 25
    assert all(sorted(order[at : at + packs]) == list(range(packs)) for at in range(0, len(order), packs))
    assert order == shuffled_passes(packs, 17, 25)


PACKED = {"max_steps": 12, "batch_size": 2, "learning_rate": 3e-3, "warmup_steps": 0, "max_length": 96, "packing": True}


def test_training_on_packs(tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run over packs learns, sees every row in each pass, counts real tokens, and tells its passes."""
    bus, steps, passes = EventBus(), list[TrainStep](), list[EpochFinished]()
    bus.on(TrainStep, steps.append)
    bus.on(EpochFinished, passes.append)
    rows, seen, fetch = some_rows(MANY), list[int](), PackedRows.__getitem__
    monkeypatch.setattr(PackedRows, "__getitem__", lambda self, number: seen.append(number) or fetch(self, number))
    run, trainer, figures = sft(tmp_path, rows, bus, **PACKED)
    packs, losses = trainer.train_dataset.packs, run.meter.losses
    assert len(steps) == len(losses) == 12
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    once = len(packs)
    for at in range(0, 24 - once + 1, once):
        assert sorted(row for pack in seen[at : at + once] for row in packs[pack]) == list(range(len(MANY)))
    assert run.meter.tokens == sum(MANY[row] for pack in seen for row in packs[pack])
    assert [event.epoch for event in passes] == [float(n) for n in range(1, 24 // once + 1)]
    assert figures["packs"] == once
    assert figures["fill"] == round(sum(MANY) / (once * 96), 4)
    assert not bus.failures


def test_a_step_on_packs_is_a_step_on_rows(tmp_path: Path, one_thread: None) -> None:
    """One optimizer step over all rows gives the same loss and the same weights packed and padded."""
    rows, weights, losses = some_rows(MANY), [], []
    packs = len(best_fit(MANY, 96, 17))
    for packing, batch in ((True, packs), (False, len(MANY))):
        model = tiny.network()
        settings = {"max_steps": 1, "batch_size": batch, "optimizer": {"type": "sgd"}, "packing": packing}
        run, _, _ = sft(tmp_path, rows, EventBus(), model, **(PACKED | settings))
        assert run.meter.tokens == sum(MANY)
        losses.append(run.meter.losses[0])
        weights.append({name: weight.detach().clone() for name, weight in model.named_parameters()})
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=1e-6, rtol=1e-5)


def test_packs_with_the_librarys_own_loss(tmp_path: Path, one_thread: None) -> None:
    """A model with altered logits goes through TRL's loss, with packs too, and gets the same loss as from ours."""
    losses = []
    for scale in (None, 1.0):
        model = tiny.network()
        model.config.logit_scale = scale
        run, _, _ = sft(tmp_path, some_rows(MANY), EventBus(), model, **(PACKED | {"max_steps": 2}))
        losses.append(run.meter.losses)
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_refused_before_the_first_step(tmp_path: Path, one_thread: None) -> None:
    """A model that carries state is refused before the first step; without packing it is trained."""
    rows, bus, steps = some_rows(MANY), EventBus(), list[TrainStep]()
    bus.on(TrainStep, steps.append)
    with pytest.raises(TrainingError, match=r"'mamba'.*set packing: false"):
        sft(tmp_path, rows, bus, network("mamba", CARRIES_STATE["mamba"]), **PACKED)
    assert not steps
    off = PACKED | {"packing": False, "max_steps": 1}
    sft(tmp_path, rows, bus, network("mamba", CARRIES_STATE["mamba"]), **off)
    assert len(steps) == 1


def test_off_is_as_before(tmp_path: Path, one_thread: None) -> None:
    """Without packing the batches are the bucketed ones, padded with a mask, and no figure is added."""
    _, trainer, figures = sft(tmp_path, some_rows(MANY), EventBus(), **(PACKED | {"packing": False}))
    assert trainer.order == bucketed_order(MANY, 2, 17, 24)[:24]
    batch = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[1]])
    assert batch.keys() == {"input_ids", "labels", "attention_mask"}
    assert "packs" not in figures


def test_rows_in_packs_are_counted(tmp_path: Path, one_thread: None) -> None:
    """A batch says how many rows and tokens are in it, and the model is told neither, in evaluation too."""
    rows = some_rows(MANY)
    packs = PackedRows(rows, 96, 17)
    for flat in (True, False):
        batch = PackCollator(0, flat)([packs[0], packs[1]])
        assert int(batch["rows"]) == len(packs.packs[0]) + len(packs.packs[1])
        assert int(batch["tokens"]) == sum(MANY[row] for pack in packs.packs[:2] for row in pack)
    model, told = tiny.network(), set[str]()
    forward = model.model.forward
    model.model.forward = lambda *args, **inputs: told.update(inputs) or forward(*args, **inputs)
    run, trainer, _ = sft(tmp_path, rows, EventBus(), model, **(PACKED | {"max_steps": len(packs), "batch_size": 1}))
    assert run.meter.rows == len(MANY)
    batch = trainer._prepare_inputs(PackCollator(0, False)([packs[0]]))
    trainer.prediction_step(trainer.model, dict(batch), prediction_loss_only=True)
    assert "position_ids" in told
    assert not {"rows", "tokens"} & told
