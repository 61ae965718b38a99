"""Scales by AWQ: who makes what layers read, factors folded into it, and what is lost with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from components.compression.calibration import batches
from components.compression.layers import block_linears, decoder_layers
from components.compression.quantization.awq import awq, search
from components.compression.quantization.checkpoint import load_quantized
from components.compression.quantization.folding import Group, Maker, foldings
from components.compression.quantization.grid import Grid, round_to_nearest
from components.compression.quantization.weight_only import Inputs, inputs_by_block, packable, put_back
from components.core.errors import ArtifactError, ModelLoadError
from components.core.events import EventBus
from components.core.kinds import registry
from components.interfaces import StepContext
from tests import tiny, tiny_families

ROWS = [torch.arange(3 + start, 3 + start + length) for start, length in ((0, 40), (50, 33), (90, 21), (120, 48))]
ATTENTION, MLP = [("q_proj", "k_proj", "v_proj"), ("o_proj",)], [("gate_proj", "up_proj"), ("down_proj",)]
SCALED: dict[str, tuple[list[tuple[str, ...]], list[tuple[str, ...]]]] = {
    "llama": (ATTENTION + MLP, []),
    "qwen2": (ATTENTION + MLP, []),
    "qwen3": (ATTENTION + MLP, []),
    "phi": ([("q_proj", "k_proj", "v_proj", "fc1"), ("dense",)], [("fc2",)]),
    "phi3": ([("qkv_proj",), ("o_proj",), ("gate_up_proj",), ("down_proj",)], []),
    "gemma2": (ATTENTION + MLP, []),
    "gemma3_text": (ATTENTION + MLP, []),
    "gpt_neox": ([("query_key_value",), ("dense_h_to_4h",)], [("dense",), ("dense_4h_to_h",)]),
    "olmo2": ([("o_proj",), ("down_proj",)], [("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")]),
}
"""By family, the layers of a block that read one value: first where scales can be folded, then where they cannot."""


def family(model_type: str) -> Any:
    """A tiny model whose norms and biases are not those of an untrained one."""
    network, draw = tiny_families.network(model_type), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.2)
    return network


def with_outliers(**changes: Any) -> Any:
    """A tiny Llama with a few channels that are twenty times as large, as those of trained models are."""
    network = tiny.network(**changes)
    with torch.no_grad():
        for block in network.model.layers:
            for norm in (block.input_layernorm, block.post_attention_layernorm):
                norm.weight[[3, 17, 40]] *= 20
            for layer in (block.self_attn.v_proj, block.mlp.up_proj):
                layer.weight[[5, 30]] *= 20
            # what reads them is as much smaller, so that they do not drown everything else
            for layer in (block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj):
                layer.weight[:, [3, 17, 40]] /= 5
    return network


def logits(network: Any) -> Any:
    with torch.no_grad():
        return torch.cat([network(input_ids=row[None]).logits[0] for row in ROWS])


def scaled(network: Any, grid: Grid) -> tuple[Any, Any]:
    layers = packable(network, [grid])
    return awq(network, layers, batches(ROWS, 128), grid, torch.float32, lambda *_: None)


@pytest.mark.parametrize("model_type", SCALED)
def test_makers_are_found(model_type: str) -> None:
    """Whatever the family, the layers that read one value are found, and what makes it where factors can be folded into
    it; looking for it leaves every weight as it was (E28)."""
    network = family(model_type)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    layers = block_linears(network)
    names = {id(layer): name.rpartition(".")[2] for name, layer in layers.items()}
    for groups in foldings(network, layers, ROWS[0]):
        found: dict[bool, list[tuple[str, ...]]] = {True: [], False: []}
        for group in groups:
            found[group.maker is not None].append(tuple(names[id(reader)] for reader in group.readers))
        assert (found[True], found[False]) == SCALED[model_type]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("model_type", SCALED)
def test_the_function_is_kept(model_type: str) -> None:
    """With scales folded and nothing rounded, a model of any family says what it said; matrices did change (E28)."""
    network = family(model_type)
    before, weights = logits(network), [layer.weight.clone() for layer in block_linears(network).values()]
    _, facts = scaled(network, Grid(4, 16))
    assert float((logits(network) - before).abs().max()) < 1e-4
    assert not all(
        torch.equal(layer.weight, old) for layer, old in zip(block_linears(network).values(), weights, strict=True)
    )
    assert facts["groups_scaled"] == 2 * len(SCALED[model_type][0])
    assert facts["groups_left"] == 2 * len(SCALED[model_type][1])
    assert facts["error_against_unscaled"] <= 1


@pytest.mark.parametrize("heads", [2, 4])
def test_less_is_lost_than_by_rounding(heads: int) -> None:
    """Where a few channels are large, scaled layers on the same grid lose clearly less than layers that are rounded to
    nearest, of each block's output and of the logits; with query heads that share a value, and with heads of their own
    (E28)."""
    source, rounded, student = (with_outliers(num_key_value_heads=heads) for _ in range(3))
    grid, layers = Grid(4, 32), block_linears(rounded)
    for seen in inputs_by_block(source, block_linears(source), batches(ROWS, 128), torch.float32, lambda *_: None):
        put_back(
            rounded,
            {n: round_to_nearest(layers[n].weight.detach(), grid, each.moments.diagonal()) for n, each in seen.items()},
        )
    codes, facts = scaled(student, grid)
    assert float((logits(student) - logits(source)).abs().max()) < 1e-3
    put_back(student, codes)
    lost = [float((logits(network) - logits(source)).square().mean()) for network in (student, rounded)]
    assert facts["error_against_unscaled"] < 0.7
    assert lost[0] < 0.7 * lost[1]


def test_query_heads_that_share_a_value() -> None:
    """A channel of a value head stands in the inputs of all query heads that share it: sizes are their mean (E28)."""
    maker = Maker(nn.Linear(4, 4), channels=4, heads=2, size=2)
    assert maker.spread(torch.tensor([1.0, 2, 3, 4])).tolist() == [1, 2, 1, 2, 3, 4, 3, 4]
    assert maker.pooled(torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8])).tolist() == [2, 3, 6, 7]


def test_what_is_read_elsewhere_too_is_left() -> None:
    """A norm whose output goes on without passing a linear layer is not folded into (E28)."""
    network = tiny.network()
    mlp = decoder_layers(network)[0].mlp
    inner = mlp.forward
    mlp.forward = lambda hidden: inner(hidden) + hidden
    layers = block_linears(network)
    groups = [group for groups in foldings(network, layers, ROWS[0]) for group in groups]
    left = [group for group in groups if group.maker is None]
    assert [group.readers for group in left] == [[mlp.gate_proj, mlp.up_proj]]


def test_channels_that_never_occur() -> None:
    """Inputs of zeros give finite scales, and nothing is made of an error of nothing (E28)."""
    layer = nn.Linear(32, 8, bias=False)
    group = Group([layer], Maker(nn.LayerNorm(32), 32))
    seen = Inputs(32)
    seen.add(torch.zeros(5, 32))
    assert bool((search(group, seen, Grid(4, 32)).factors == 1).all())
    seen.add(torch.eye(32)[:4] * 1e4)
    found = search(group, seen, Grid(4, 32))
    assert bool(found.factors.isfinite().all())
    assert found.lost <= found.lost_without


def test_readers_that_stand_apart_share_moments() -> None:
    """Phi's `fc1` reads what `q_proj` reads, though another layer is named between them (E28)."""
    network = family("phi")
    layers = packable(network, [Grid(4, 16)])
    seen = next(inputs_by_block(network, layers, batches(ROWS, 128), torch.float32, lambda *_: None))
    of = {name.rpartition(".")[2]: inputs for name, inputs in seen.items()}
    assert of["fc1"] is of["q_proj"]
    assert of["dense"] is not of["q_proj"]


