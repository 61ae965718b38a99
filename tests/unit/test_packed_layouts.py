"""The ways out to vLLM: compressed-tensors' and GPTQ's layouts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from components.compression.layers import block_linears
from components.compression.quantization.checkpoint import save_quantized
from components.compression.quantization.grid import Codes, Grid, round_to_nearest
from components.compression.quantization.packed_layouts import LAYOUTS, Layout, load_packed, save_packed, unwords, words
from components.core.chat import encode_prompt
from components.core.errors import ArtifactError, ConfigError, MissingExtraError, ModelLoadError
from components.core.events import EventBus
from components.core.kinds import registry
from components.core.recipe import OfKind
from components.interfaces import StepContext, Subject
from components.runtime import opened
from components.services.model import ModelService
from components.services.workspace import Workspace
from tests import tiny

GRIDS = [Grid(4, 32), Grid(4, 64, True), Grid(8, 32), Grid(8, 64, True)]
NAMES = [f"{g.bits}-{g.group}-{'symmetric' if g.symmetric else 'asymmetric'}" for g in GRIDS]
BUILD = """
import sys
from onnxruntime_genai.models import builder
where = ("", sys.argv[1], sys.argv[2], "int4", "cpu", "cache")
builder.create_model(*where, **builder.parse_extra_options(*where, sys.argv[3:]))
"""
layouts = pytest.mark.parametrize("method", sorted(LAYOUTS))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Any:
    """The tiny model as an artifact."""
    workspace = Workspace(tmp_path_factory.mktemp("plain"))
    return ModelService(workspace).fetch(OfKind("model").parse({"type": "pretrained", "name": str(tiny_model)}))


def applied(name: str, source: Any, out: Path, **config: Any) -> dict[str, Any]:
    """A pass applied to an artifact."""
    out.mkdir()
    return registry.create("pass", name, **config).apply(source, {}, out, StepContext(17, EventBus()))


def quantized(plain: Any, path: Path, *grids: Grid) -> tuple[Any, dict[str, Codes]]:
    """The tiny model rounded to grids, block by block, as an artifact; and its codes."""
    network = tiny.network()
    codes = {}
    for name, module in block_linears(network).items():
        grid = grids[int(name.split(".")[2]) % len(grids)]
        codes[name] = round_to_nearest(module.weight.detach(), grid)
    save_quantized(plain.path, network, codes, path)
    return plain.model_copy(update={"path": path, "kind": "quantized"}), codes


@pytest.mark.parametrize("bits", [4, 8])
def test_words_hold_every_value(bits: int) -> None:
    """Values packed into 32-bit words come back, the sign bit among them, and an odd end is cut off (E28)."""
    values = torch.randint(0, 2**bits, (3, 45), dtype=torch.uint8)
    values[0, :8] = 2**bits - 1
    assert (unwords(words(values, bits), bits, 45) == values).all()
    assert words(values, bits).dtype == torch.int32


@layouts
@pytest.mark.parametrize("grid", GRIDS, ids=NAMES)
def test_layout_round_trip(method: str, grid: Grid) -> None:
    """What a layout stores of a matrix is what its reader gives back, code by code (E28)."""
    layout: Layout = LAYOUTS[method]
    torch.manual_seed(0)
    codes = layout.fit(round_to_nearest(torch.randn(48, 128), grid))
    told = json.loads(json.dumps(layout.description({"a.b": grid}, [])))
    again = layout.codes(layout.tensors(codes, torch.float32), layout.grid(told, "a.b"))
    assert again.grid == grid
    for part in ("codes", "scales", "zeros"):
        assert (getattr(again, part) == getattr(codes, part)).all(), part


def test_gptq_has_no_zero_point_of_zero() -> None:
    """A group whose zero point is 0 takes 1 and is rounded once more; other groups stay as they are (E28)."""
    torch.manual_seed(0)
    weight = torch.randn(4, 64)
    weight[1, 32:] = weight[1, 32:].abs() + 0.1
    codes = round_to_nearest(weight, Grid(4, 32))
    assert codes.zeros[1, 1] == 0
    fitted = LAYOUTS["gptq"].fit(codes)
    assert fitted.zeros.min() >= 1
    lost = (fitted.dequantize() - codes.dequantize()).abs()
    assert 0 < lost[1, 32:].max() <= fitted.scales[1, 1] / 2 + 1e-6
    lost[1, 32:] = 0
    assert (lost == 0).all()


@pytest.mark.parametrize("grid", GRIDS, ids=NAMES)
def test_compressed_tensors_reads_what_we_write(grid: Grid, plain: Any, tmp_path: Path) -> None:
    """transformers, through the package that vLLM uses, gives the logits of our codes (E28, C33)."""
    pytest.importorskip("compressed_tensors")
    config = {"bits": grid.bits, "group": grid.group, "symmetric": grid.symmetric}
    facts = applied("compressed_tensors", plain, tmp_path / "out", **config, dtype="float32")
    assert facts["max_logit_difference"] < 1e-4
    assert "transformers with compressed-tensors" in facts["checked_with"]
    assert facts["bits"] == [grid.bits]
    assert 0 < facts["mean_kl"] < (1 if grid.bits == 4 else 1e-2)
    names = load_file(tmp_path / "out" / "model.safetensors").keys()
    assert ("model.layers.0.mlp.up_proj.weight_zero_point" in names) == (not grid.symmetric)


def test_half_precision_is_read_as_it_is_stored(plain: Any, tmp_path: Path) -> None:
    """Weights that the package expands in float16 are those of the codes, rounded once (C11)."""
    pytest.importorskip("compressed_tensors")
    facts = applied("compressed_tensors", plain, tmp_path / "out", bits=8, group=32, max_logit_difference=1e-6)
    assert "transformers with compressed-tensors" in facts["checked_with"]


def test_mixed_bits_by_layer(plain: Any, tmp_path: Path) -> None:
    """Blocks at 4 and at 8 bits stand in groups of their own, and the package reads them so (E28)."""
    pytest.importorskip("compressed_tensors")
    source, codes = quantized(plain, tmp_path / "in", Grid(4, 32), Grid(8, 64))
    facts = applied("compressed_tensors", source, tmp_path / "out", dtype="float32")
    assert facts["bits"] == [4, 8]
    assert facts["mean_kl"] < 1e-6  # the codes are the same, so nothing is rounded again
    weights = load_packed(tmp_path / "out").state_dict()
    assert all(torch.equal(weights[f"{name}.weight"], found.dequantize()) for name, found in codes.items())


@pytest.mark.slow
@pytest.mark.parametrize("grid", [Grid(4, 64, True), Grid(8, 32)], ids=NAMES[1:3])
def test_genai_builder_reads_our_gptq(grid: Grid, plain: Any, tmp_path: Path) -> None:
    """ONNX Runtime GenAI's builder, a reader of GPTQ checkpoints that is not ours, gives the same weights (E28)."""
    config = {"bits": grid.bits, "group": grid.group, "symmetric": grid.symmetric}
    applied("gptq_layout", plain, tmp_path / "out", **config, dtype="float32")
    job = [str(tmp_path / "out"), str(tmp_path / "onnx"), "accuracy_level=1", "nodes_to_exclude=/lm_head/MatMul"]
    # in a process of its own: importing the builder claims top-level names
    subprocess.run([sys.executable, "-c", BUILD, *job], cwd=tmp_path, check=True, capture_output=True)
    ids = encode_prompt(tiny.tokenizer(), tiny.conversation(1))
    found = []
    for kind, path in (("packed", tmp_path / "out"), ("onnx", tmp_path / "onnx")):
        artifact = plain.model_copy(update={"path": path, "kind": kind})
        with opened(Subject(name=kind, artifact=artifact)) as backend:
            found.append(backend.logits(ids))
    assert np.abs(found[0] - found[1]).max() < 0.02 * found[0].std()


