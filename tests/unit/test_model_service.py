"""The model service: what is opened, on what, how often, and what is saved."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from components.core.artifacts import hash_directory, hash_json
from components.core.errors import ConfigError, ModelLoadError, TrainingError
from components.core.events import Event, EventBus, ModelLoaded, PassStarted
from components.core.machine import machine
from components.core.recipe import parse_recipe
from components.core.safeload import load_causal_lm, load_tokenizer
from components.interfaces import StepContext
from components.services.model import ModelService, _described
from components.services.optimization import OptimizationService
from tests import tiny
from tests.conftest import Lab

CPU = {"dtype": "float32", "device": "cpu"}


@pytest.fixture
def models(lab: Lab) -> ModelService:
    return ModelService(lab.workspace)


@pytest.fixture
def loaded(lab: Lab) -> Iterator[list[ModelLoaded]]:
    """What is opened in a test."""
    told: list[ModelLoaded] = []
    off = lab.workspace.bus.on(ModelLoaded, told.append)
    yield told
    off()


def logits(network: Any) -> Any:
    with torch.inference_mode():
        return network(input_ids=torch.tensor([[5, 6, 7]], device=network.device)).logits.float().cpu()


def test_nothing_is_loaded_before_it_is_asked_for(lab: Lab, models: ModelService, loaded: list[ModelLoaded]) -> None:
    """A model is opened when it is asked for and not again, and the bus is told once (B13, E17)."""
    assert loaded == []
    network = models.load(lab.base, **CPU)
    assert models.load(lab.base, **CPU) is network
    assert [(event.kind, event.backend, event.seconds > 0) for event in loaded] == [("model", "torch", True)]
    assert loaded[0].subject == lab.base.meta["name"]
    assert torch.equal(logits(network), logits(load_causal_lm(lab.base.path)))


def test_what_a_model_is_like_is_told(lab: Lab) -> None:
    """A fetched model's manifest says its family, sizes and sampling; they are no part of its digest (E17)."""
    profile = lab.base.meta["profile"]
    assert (profile["family"], profile["sizes"]["hidden_size"]) == ("llama", 64)
    assert profile["generation"]
    assert lab.base.digest == hash_json(hash_directory(lab.base.path))


def test_a_model_that_cannot_be_described(tmp_path: Path) -> None:
    """A model without a configuration has no profile; it is refused by who opens it, not here."""
    (tmp_path / "config.json").write_text("[]")
    assert _described(tmp_path, "") == {}
    (tmp_path / "config.json").unlink()
    assert _described(tmp_path, "") == {}


def test_forced(lab: Lab, models: ModelService, loaded: list[ModelLoaded]) -> None:
    """`force_reload` and `unload` end in a fresh network (E17)."""
    first = models.load(lab.base, **CPU)
    second = models.load(lab.base, **CPU, force_reload=True)
    models.unload()
    third = models.load(lab.base, **CPU)
    assert len({id(first), id(second), id(third)}) == len(loaded) == 3