def test_blocks_without_linear_layers() -> None:
    """A model whose blocks hold no linear layers is refused by name, with what to take instead (C34)."""
    with pytest.raises(ModelLoadError, match="the blocks of a gpt2 model hold no linear layers"):
        packable(tiny_families.network("gpt2"), [Grid(4, 16)])


def apply(source: Any, lab: Any, out: Path, **config: Any) -> dict[str, Any]:
    step = registry.create("pass", "quantize_awq", **({"rows": 6, "max_length": 64, "tune": None} | config))
    facts: dict[str, Any] = step.apply(source, {}, out, StepContext(17, EventBus(), dataset=lab.dataset))
    return facts


def test_the_pass_and_its_graph(tmp_path: Path, lab: Any) -> None:
    """What the pass writes holds the folded norms, is measured against the source, and is what the graph says (E28)."""
    network, out, graph = tiny.network(tie_word_embeddings=True), tmp_path / "out", tmp_path / "graph"
    network.save_pretrained(tmp_path / "tied", safe_serialization=True)
    tiny.tokenizer().save_pretrained(tmp_path / "tied")
    source = lab.merged.model_copy(update={"path": tmp_path / "tied"})
    facts = apply(source, lab, out, tune={"steps": 2, "rows": 6, "tokens": 128})
    assert facts["groups_scaled"] == 8
    assert facts["folding_max_logit_difference"] < 1e-4
    assert 0 < facts["rounded"]["mean_kl"] < 1
    assert len(facts["tuning_kl"]) == 2
    norms = [each.model.layers[0].input_layernorm.weight for each in (network, load_quantized(out))]
    assert not torch.allclose(*norms, rtol=1e-2)
    graph.mkdir()
    packed = source.model_copy(update={"path": out, "kind": "quantized"})
    told = registry.create("pass", "onnx", exporter="builder").apply(packed, {}, graph, StepContext(17, EventBus()))
    assert told["parity"]["prefill"] < 1e-3


@pytest.mark.parametrize("factor", [2.0, float("nan")])
def test_the_pass_refuses_another_function(
    tmp_path: Path, lab: Any, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    """Folding that changed what the model says is refused, and by how much is told; so are logits that are none
    (D10)."""

    def broken(network: Any, *_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        with torch.no_grad():
            network.model.layers[1].input_layernorm.weight.mul_(factor)
        return {}, {}

    monkeypatch.setattr("components.compression.quantization.awq.awq", broken)
    with pytest.raises(ArtifactError, match="folding scales changed a logit by .* take quantize_gptq"):
        apply(lab.merged, lab, tmp_path / "out")
