"""Weights in few bits: grids, GPTQ, sensitivities, trained scales, and directories that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from components.compression.calibration import batches, padded
from components.compression.layers import block_linears
from components.compression.pruning.healing import loose_artifact
from components.compression.quantization.checkpoint import load_quantized, read_codes, save_quantized
from components.compression.quantization.gptq import gptq
from components.compression.quantization.grid import Codes, Grid, half_precision, round_to_nearest
from components.compression.quantization.sensitivity import allocate, sensitivities
from components.compression.quantization.tuning import Divergence, Tuning, install, settle
from components.compression.quantization.weight_only import head_codes, inputs_by_block, packable, put_back
from components.core.errors import ConfigError, ModelLoadError
from components.core.events import EventBus
from components.core.kinds import registry
from components.interfaces import StepContext
from tests import tiny, tiny_families

ROWS = [torch.arange(3 + start, 3 + start + length) for start, length in ((0, 40), (50, 33), (90, 21), (120, 48))]


def matrix(outputs: int = 48, inputs: int = 64, seed: int = 0) -> Any:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


def error(weight: Any, codes: Codes) -> float:
    return float((codes.dequantize() - weight).square().mean())


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_stays_within_a_step(bits: int, symmetric: bool) -> None:
    """Every weight is within a step of its code; more bits and a searched range lose less (E28)."""
    weight, grid = matrix(), Grid(bits, 32, symmetric)
    codes = round_to_nearest(weight, grid)
    steps = codes.scales.repeat_interleave(32, 1)
    assert bool(((codes.dequantize() - weight).abs() <= steps).all())
    assert error(weight, round_to_nearest(weight, grid, torch.ones(64))) <= error(weight, codes) * 1.05
    assert error(weight, round_to_nearest(weight, Grid(8, 32))) < error(weight, round_to_nearest(weight, Grid(4, 32)))


def test_a_group_that_does_not_fit() -> None:
    """A group that does not divide the inputs is refused, and one that does is named (E28)."""
    with pytest.raises(ConfigError, match="128 does not divide the 64 inputs of 'model.layers.0"):
        packable(tiny.network(), [Grid(4, 128)])


def test_gptq_loses_less_than_rounding() -> None:
    """On inputs that go together, GPTQ's outputs are nearer than those of the nearest codes on the same grid (E28)."""
    inputs = torch.randn(512, 16, generator=torch.Generator().manual_seed(1)) @ matrix(16, 64, 2)
    inputs += 0.1 * torch.randn(512, 64, generator=torch.Generator().manual_seed(3))
    weight, moments, grid = matrix(), inputs.T @ inputs, Grid(4, 32)
    lost = [
        float((inputs @ (codes.dequantize() - weight).T).square().mean())
        for codes in (gptq(weight, moments, grid), round_to_nearest(weight, grid, moments.diagonal()))
    ]
    assert lost[0] < 0.7 * lost[1]


def test_gptq_of_inputs_that_never_occur() -> None:
    """An input that is always zero does not stop GPTQ (E28)."""
    moments = torch.eye(64)
    moments[5, 5] = 0
    assert bool(gptq(matrix(), moments, Grid(4, 32)).scales.isfinite().all())


def test_moments_are_those_of_the_inputs() -> None:
    """The moments are those of what goes into a layer, without padding; layers that read the same share them."""
    network = tiny.network()
    layers = block_linears(network)
    found: dict[str, Any] = {}
    for seen in inputs_by_block(network, layers, batches(ROWS, 128), torch.float32, lambda *_: None):
        found |= seen
    name = "model.layers.1.mlp.down_proj"
    heard: list[Any] = []
    handle = layers[name].register_forward_pre_hook(lambda _, args: heard.append(args[0][0].detach()))
    for row in ROWS:
        network(input_ids=row[None])
    handle.remove()
    inputs = torch.cat(heard)
    assert torch.allclose(found[name].moments, inputs.T @ inputs, rtol=1e-3, atol=1e-3)
    assert torch.allclose(found[name].sizes, inputs.abs().sum(0), rtol=1e-3, atol=1e-3)
    assert found["model.layers.0.self_attn.q_proj"] is found["model.layers.0.self_attn.v_proj"]


