"""The short way through a LoRA layer computes what PEFT computes, and steps aside wherever it would not."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from components.training.frozen import hold_frozen
from components.training.fused_lora import fuse_lora
from tests import tiny


def adapted(**options: Any) -> Any:
    """The tiny model with an adapter that already changes something, its frozen weights in bfloat16."""
    torch.manual_seed(0)
    network = get_peft_model(tiny.network(), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **options))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    hold_frozen(network, torch.bfloat16)
    return network.train()


def outcome(network: Any) -> tuple[Any, dict[str, Any]]:
    """Logits, and the gradients of the adapter."""
    ids = torch.arange(3, 67).reshape(2, 32)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(input_ids=ids).logits
    logits.float().square().mean().backward()
    return logits.detach().float(), {n: w.grad for n, w in network.named_parameters() if w.requires_grad}


def test_logits_and_gradients_are_pefts(one_thread: None) -> None:
    """Logits and every gradient agree with PEFT's to the rounding of bfloat16, on all layers."""
    expected, gradients = outcome(adapted())
    network = adapted()
    assert fuse_lora(network) == 14
    logits, ours = outcome(network)
    exact = adapted()
    exact.to(torch.float32)
    with torch.no_grad():
        truth = exact(input_ids=torch.arange(3, 67).reshape(2, 32)).logits
    # rounding fewer times, it is no further from the truth than PEFT is
    assert (logits - truth).abs().mean() < 1.1 * (expected - truth).abs().mean()
    for name, gradient in gradients.items():
        assert torch.nn.functional.cosine_similarity(gradient.flatten(), ours[name].flatten(), dim=0) > 0.99, name
        assert float(ours[name].norm()) == pytest.approx(float(gradient.norm()), rel=0.05), name


def test_the_adapter_can_be_switched_off(one_thread: None) -> None:
    """With the adapter disabled, as DPO asks its reference, the base model's own logits come out, bit for bit."""
    plain, network = adapted(), adapted()
    fuse_lora(network)
    ids = torch.arange(3, 67).reshape(2, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), plain.disable_adapter(), network.disable_adapter():
        assert torch.equal(plain(input_ids=ids).logits, network(input_ids=ids).logits)


@pytest.mark.parametrize("options", [{"lora_dropout": 0.1}, {"use_dora": True}])
def test_other_layers_stay_pefts(options: dict[str, Any]) -> None:
    """Layers with dropout or DoRA are left alone."""
    assert fuse_lora(adapted(**options)) == 0


def test_float32_is_left_alone(one_thread: None) -> None:
    """Without half precision nothing is replaced, so exact runs stay as they were."""
    network = get_peft_model(tiny.network(), LoraConfig(r=4, target_modules="all-linear"))
    assert fuse_lora(network) == 0


def test_merging_still_works(one_thread: None) -> None:
    """A fused adapter folds into its base like any other."""
    network = adapted()
    fuse_lora(network)
    merged = network.merge_and_unload()
    assert not any("lora" in name for name, _ in merged.named_parameters())


def gated(network: Any) -> list[Any]:
    """The gated MLPs that are one function now."""
    return [module for module in network.modules() if getattr(module.forward, "__name__", "") == "_gated_forward"]


def test_a_gated_mlp_is_one_function(one_thread: None) -> None:
    """The MLP of every layer takes the short way as a whole, with the gradients of its parts in turn."""
    network, apart = adapted(), adapted()
    fuse_lora(network)
    fuse_lora(apart)
    assert len(gated(network)) == 2
    for module in gated(apart):
        module.forward = types.MethodType(type(module).forward, module)
    (logits, gradients), (expected, truth) = outcome(network), outcome(apart)
    assert torch.equal(logits, expected)
    for name, gradient in gradients.items():
        assert torch.nn.functional.cosine_similarity(gradient.flatten(), truth[name].flatten(), dim=0) > 0.999, name
        assert float(gradient.norm()) == pytest.approx(float(truth[name].norm()), rel=0.02), name


OTHERS: dict[str, Any] = {
    "scales": lambda self, y: y * 1.01,
    "clips": lambda self, y: y.clamp(-100, 100),
    "drops some while training": lambda self, y: torch.nn.functional.dropout(y, 0.1, self.training),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_gated_mlp_of_another_kind_is_left_alone(
    other: str, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    """One that does more than its three layers suggest keeps its own forward pass; random numbers stay as they were."""
    network = adapted().eval()  # as it is when a trainer gets it
    mlp = type(network.get_base_model().model.layers[0].mlp)
    inner = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda self, x: OTHERS[other](self, inner(self, x)))
    state = torch.get_rng_state()
    assert fuse_lora(network) == 14
    assert not gated(network)
    assert torch.equal(torch.get_rng_state(), state)
    assert not network.training


def test_an_mlp_with_a_part_of_an_adapter_is_left_alone(one_thread: None) -> None:
    """Without an adapter on all three layers, those that have one are shortened by themselves."""
    network = adapted()
    partly = get_peft_model(tiny.network(), LoraConfig(r=4, target_modules=["gate_proj", "down_proj"]))
    hold_frozen(partly, torch.bfloat16)
    assert fuse_lora(partly) == 4
    assert not gated(partly)
    assert not gated(network)


def test_hooks_are_called(one_thread: None) -> None:
    """A layer that somebody listens to is still called."""
    network, heard = adapted(), list[Any]()
    network.get_base_model().model.layers[0].mlp.up_proj.register_forward_hook(lambda *_: heard.append(1))
    fuse_lora(network)
    outcome(network)
    assert len(gated(network)) == 1
    assert heard == [1]