def test_ways_are_kept_apart(lab: Lab, loaded: list[ModelLoaded]) -> None:
    """Another dtype, adapter or activation checkpointing is another network (E17)."""
    models = ModelService(lab.workspace, ModelService.Config(keep=4))
    plain, half = models.load(lab.base, **CPU), models.load(lab.base, dtype="bfloat16", device="cpu")
    adapted = models.load(lab.base, **CPU, adapter=lab.trained)
    checkpointing = models.load(lab.base, **CPU, activation_checkpointing=True)
    assert (plain.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert (plain.is_activation_checkpointing, checkpointing.is_activation_checkpointing) == (False, True)
    assert not torch.equal(logits(plain), logits(adapted))
    assert models.load(lab.base, **CPU) is plain
    assert len(loaded) == 4


def test_only_some_are_kept(lab: Lab, loaded: list[ModelLoaded]) -> None:
    """Of more networks than `keep`, the one goes that was not used for longest (E17)."""
    models = ModelService(lab.workspace, ModelService.Config(keep=2))
    first = models.load(lab.base, **CPU)
    models.load(lab.merged, **CPU)
    assert models.load(lab.base, **CPU) is first
    models.load(lab.trained, **CPU)
    assert models.load(lab.base, **CPU) is first
    assert len(loaded) == 3
    models.load(lab.merged, **CPU)
    assert len(loaded) == 4


def test_room_is_made_before(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old network is let go before the new one is read: memory need not hold both (E17)."""
    models, seen = ModelService(lab.workspace, ModelService.Config(keep=1)), list[int]()

    def load(path: Path, *_: Any) -> Any:
        seen.append(len(models._networks))
        return tiny.network()

    monkeypatch.setattr("components.services.model.load_causal_lm", load)
    models.load(lab.base, **CPU)
    models.load(lab.merged, **CPU)
    assert seen == [0, 0]


def test_an_adapter_brings_its_base(lab: Lab, models: ModelService, loaded: list[ModelLoaded]) -> None:
    """An adapter alone is opened on its own base, and is the same as base and adapter (E17)."""
    alone = models.load(lab.trained, **CPU)
    assert models.load(lab.base, **CPU, adapter=lab.trained) is alone
    assert [event.kind for event in loaded] == ["adapter"]
    torch.testing.assert_close(logits(alone), logits(models.load(lab.merged, **CPU)), atol=1e-4, rtol=1e-4)


def test_an_adapter_of_another_model(lab: Lab, models: ModelService) -> None:
    """An adapter is refused on any model but the one it was trained on, even of the same shapes (E29)."""
    with pytest.raises(ModelLoadError, match=r"was trained on model \w+, not on \w+; load the adapter alone") as caught:
        models.load(lab.merged, adapter=lab.trained)
    assert caught.value.error_type == "incompatible"


def test_other_kinds(lab: Lab, models: ModelService) -> None:
    """An exported model is no PyTorch network; the error names what runs it (E32)."""
    with pytest.raises(ModelLoadError, match="artifact of kind 'onnx'.*run it with"):
        models.load(lab.fp32)


def test_by_name(lab: Lab, models: ModelService, tiny_model: Path) -> None:
    """A name is fetched into the store first: a directory here, or the hub (E17)."""
    assert torch.equal(logits(models.load(str(tiny_model), **CPU)), logits(models.load(lab.base, **CPU)))


@pytest.mark.parametrize(("name", "error_type"), [("nobody/no-such-model", "network"), ("no such/dir/here", "missing")])
def test_a_name_that_leads_nowhere(models: ModelService, name: str, error_type: str) -> None:
    """A model that is nowhere, and a hub that is out of reach, are told apart (E29, E31)."""
    with pytest.raises(ModelLoadError, match="give a local directory, or go online once") as caught:
        models.load(name)
    assert caught.value.error_type == error_type


# ---------------------------------------------------------------- where and how


def test_auto(lab: Lab, models: ModelService) -> None:
    """`auto` is the GPU if there is one, and the dtype that is fast there (E18)."""
    network = models.load(lab.base)
    if torch.cuda.is_available():
        assert network.device == torch.device("cuda:0")
    else:
        assert (str(network.device), str(network.dtype)) == ("cpu", f"torch.{machine().dtype()}")


def test_names_of_one_device(lab: Lab, models: ModelService, monkeypatch: pytest.MonkeyPatch) -> None:
    """auto, cuda and cuda:0 are one device, so one network; where bfloat16 is slow, `auto` is float16 (E18)."""
    opened: list[Any] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(ModelService, "_opened", lambda self, base, adapter, way: opened.append(way))
    for device in ("auto", "cuda", "cuda:0"):
        models.load(lab.base, device=device)
    assert [(way.device, way.dtype) for way in opened] == [("cuda:0", "float16")]


def test_a_device_that_is_not_there(lab: Lab, models: ModelService, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is not there is refused with the ones that are, before any weights are read (E18, E29)."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("cuda:2", "tpu"):
        with pytest.raises(ModelLoadError, match=f"no device '{device}' here; take one of auto, cpu, cuda:0") as caught:
            models.load(lab.base, device=device)
        assert caught.value.error_type == "device"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ModelLoadError, match="take one of auto, cpu$"):
        models.load(lab.base, device="cuda")


def test_an_unknown_dtype(lab: Lab, models: ModelService) -> None:
    """A dtype that models are not computed in is refused with the ones that they are (E18)."""
    with pytest.raises(ConfigError, match="'int3' is none of auto, float32"):
        models.load(lab.base, dtype="int3")


@pytest.mark.parametrize("quantize", ["int4", "int8"])
def test_few_bits(lab: Lab, models: ModelService, quantize: Any) -> None:
    """Weights in few bits are another network, of the same shape and near the same answers (E17)."""
    pytest.importorskip("bitsandbytes")
    plain, small = models.load(lab.base, device="cpu"), models.load(lab.base, device="cpu", quantize=quantize)
    assert small.is_quantized
    assert small.get_memory_footprint() < plain.get_memory_footprint()
    assert logits(small).shape == logits(plain).shape


def test_a_damaged_model_is_not_kept(lab: Lab, models: ModelService, tmp_path: Path) -> None:
    """A model that cannot be loaded leaves no trace: the next attempt reads it again (E17, E29)."""
    path = shutil.copytree(lab.base.path, tmp_path / "damaged")
    weights = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(weights[:-9])
    damaged = lab.base.model_copy(update={"path": path, "digest": "d" * 64})
    with pytest.raises(ModelLoadError) as caught:
        models.load(damaged, **CPU)
    assert caught.value.error_type == "corrupt"
    (path / "model.safetensors").write_bytes(weights)
    assert models.load(damaged, **CPU)


# ---------------------------------------------------------------- save and optimize


def test_saved_and_opened(lab: Lab, models: ModelService) -> None:
    """What is saved is a committed model; saving the same again adds nothing, and it opens alike (B13)."""
    network, tokenizer = tiny.network(seed=5), load_tokenizer(lab.base.path)
    saved = models.save(network, tokenizer, "mine")
    assert (saved.kind, saved.stage, saved.meta["name"]) == ("model", "model", "mine")
    assert models.save(network, tokenizer, "mine") == saved
    assert lab.workspace.store.find("model", saved.key) == saved
    assert torch.equal(logits(models.load(saved, **CPU)), logits(network))
    assert load_tokenizer(saved.path).eos_token == tokenizer.eos_token
    assert models.save(tiny.network(seed=6), tokenizer, "mine").digest != saved.digest
    assert not list(lab.workspace.root.glob(".saving-*"))


def test_an_adapter_is_merged_first(lab: Lab, models: ModelService) -> None:
    """A network with an adapter on it is refused, with what to save instead (B13)."""
    tokenizer = load_tokenizer(lab.base.path)
    network = models.load(lab.trained, **CPU, force_reload=True)
    with pytest.raises(ConfigError, match="merge_and_unload"):
        models.save(network, tokenizer, "adapted")
    merged = models.save(network.merge_and_unload(), tokenizer, "adapted")
    torch.testing.assert_close(logits(models.load(merged, **CPU)), logits(models.load(lab.merged, **CPU)))


def test_named_passes(lab: Lab) -> None:
    """Passes run in the order of their names, each with its own configuration where one is given (B14)."""
    told: list[Event] = []
    off = lab.workspace.bus.on(PassStarted, told.append)
    steps: list[Any] = ["merge_adapter", {"type": "onnx", "precision": "fp32"}]
    exported = OptimizationService(lab.workspace).named(steps, lab.trained, lab.plan.seed)
    off()
    assert exported.digest == lab.fp32.digest
    assert told == []  # the recipe's own chain did this work already


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ([], "at least 1 item"),
        (["onx"], "unknown pass 'onx'; did you mean 'onnx'"),
        (["onnx"], "pass 'onnx' takes model or quantized, but the step before it gives adapter"),
        (["merge_adapter", "merge_adapter"], "pass 'merge_adapter' takes adapter, but the step before it gives model"),
        ([{"type": "onnx", "precison": "fp32"}], "unknown key 'precison'; did you mean 'precision'"),
    ],
)
def test_passes_that_do_not_fit(lab: Lab, steps: list[Any], problem: str) -> None:
    """A pass that is unknown, wrongly configured or of another kind of artifact raises before any work (B14)."""
    with pytest.raises(ConfigError, match=problem):
        OptimizationService(lab.workspace).named(steps, lab.trained)


def test_a_pass_that_fails(lab: Lab, tmp_path: Path) -> None:
    """A pass that fails raises its own error (B14)."""
    strange = shutil.copytree(lab.merged.path, tmp_path / "strange")
    config = (strange / "config.json").read_text().replace("LlamaForCausalLM", "StrangeForCausalLM")
    (strange / "config.json").write_text(config)
    source = lab.merged.model_copy(update={"path": strange, "digest": "5" * 64})
    with pytest.raises(ModelLoadError, match="the ONNX builder failed"):
        OptimizationService(lab.workspace).named([{"type": "onnx", "exporter": "builder"}], source)


# ---------------------------------------------------------------- memory as a promise


def trained_within(limit: str, lab: Lab, tmp_path: Path) -> Any:
    step = {**tiny.recipe(tmp_path, lab.base.path)["train"][0], "guards": {"max_memory": limit}}
    spec = parse_recipe(tiny.recipe(tmp_path, lab.base.path, train=[step])).train[0]
    return spec.build().train(lab.base, lab.dataset, tmp_path / "out", StepContext(17, EventBus()))


def test_memory_is_a_promise(lab: Lab, tmp_path: Path) -> None:
    """Training that takes more memory than the recipe allows stops and names the figure and what lowers it (C31)."""
    (tmp_path / "out").mkdir()
    with pytest.raises(TrainingError, match=r"of memory by step 1, and guards\.max_memory is 1\.0 MB") as caught:
        trained_within("1MB", lab, tmp_path)
    assert caught.value.cause.endswith("guards.max_memory is 1.0 MB")
    assert caught.value.remedy.startswith("lower batch_size")


def test_memory_below_the_promise(lab: Lab, tmp_path: Path) -> None:
    """Training below the limit goes through (C31)."""
    (tmp_path / "out").mkdir()
    assert trained_within("500 GiB", lab, tmp_path)["steps"] == 3


@pytest.mark.parametrize(("limit", "said"), [("2 potatoes", "unknown unit 'potatoes'"), ("0", "greater than 0")])
def test_a_limit_that_is_none(lab: Lab, tmp_path: Path, limit: str, said: str) -> None:
    """A limit without a known unit, or of nothing, is refused with its key (C31)."""
    with pytest.raises(ConfigError, match=f"max_memory: .*{said}"):
        trained_within(limit, lab, tmp_path)
