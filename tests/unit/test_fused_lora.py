"""The short way through a LoRA layer computes what PEFT computes, and steps aside wherever it would not."""

from __future__ import annotations

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
