"""How a model directory says that it is opened, and that the PyTorch backend does so; caches in few bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.compression.caches import cache_bytes, new_cache, unfit
from components.compression.opening import (
    RUNTIME,
    Compilation,
    KeyValueCache,
    Runtime,
    copy_model,
    read_runtime,
    write_runtime,
)
from components.core.artifacts import MANIFEST, Artifact
from components.core.errors import ModelLoadError
from components.interfaces import Subject
from components.runtime import opened
from tests import tiny

IDS = list(range(3, 60))


def subject(path: Path) -> Subject:
    artifact = Artifact(path=path, kind="model", stage="", key="", digest="", parents={}, meta={}, size=0)
    return Subject(name="tiny", artifact=artifact)


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that may be written to."""
    copy_model(tiny_model, tmp_path / "model")
    return tmp_path / "model"


def answers(path: Path) -> tuple[Any, list[int], str]:
    """Logits, a stream and a batch, through whatever the directory asks for."""
    with opened(subject(path), dtype="float32") as backend:
        texts = [answer.text for answer in backend.generate([IDS[:9], IDS[:5]], 6)]
        return backend.logits(IDS), list(backend.stream(IDS[:9], 12, stop=False)), "|".join(texts)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention": "eager"},
        {"attention": "sdpa"},
        {"cache": KeyValueCache(type="static")},
        pytest.param(
            {"compile": Compilation(backend="aot_eager"), "cache": KeyValueCache(type="static")}, marks=pytest.mark.slow
        ),
    ],
    ids=["eager", "sdpa", "static", "compiled"],
)
def test_the_same_answers(model: Path, changes: dict[str, Any]) -> None:
    """Attention, a static cache and compilation change speed, and nothing that a user sees (C32, C37, E27)."""
    before = answers(model)
    write_runtime(model, read_runtime(model), **changes)
    after = answers(model)
    assert np.abs(before[0] - after[0]).max() < 1e-3
    assert after[1:] == before[1:]


def test_the_dtype_of_the_directory_counts(model: Path) -> None:
    """A model that was measured in bfloat16 is served in it, whatever the caller's default is."""
    write_runtime(model, Runtime(), dtype="bfloat16")
    with opened(subject(model), dtype="float32") as backend:
        assert "bfloat16" in backend.health().detail


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantized_cache_shows_in_the_logits(model: Path, bits: Any) -> None:
    """Logits go through a cache in few bits, so that its cost is measured; fewer bits cost more (C37)."""
    plain = answers(model)[0]
    write_runtime(model, Runtime(), cache=KeyValueCache(type="quantized", bits=bits, recent=4))
    distance = np.abs(plain - answers(model)[0])
    assert 0 < distance.mean() < plain.std() * {8: 0.02, 4: 0.5}[bits]


@pytest.mark.parametrize(("bits", "share"), [(8, 0.42), (4, 0.3)])
def test_a_quantized_cache_is_small(bits: Any, share: float) -> None:
    """Keys and values in few bits, scales included, take a fraction of float32's memory (C37)."""
    import torch

    network = tiny.network()
    ids = torch.arange(64)[None]
    sizes = {}
    for kind in ("static", "quantized"):
        cache = new_cache(network.config, KeyValueCache(type=kind, bits=bits, recent=1), 64)
        with torch.inference_mode():
            network(input_ids=ids, past_key_values=cache, use_cache=True)
        sizes[kind] = cache_bytes(cache, "cpu") / (128 if kind == "static" else 64)  # a static one has room for more
    assert sizes["quantized"] < share * sizes["static"]


def test_rounding_of_a_cache() -> None:
    """What comes out of a cache is as far from what went in as half a step of its group."""
    import torch

    from components.compression.caches import PackedLayer

    torch.manual_seed(0)
    numbers = torch.randn(1, 2, 5, 32)
    for bits in (8, 4):
        layer = PackedLayer(nbits=bits, q_group_size=16)
        layer.dtype = torch.float32
        back = layer._dequantize(layer._quantize(numbers, axis=0))
        groups = numbers.unflatten(-1, (-1, 16))
        step = (groups.amax(-1) - groups.amin(-1)) / (2**bits - 1)
        # scale and lowest value are kept with eight bits of precision
        allowed = (step * 0.55 + 0.02 * groups.abs().amax(-1))[..., None]
        assert ((back.unflatten(-1, (-1, 16)) - groups).abs() <= allowed).all()


def test_caches_that_cannot_be(tiny_model: Path) -> None:
    """A cache outside of the GPU where there is none, and one in few bits for other attention, are refused (C37)."""
    config = tiny.network().config
    with pytest.raises(ModelLoadError, match="there is no GPU"):
        new_cache(config, KeyValueCache(type="offloaded"), 8)
    config.layer_types = ["full_attention", "sliding_attention"]
    assert "this model has full_attention, sliding_attention" in str(unfit(config))
    with pytest.raises(ModelLoadError, match="layers with full attention"):
        new_cache(config, KeyValueCache(type="quantized"), 8)
    assert "heads whose size is a multiple of 8" in str(unfit(tiny.network(num_attention_heads=16).config))
    assert new_cache(config, KeyValueCache(), 8) is None


def test_what_passes_decide_adds_up(model: Path) -> None:
    """A later decision keeps the earlier ones; the file is plain JSON with what was decided only."""
    write_runtime(model, read_runtime(model), dtype="bfloat16")
    write_runtime(model, read_runtime(model), cache=KeyValueCache(type="static"))
    found = json.loads((model / RUNTIME).read_text(encoding="utf-8"))
    assert found["dtype"] == "bfloat16"
    assert found["cache"]["type"] == "static"
    assert "compile" not in found


def test_a_directory_that_says_nonsense(model: Path) -> None:
    """A damaged or foreign `runtime.json` is refused, not ignored (B22)."""
    (model / RUNTIME).write_text('{"run": "rm -rf"}', encoding="utf-8")
    with pytest.raises(ModelLoadError, match="does not say how to open a model"):
        answers(model)


def test_a_copy_leaves_the_manifest(tiny_model: Path, tmp_path: Path) -> None:
    """The manifest of an artifact stays behind when its files are copied into another."""
    copy_model(tiny_model, tmp_path / "one")
    (tmp_path / "one" / MANIFEST).write_text("{}", encoding="utf-8")
    copy_model(tmp_path / "one", tmp_path / "two")
    assert {file.name for file in (tmp_path / "two").iterdir()} == {file.name for file in tiny_model.iterdir()} - {
        MANIFEST
    }


def test_modes_are_of_inductor() -> None:
    """A mode that the backend does not have is refused with the remedy (E27)."""
    with pytest.raises(ValueError, match="is one of inductor's"):
        Compilation(backend="aot_eager", mode="max-autotune")
