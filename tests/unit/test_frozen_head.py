"""Log-probabilities of labels from a frozen output matrix: the numbers and gradients that autograd gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from components.training.frozen_head import ROWS, FrozenHead, fits
from components.training.head import add_lean_head
from tests import tiny

WIDTH, VOCABULARY = 32, 300


def head(**options: Any) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(WIDTH, VOCABULARY, **{"bias": False, **options}).requires_grad_(False)


def rows(count: int) -> tuple[Any, Any]:
    torch.manual_seed(1)
    return torch.randn(count, WIDTH, requires_grad=True), torch.randint(0, VOCABULARY, (count,))


@pytest.mark.parametrize("count", [1, 64, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 70])
def test_numbers_and_gradients(count: int, one_thread: None) -> None:
    """For any number of positions, and any weight on each, they agree with cross-entropy in the same precision."""
    layer, (hidden, labels) = head(), rows(count)
    weights = torch.linspace(-1, 2, count)
    with torch.autocast("cpu", torch.bfloat16):
        logits = layer(hidden).float()
        expected = -functional.cross_entropy(logits, labels, reduction="none")
        (truth,) = torch.autograd.grad((expected * weights).sum(), hidden)
        found, best = FrozenHead().scores(layer, hidden, labels)
    (gradient,) = torch.autograd.grad((found * weights).sum(), hidden)
    assert torch.allclose(found, expected.detach(), atol=1e-5)
    assert torch.equal(best, logits.argmax(-1) == labels)
    assert float((gradient - truth).norm() / truth.norm()) < 0.01


def test_no_position_at_all(one_thread: None) -> None:
    """A batch without a label gives an empty result and no gradient, and no error."""
    hidden, labels = rows(0)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = FrozenHead().scores(head(), hidden, labels)
    found.sum().backward()
    assert (found.shape, hidden.grad.shape) == ((0,), (0, WIDTH))


def test_another_matrix_is_noticed(one_thread: None) -> None:
    """What was rounded for one matrix is not used for another, nor for another precision."""
    hidden, labels = rows(3)
    frozen, other = FrozenHead(), head()
    other.weight.data.mul_(2)
    for layer, dtype in ((head(), torch.bfloat16), (other, torch.bfloat16), (other, torch.float16)):
        with torch.autocast("cpu", dtype):
            expected = -functional.cross_entropy(layer(hidden).float(), labels, reduction="none")
            assert torch.allclose(frozen.scores(layer, hidden, labels)[0], expected, atol=1e-5)


def test_only_a_plain_frozen_matrix(one_thread: None) -> None:
    """Heads with a bias or weights in training, and exact arithmetic, keep the long way."""
    hidden, _ = rows(2)
    trained = head().requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        assert fits(head(), hidden)
        assert not fits(head(bias=True), hidden)
        assert not fits(trained, hidden)
    assert not fits(head(), hidden)


@pytest.mark.parametrize("scores", [True, False])
def test_the_short_way_is_taken(scores: bool, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a network whose head is frozen, loss and log-probabilities come from it, and agree with the long way."""
    from components.training import head as module

    ids = torch.arange(3, 67).reshape(2, 32)
    found = []
    for short in (True, False):
        model = tiny.network().train()
        model.get_output_embeddings().weight.requires_grad_(False)
        if not short:
            monkeypatch.setattr(module, "fits", lambda *_: False)
        else:
            monkeypatch.setattr(module, "logits_of", lambda *_: pytest.fail("the long way"))
        add_lean_head(model, scores=scores)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, fused_lm_head=True)
        value = output.log_probs if scores else output.loss
        value.sum().backward()
        found.append((value.detach(), model.model.layers[0].self_attn.q_proj.weight.grad))
        monkeypatch.undo()
    (short_value, short_gradient), (value, gradient) = found
    assert torch.allclose(short_value, value, atol=1e-4)
    assert float((short_gradient - gradient).norm() / gradient.norm()) < 0.02
