"""Passes that change how a model computes and what it holds: what they measure, what they choose, what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.compression import measuring
from components.compression.caches import device_of
from components.compression.measuring import Timing, footprint, timings
from components.compression.opening import KeyValueCache, read_runtime
from components.core.artifacts import Artifact
from components.core.errors import ArtifactError, ModelLoadError
from components.core.events import EventBus
from components.core.kinds import registry
from components.interfaces import StepContext
from tests import tiny

FAST = {"rounds": 1, "tokens": 4}


@pytest.fixture
def model(tiny_model: Path) -> Artifact:
    size = sum(file.stat().st_size for file in tiny_model.iterdir())
    return Artifact(path=tiny_model, kind="model", stage="", key="", digest="", parents={}, meta={}, size=size)


def applied(name: str, model: Artifact, out: Path, **config: Any) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    facts: dict[str, Any] = registry.create("pass", name, **config).apply(model, {}, out, StepContext(17, EventBus()))
    return facts


def speeds(monkeypatch: pytest.MonkeyPatch, before: float, after: float, warmup: float = 5.0) -> None:
    """Seconds a token that are found, whatever the machine does today."""

    def found(models: Any, tokens: int, rounds: int) -> dict[str, Timing]:
        first, second = models
        return {first: Timing(before, before, before), second: Timing(after, after, after, warmup)}

    monkeypatch.setattr(measuring, "timings", found)


# ---------------------------------------------------------------- half precision


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_cast(model: Artifact, tmp_path: Path, dtype: str) -> None:
    """Half the bytes, opened in that dtype, with the measured distance to float32 (C31, C32, E23)."""
    facts = applied("cast", model, tmp_path, dtype=dtype)
    weights = (tmp_path / "model.safetensors").stat().st_size
    assert weights < 0.51 * (model.path / "model.safetensors").stat().st_size
    assert read_runtime(tmp_path).dtype == dtype
    assert 0 < facts["probe_mean_kl"] < 0.01
    assert facts["probe_top1_agreement"] > 0.9


def test_cast_refuses_what_overflows(tmp_path: Path) -> None:
    """float16 that cannot hold the model's numbers is refused, with the dtype that can (C32)."""
    import torch

    network = tiny.network()
    with torch.no_grad():
        network.model.layers[0].mlp.down_proj.weight.mul_(1e7)
    network.save_pretrained(tmp_path / "large")
    tiny.tokenizer().save_pretrained(tmp_path / "large")
    source = Artifact(path=tmp_path / "large", kind="model", stage="", key="", digest="", parents={}, meta={}, size=1)
    with pytest.raises(ArtifactError, match="overflow; take dtype: bfloat16"):
        applied("cast", source, tmp_path / "out", dtype="float16")


def test_cast_refuses_what_costs_too_much(model: Artifact, tmp_path: Path) -> None:
    """A distance above the limit is refused, and told."""
    with pytest.raises(ArtifactError, match=r"nats a token from float32 \(at most 1e-07 allowed\)"):
        applied("cast", model, tmp_path, max_mean_kl=1e-7)


# ---------------------------------------------------------------- attention, compilation