@layouts
def test_half_precision_is_of_half_the_size(method: str, plain: Any, tmp_path: Path) -> None:
    """What is not in few bits is stored in `dtype`; bits, scales and shapes are told in config.json (C27)."""
    name = {"gptq": "gptq_layout"}.get(method, "compressed_tensors")
    if name == "compressed_tensors":
        pytest.importorskip("compressed_tensors")
    facts = applied(name, plain, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors["model.embed_tokens.weight"].dtype == torch.float16
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == "float16"
    assert config["quantization_config"]["quant_method"] == method
    assert facts["matrices"] == 14


def test_backend_answers(plain: Any, tmp_path: Path) -> None:
    """The backend of the kind opens the layout, says that weights are expanded, and answers (E24)."""
    applied("gptq_layout", plain, tmp_path / "out", bits=8)
    artifact = plain.model_copy(update={"path": tmp_path / "out", "kind": "packed"})
    with opened(Subject(name="packed", artifact=artifact)) as backend:
        assert "expanded" in backend.health().detail
        prompt = encode_prompt(backend.tokenizer, tiny.conversation(1))
        answer = backend.generate([prompt], 4)[0]
        assert answer.tokens == len(list(backend.stream(prompt, 4)))


def test_grids_that_differ_within_a_fused_layer_are_refused(plain: Any, tmp_path: Path) -> None:
    """vLLM computes query, key and value as one: other bits for one of them are refused by name (C29)."""
    network = tiny.network()
    grids = {"model.layers.0.self_attn.q_proj": Grid(4, 32), "model.layers.0.self_attn.v_proj": Grid(8, 32)}
    codes = {name: round_to_nearest(network.get_submodule(name).weight.detach(), grid) for name, grid in grids.items()}
    with pytest.raises(ConfigError, match=r"q_proj' has 4 bits and 'model.layers.0.self_attn.v_proj' has 8"):
        save_packed(plain.path, network, codes, LAYOUTS["gptq"], torch.float16, tmp_path)


def test_group_that_does_not_divide_is_refused(plain: Any, tmp_path: Path) -> None:
    """A group that does not divide the inputs of a layer is refused with one that does."""
    with pytest.raises(ConfigError, match=r"group: 128 does not divide the 64 inputs .* for example 64"):
        applied("gptq_layout", plain, tmp_path / "out", group=128)


def test_wrong_packing_is_told(plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layout that gives other weights than it was made of is not handed on (C27)."""
    monkeypatch.setattr(
        "components.compression.quantization.packed_layouts.unwords", lambda p, bits, n: unwords(p, bits, n) ^ 1
    )
    with pytest.raises(ArtifactError, match="it was packed wrongly"):
        applied("gptq_layout", plain, tmp_path / "out")


def test_quantized_weights_are_not_rounded_again() -> None:
    """A model whose weights an earlier pass has rounded is refused as a model, and welcome as codes (C39)."""
    cls = registry.get("pass", "gptq_layout")
    assert "has rounded" in cls.refusal(cls.Config(), "model", frozenset({"quantized"}))
    assert cls.refusal(cls.Config(), "quantized", frozenset({"quantized"})) is None


def test_missing_package_is_named(plain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without compressed-tensors there is no proof, so the pass names the extra that brings it (A22)."""
    monkeypatch.setitem(sys.modules, "compressed_tensors", None)
    with pytest.raises((MissingExtraError, ModelLoadError), match=r"postmill\[vllm-layout\]|compressed"):
        applied("compressed_tensors", plain, tmp_path / "out")


def test_other_directories_are_refused(plain: Any) -> None:
    """The reader says that a plain model is in none of its layouts."""
    with pytest.raises(ModelLoadError, match="is in none of the layouts compressed-tensors, gptq"):
        load_packed(plain.path)