def test_experts_have_no_packed_form() -> None:
    """A model with fused experts is refused by name, with what to take instead (C34)."""
    with pytest.raises(ModelLoadError, match="holds experts as one parameter"):
        packable(tiny_families.network("mixtral"), [Grid(4, 32)])


@pytest.mark.parametrize("tied", [False, True])
def test_directory_round_trip(tmp_path: Path, tied: bool) -> None:
    """A packed directory opens as exactly the network that its codes stand for; a tied table is packed once (E28)."""
    network = tiny.network(tie_word_embeddings=tied)
    source = tmp_path / "source"
    network.save_pretrained(source, safe_serialization=True)
    tiny.tokenizer().save_pretrained(source)
    grids = [Grid(4, 32), Grid(8, 64)]
    layers = packable(network, grids)
    codes = {
        name: half_precision(round_to_nearest(layer.weight.detach(), grids["down" in name]))
        for name, layer in layers.items()
    }
    codes |= head_codes(network, Grid(8, 64))
    put_back(network, codes)
    facts = save_quantized(source, network, codes, tmp_path / "out")
    again = load_quantized(tmp_path / "out")
    ids = ROWS[0][None]
    assert torch.equal(again(input_ids=ids).logits, network(input_ids=ids).logits)
    assert 4 < facts["bits_per_weight"] < 9
    assert read_codes(tmp_path / "out")[0].keys() == codes.keys()


def test_directory_with_a_gap(tmp_path: Path) -> None:
    """A packed matrix without its scales is refused by name (D9)."""
    from safetensors.torch import load_file, save_file

    source, out = tiny.write_model(tmp_path / "source"), tmp_path / "out"
    network = tiny.network()
    codes = {name: round_to_nearest(layer.weight.detach(), Grid()) for name, layer in block_linears(network).items()}
    save_quantized(source, network, codes, out)
    tensors = load_file(out / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.scales"]
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelLoadError, match="'model.layers.0.mlp.up_proj' has no scales"):
        load_quantized(out)


def test_measured_sensitivity_is_near_the_divergence() -> None:
    """The cost that is measured for a matrix is that of rounding it alone, within a factor (C33)."""
    network, name = tiny.network(initializer_range=0.06), "model.layers.0.mlp.down_proj"
    weight = network.get_submodule(name).weight
    codes = round_to_nearest(weight.detach(), Grid(4, 32))
    rows = [ROWS[number % 4] for number in range(40)]
    (cost,) = sensitivities(network, {name: [codes]}, batches(rows, 64), seed=3)[name]
    rounded = tiny.network(initializer_range=0.06)
    put_back(rounded, {name: codes})
    ids, mask = padded(ROWS)
    with torch.no_grad():
        before, after = (net(input_ids=ids).logits[mask].log_softmax(-1) for net in (network, rounded))
    actual = float((before.exp() * (before - after)).sum(-1).mean())
    assert actual / 2 < cost < actual * 2


def test_bits_go_where_they_buy_most() -> None:
    """Under a budget, the matrix whose rounding costs most gets more bits; one too small is told (C33)."""
    options = {
        name: [round_to_nearest(matrix(), Grid(4, 32)), round_to_nearest(matrix(), Grid(8, 64))] for name in "ab"
    }
    costs = {"a": [0.1, 0.0], "b": [0.5, 0.0]}
    small, large = (codes.size for codes in options["a"])
    assert allocate(options, costs, small + large) == {"a": 0, "b": 1}
    assert allocate(options, costs, 2 * large) == {"a": 1, "b": 1}
    with pytest.raises(ConfigError, match="raise it, or allow fewer bits"):
        allocate(options, costs, small)