def test_attention_keeps_the_faster_one(model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The implementation that took less time is written down, with the figures of both (C32)."""
    taken = iter([Timing(1, 1, 0.9), Timing(1, 1, 0.4)])
    monkeypatch.setattr(measuring, "timings", lambda *_: {"now": Timing(1, 1, 1), "then": next(taken)})
    facts = applied("attention", model, tmp_path)
    assert facts == {"attention": "sdpa", "time_share_eager": 0.9, "time_share_sdpa": 0.4}
    assert read_runtime(tmp_path).attention == "sdpa"


def test_attention_that_is_said(model: Artifact, tmp_path: Path) -> None:
    """What is said is not measured."""
    assert applied("attention", model, tmp_path, implementation="eager") == {"attention": "eager"}
    assert read_runtime(tmp_path).attention == "eager"


def test_compiling_that_brings_nothing(model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled model that is no faster is refused with both figures, unless it is forced (E27, C32)."""
    speeds(monkeypatch, before=0.010, after=0.010, warmup=40)
    with pytest.raises(ArtifactError, match=r"brings 1\.00 times the speed here, and 40 s of warm-up"):
        applied("torch_compile", model, tmp_path / "refused")
    facts = applied("torch_compile", model, tmp_path / "forced", force=True)
    assert (facts["speedup"], facts["paid_back_after_tokens"]) == (1.0, None)


def test_compiling_tells_warm_up_apart(model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-up is no part of the speed, and the facts say when it is paid back (E27)."""
    speeds(monkeypatch, before=0.020, after=0.010, warmup=30)
    facts = applied("torch_compile", model, tmp_path, mode="max-autotune")
    assert (facts["speedup"], facts["warmup_s"], facts["paid_back_after_tokens"]) == (2.0, 30, 3000)
    assert (facts["tokens_per_s_before"], facts["tokens_per_s"]) == (50, 100)
    runtime = read_runtime(tmp_path)
    assert runtime.compile is not None
    assert (runtime.compile.backend, runtime.compile.mode, runtime.cache.type) == ("inductor", "max-autotune", "static")


def test_timings_are_real(model: Artifact) -> None:
    """Models take turns; every figure is a time that passed."""
    found = timings({"a": model, "b": model}, tokens=4, rounds=2)
    for timing in found.values():
        assert 0 < timing.token < timing.total
        assert 0 < timing.first < timing.total
        assert timing.warmup >= 0


# ---------------------------------------------------------------- memory


def test_memory_that_misses_its_target(model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reduction that is not reached fails the pass, and both figures are told (C31)."""
    monkeypatch.setattr(measuring, "footprint", lambda found, _: {"model": 900 if found.path == tmp_path else 1000})
    with pytest.raises(ArtifactError, match=r"takes 900 B at its peak where it took 1\.0 kB: 10% less, and 30% was"):
        applied("memory", model, tmp_path)
    facts = applied("memory", model, tmp_path, target_memory_reduction=0.05)
    assert facts["memory_reduction"] == 0.1
    assert (facts["memory_model_before"], facts["memory_model"]) == (1000, 900)


def test_memory_applies_its_measures(model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both measures that were named are in the artifact that was measured (C31, C37)."""
    monkeypatch.setattr(measuring, "footprint", lambda found, _: {"model": 500 if found.path == tmp_path else 1000})
    applied("memory", model, tmp_path, dtype="float16", cache={"type": "quantized", "bits": 4})
    runtime = read_runtime(tmp_path)
    assert (runtime.dtype, runtime.cache.type, runtime.cache.bits) == ("float16", "quantized", 4)


def test_a_footprint_is_that_of_a_process(model: Artifact) -> None:
    """Peak memory is measured in a fresh process, apart from what its libraries take (C31)."""
    found = footprint(model, tokens=2)
    assert found["peak"] == found["libraries"] + found["model"]
    assert found["libraries"] > 50_000_000
    assert 0 < found["model"] < 500_000_000


# ---------------------------------------------------------------- caches


def test_a_cache_outside_of_no_gpu(model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU `offloaded` is refused before weights are read, with the reason and what to take instead (C37)."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("components.optimization.kv_cache.load_causal_lm", None)
    with pytest.raises(ModelLoadError) as caught:
        applied("kv_cache", model, tmp_path, cache="offloaded")
    assert "there is no GPU here: they are in main memory already; take cache: quantized" in str(caught.value)
    assert caught.value.error_type == "device"


class Stream:
    """Stands for a stream of a GPU: what is asked of it is done at once."""

    def __enter__(self) -> None: ...

    def __exit__(self, *exc: object) -> None: ...

    def wait_stream(self, other: Stream) -> None: ...


def test_a_cache_outside_of_a_gpu(model: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a GPU the network is on it; its cache, which moves layers out, holds what the growing one holds (C37)."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.Stream", Stream)
    monkeypatch.setattr("torch.cuda.default_stream", lambda device: Stream())
    assert [device_of(cache) for cache in ("offloaded", "quantized", "dynamic")] == ["cuda", "cpu", "cpu"]
    moved: list[int] = []
    monkeypatch.setattr("transformers.cache_utils.DynamicLayer.offload", lambda layer: moved.append(id(layer)))
    step = registry.create("pass", "kv_cache", cache="offloaded", length=16)
    choices = {"before": KeyValueCache(), "after": KeyValueCache(type="offloaded")}
    found = step._memory(model.path, choices, "cpu")
    assert found["before"] == found["after"] > 0
    assert len(moved) == 4  # each of two layers, for the prompt and for the last token


# ---------------------------------------------------------------- ONNX Runtime


def test_options_of_the_runtime(model: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest options are written, if they gain enough; the model's own configuration is kept (C38)."""
    plain = {"model": {"decoder": {"filename": "model.onnx", "session_options": {"log_id": "x"}}}, "search": {}}
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "genai_config.json").write_text(json.dumps(plain), encoding="utf-8")
    source = model.model_copy(update={"path": tmp_path / "source", "kind": "onnx"})
    found = {"as it is": ({}, 0.010), "2 threads": ({"intra_op_num_threads": 2}, 0.005)}
    for gain, kept in ((0.02, "2 threads"), (1.5, "as it is")):
        step = registry.create("pass", "runtime_options", min_gain=gain)
        monkeypatch.setattr(type(step), "_measured", lambda *_: found)
        facts = step.apply(source, {}, tmp_path / kept, StepContext(17, EventBus()))
        assert facts["kept"] == kept
        written = source.model_copy(update={"path": tmp_path / kept}).read_json("genai_config.json")
        assert written["model"]["decoder"]["session_options"] == {"log_id": "x", **found[kept][0]}
        assert facts["tokens_per_s_of"] == {"as it is": 100, "2 threads": 200}
