"""Frozen RMS norms: the short way computes what transformers' own does, and is taken only where it does."""

from __future__ import annotations

import pytest
import torch
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from components.training.frozen_norm import shorten_norms
from tests import tiny
from tests.tiny_families import MODELS, network


def norm(cls: type = LlamaRMSNorm) -> torch.nn.Module:
    torch.manual_seed(0)
    made = cls(64, 1e-5)
    made.weight.data.normal_()
    return made.requires_grad_(False)


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_numbers_and_gradients(scale: float, one_thread: None) -> None:
    """Outputs and gradients agree with autograd's to the rounding of float32, for small and large activations."""
    theirs, ours = norm(), norm()
    assert shorten_norms(torch.nn.ModuleList([ours])) == 1
    x, out = torch.randn(3, 5, 64) * scale, torch.randn(3, 5, 64)
    found = []
    for module in (theirs, ours):
        given = x.clone().requires_grad_()
        result = module(given)
        result.backward(out)
        found.append((result.detach(), given.grad))
    (expected, truth), (result, gradient) = found
    assert torch.allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert float((gradient - truth).norm() / truth.norm()) < 1e-5


def test_other_norms_stay_as_they_are() -> None:
    """A norm that is trained, one that adds 1 to its weight, and one in half precision are left alone."""
    trained = norm().requires_grad_(True)
    assert shorten_norms(torch.nn.ModuleList([trained, norm(GemmaRMSNorm), norm().bfloat16()])) == 0


def test_half_precision_inputs_are_left_alone(one_thread: None) -> None:
    """Queries and keys that come in bfloat16 are normed by the module's own code, bit by bit."""
    theirs, ours = norm(), norm()
    shorten_norms(torch.nn.ModuleList([ours]))
    x = torch.randn(2, 64).bfloat16()
    assert torch.equal(theirs(x), ours(x))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_family(name: str, one_thread: None) -> None:
    """Logits of every family stay what they were, whatever its norms are (D14)."""
    model = network(name).requires_grad_(False)
    ids = torch.arange(3, 35).reshape(1, 32)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        shorten_norms(model)
        assert torch.allclose(model(input_ids=ids).logits, before, rtol=1e-4, atol=1e-4)


def test_all_of_a_llama() -> None:
    """Two norms in each layer, and the last one."""
    model = tiny.network().requires_grad_(False)
    assert shorten_norms(model) == 2 * model.config.num_hidden_layers + 1