def test_divergence_and_its_gradient() -> None:
    """The divergence in pieces and its gradient are those of the whole vocabulary at once."""
    teacher_head, head = matrix(300, 64, 1), matrix(300, 64, 2) / 8
    taught, hidden = matrix(200, 64, 3) / 8, (matrix(200, 64, 4) / 8).requires_grad_(True)
    found = Divergence(teacher_head, head, torch.float32)(taught, hidden)
    (gradient,) = torch.autograd.grad(found, hidden)
    before, after = (taught @ teacher_head.T).log_softmax(-1), (hidden @ head.T).log_softmax(-1)
    expected = (before.exp() * (before - after)).sum(-1).mean()
    (wanted,) = torch.autograd.grad(expected, hidden)
    assert torch.allclose(found, expected, rtol=1e-4)
    assert torch.allclose(gradient, wanted, atol=1e-5)


def test_tuning_brings_the_network_nearer() -> None:
    """Trained scales bring the quantized network nearer to what it was, and codes stay as they are (C33)."""
    teacher, student = tiny.network(), tiny.network()
    codes = {
        name: round_to_nearest(layer.weight.detach(), Grid(4, 32)) for name, layer in block_linears(student).items()
    }
    tuning = Tuning(teacher, student, scaled := install(student, codes, torch.float32), torch.float32)
    losses = tuning.train([ROWS], 25, 4e-3, 0, lambda *_: None)
    after = settle(student, scaled, codes)
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(after[name].codes, codes[name].codes) for name in codes)
    assert all(torch.equal(found.scales, found.scales.half().float()) for found in after.values())


def test_layers_of_several_bits_in_one_graph(tmp_path: Path, lab: Any) -> None:
    """Layers whose q, k and v differ in bits stand beside layers where they do not, and the graph says what the network
    says; scales are stored in half the bytes (C33)."""
    from components.core.events import EventBus
    from components.core.kinds import registry
    from components.core.safeload import load_causal_lm
    from components.interfaces import StepContext

    network, out = load_causal_lm(lab.merged.path), tmp_path / "out"
    codes = {
        name: half_precision(
            round_to_nearest(layer.weight.detach(), Grid(8, 64) if "0.self_attn.v" in name else Grid())
        )
        for name, layer in block_linears(network).items()
    }
    put_back(network, codes)
    save_quantized(lab.merged.path, network, codes, tmp_path / "packed")
    source = lab.merged.model_copy(update={"path": tmp_path / "packed", "kind": "quantized"})
    out.mkdir()
    facts = registry.create("pass", "onnx", exporter="builder").apply(source, {}, out, StepContext(17, EventBus()))
    assert facts["parity"]["prefill"] < 1e-3
    assert facts["scales_saved_bytes"] > 0


def test_the_pass_keeps_to_its_size(tmp_path: Path, lab: Any) -> None:
    """With `size`, all packed matrices fit it, and what they are expected to cost is told with what they do (C33)."""
    from components.core.events import EventBus
    from components.core.kinds import registry
    from components.interfaces import StepContext

    config = {"rows": 6, "max_length": 64, "size": 90_000, "tune": None}
    step = registry.create("pass", "quantize_gptq", **config)
    facts = step.apply(lab.merged, {}, tmp_path / "out", StepContext(17, EventBus(), dataset=lab.dataset))
    assert facts["packed_bytes"] <= 90_000
    assert facts["layers_in_8_bits"]
    assert facts["expected_kl"] > 0
    assert facts["rounded"]["mean_kl"] > 0


@pytest.mark.parametrize("tied", [False, True])
def test_packed_head_reaches_the_graph(tmp_path: Path, tied: bool) -> None:
    """A packed model becomes a graph of the same logits, embedding tied or not (E24, E28)."""
    network = tiny.network(tie_word_embeddings=tied)
    source, packed, graph = (tmp_path / name for name in ("source", "packed", "graph"))
    network.save_pretrained(source, safe_serialization=True)
    tiny.tokenizer().save_pretrained(source)
    codes = {
        name: half_precision(round_to_nearest(x.weight, Grid())) for name, x in packable(network, [Grid()]).items()
    }
    codes |= head_codes(network, Grid(8, 64))
    put_back(network, codes)
    facts = save_quantized(source, network, codes, packed)
    graph.mkdir()
    artifact = loose_artifact(packed, facts).model_copy(update={"kind": "quantized"})
    told = registry.create("pass", "onnx", exporter="builder").apply(artifact, {}, graph, StepContext(17, EventBus()))
    assert told["parity"]["prefill"] < 1e-3
