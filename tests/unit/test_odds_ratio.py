"""ORPO with the logits of the trained tokens alone: the same numbers as with all of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl.experimental.orpo import ORPOTrainer

from components.core.errors import ConfigError
from components.core.events import EventBus
from components.core.kinds import registry
from components.interfaces import StepContext
from components.training.head import add_lean_head
from components.training.odds_ratio import SafeOrpo
from components.training.preference import PairCollator
from tests import tiny

SMALL = {"max_steps": 3, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 0, "dtype": "float32"}
SIDES = ("chosen", "rejected")


def pairs() -> list[dict[str, Any]]:
    """Three pairs of different lengths; the prompt has 12 tokens."""
    random = torch.Generator().manual_seed(0)
    prompt = torch.randint(3, 259, (12,), generator=random).tolist()
    rows = []
    for length in (5, 9, 7):
        row = {}
        for side, more in zip(SIDES, (0, 4), strict=True):
            answer = torch.randint(3, 259, (length + more,), generator=random).tolist()
            row |= {f"{side}_input_ids": prompt + answer, f"{side}_spans": [12, 12 + len(answer)]}
        rows.append(row)
    return rows


def theirs(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The same pairs in the form of TRL's own collator."""
    batch = {}
    for side in SIDES:
        ids = [torch.tensor(row[f"{side}_input_ids"]) for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        labels = padded.masked_fill(mask == 0, -100)
        labels[:, :12] = -100
        batch |= {f"{side}_input_ids": padded, f"{side}_attention_mask": mask, f"{side}_labels": labels}
    return batch


def plain(prompt_loss: bool) -> Any:
    """As much of a trainer as the forward pass reads."""
    cpu = SimpleNamespace(device=torch.device("cpu"))
    names = {"is_encoder_decoder": False, "padding_value": 0, "aux_loss_enabled": False, "accelerator": cpu}
    trainer = SimpleNamespace(**names, prompt_loss=prompt_loss, _prepare_inputs=lambda batch: batch)
    trainer.concatenated_inputs, trainer.get_batch_logps = ORPOTrainer.concatenated_inputs, ORPOTrainer.get_batch_logps
    return trainer


@pytest.mark.parametrize("fused", [False, True])
def test_forward_is_that_of_trl(one_thread: None, fused: bool) -> None:
    """Log-probabilities, supervised loss and gradients are those of TRL's pass over the full logits, to 1e-5."""
    expected_model, model = tiny.network(), tiny.network()
    if fused:
        SafeOrpo._add_fused_head(SimpleNamespace(model=model))
    else:
        add_lean_head(model)
    expected = ORPOTrainer.concatenated_forward(plain(True), expected_model, theirs(pairs()))
    found = SafeOrpo.concatenated_forward(plain(True), model, PairCollator(0)(pairs()))
    for ours, other in ((found[0], expected[0]), (found[1], expected[1]), (found[4], expected[4])):
        torch.testing.assert_close(ours, other, atol=1e-5, rtol=1e-5)
    for values in (found, expected):
        (values[4] - (values[0] - values[1]).sum()).backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, expected_model.get_parameter(name).grad, atol=1e-5, rtol=1e-4)


def test_supervised_part_is_on_the_answer(one_thread: None) -> None:
    """By default the prompt carries no loss, as in the paper."""
    model = tiny.network()
    add_lean_head(model)
    with torch.no_grad():
        found = SafeOrpo.concatenated_forward(plain(False), model, PairCollator(0)(pairs()))
    lengths = torch.tensor([5.0, 9.0, 7.0])
    torch.testing.assert_close(found[4], -(found[0] * lengths).sum() / lengths.sum(), atol=1e-5, rtol=1e-5)


def test_learns_the_chosen_answers(lab: Any, datasets_by_shape: dict[str, Any], tmp_path: Path) -> None:
    """The supervised loss falls; what is told per step is finite."""
    trainer = registry.create("trainer", "orpo", **(SMALL | {"max_steps": 12}))
    facts = trainer.train(lab.base, datasets_by_shape["preference"], tmp_path, StepContext(17, EventBus()))
    assert facts["figures"]["nll_loss"][-1] < 0.6 * facts["figures"]["nll_loss"][0]
    assert facts["losses"][0] == pytest.approx(
        facts["figures"]["nll_loss"][0] - 0.1 * facts["figures"]["log_odds_ratio"][0], abs=1e-3
    )


def test_no_adapter_on_an_output_layer_that_is_read_past() -> None:
    """TRL's fused head reads the output matrix itself, where an adapter on it would not count: refused."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny.network(), LoraConfig(target_modules=["lm_head"], task_type="CAUSAL_LM"))
    with pytest.raises(ConfigError, match="take it out of target_modules"):
        SafeOrpo._add_fused_head(SimpleNamespace(model=model))
