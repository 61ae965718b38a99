"""The safe door to weights: what it refuses, before any library opens the directory."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import ModelLoadError, UnsafeModelError
from components.core.safeload import (
    FORBIDDEN_KEYS,
    FORBIDDEN_SUFFIXES,
    MAX_CONFIG_BYTES,
    REMEDIES,
    check_model_directory,
    fault_of,
    formats_in,
    load_adapter,
    load_causal_lm,
    load_tokenizer,
)
from tests import tiny


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (Path.touch, (self.canary,))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory that looks like a model; the weights are never read here."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "llama"}')
    (directory / "model.safetensors").write_bytes(b"\x00" * 16)
    return directory


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that exists once something ran that must not run."""
    return tmp_path / "canary"


def refused_everywhere(model: Path, error: type[Exception] = UnsafeModelError) -> None:
    """The check and all three loaders refuse the directory."""
    for door in (check_model_directory, load_tokenizer, load_causal_lm, lambda path: load_adapter(None, path)):
        with pytest.raises(error):
            door(model)


def test_good_directory_passes(model: Path) -> None:
    """Safetensors, plain config and tokenizer pass."""
    (model / "tokenizer.json").write_text("{}")
    check_model_directory(model)


def test_bomb_is_live(canary: Path) -> None:
    """Negative control: the canary does appear when such a pickle is read."""
    pickle.loads(pickle.dumps(Bomb(canary)))  # noqa: S301
    assert canary.exists()


@pytest.mark.parametrize("suffix", FORBIDDEN_SUFFIXES)
@pytest.mark.parametrize("folder", ["", "deep/er"])
def test_pickle_family(model: Path, canary: Path, suffix: str, folder: str) -> None:
    """Files that may hold pickles are refused wherever they lie, and are never read."""
    (model / folder).mkdir(parents=True, exist_ok=True)
    (model / folder / f"weights{suffix}").write_bytes(pickle.dumps(Bomb(canary)))
    refused_everywhere(model)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["weights.BIN", "modeling_x.PY", "a.Pkl"])
def test_suffixes_in_capitals(model: Path, name: str) -> None:
    """Another letter case of a suffix does not help."""
    (model / name).write_bytes(b"x")
    refused_everywhere(model)


def test_code(model: Path, canary: Path) -> None:
    """A Python file in a model directory is refused and not run."""
    (model / "modeling_llama.py").write_text(f"open({str(canary)!r}, 'w')")
    refused_everywhere(model)
    assert not canary.exists()


@pytest.mark.parametrize("key", FORBIDDEN_KEYS)
@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer_config.json", "generation_config.json", "adapter_config.json"]
)
def test_keys_that_fetch_code(model: Path, key: str, file: str) -> None:
    """Keys that make a loader fetch or run code are refused in every configuration file, at any depth."""
    for nested in ({key: "x"}, {"text_config": {key: "x"}}, {"layers": [{"a": [{key: None}]}]}):
        (model / file).write_text(json.dumps(nested))
        refused_everywhere(model)


def test_value_of_the_key_does_not_matter(model: Path) -> None:
    """`trust_remote_code: false` is refused too: nothing in a model's files decides about trust."""
    (model / "config.json").write_text('{"trust_remote_code": false}')
    refused_everywhere(model)


def test_link_out_of_the_directory(model: Path, tmp_path: Path) -> None:
    """A link that leaves the directory is refused; one inside is fine."""
    (tmp_path / "outside.safetensors").write_bytes(b"x")
    (model / "alias.safetensors").symlink_to("model.safetensors")
    check_model_directory(model)
    (model / "more.safetensors").symlink_to(tmp_path / "outside.safetensors")
    refused_everywhere(model)


def test_linked_folder(model: Path, tmp_path: Path) -> None:
    """A link to a folder outside is refused."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.py").write_text("")
    (model / "sub").symlink_to(tmp_path / "folder")
    refused_everywhere(model)


def test_dangling_link(model: Path) -> None:
    """A link to nothing outside is refused like any other."""
    (model / "gone.safetensors").symlink_to("/nonexistent/gone.safetensors")
    refused_everywhere(model)


def test_no_weights(model: Path) -> None:
    """A directory without weights is refused, naming what it holds."""
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"no weights: expected \*\.safetensors.*found config\.json"):
        check_model_directory(model)


def test_empty_and_missing(tmp_path: Path) -> None:
    """An empty and a missing directory, and a file in its place, are refused as such."""
    with pytest.raises(ModelLoadError, match="found nothing"):
        check_model_directory(tmp_path)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(ModelLoadError, match="does not exist"):
            check_model_directory(path)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_broken_config(model: Path, content: bytes) -> None:
    """A configuration that is no JSON is refused with its name."""
    (model / "config.json").write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"config\.json' is not valid JSON"):
        check_model_directory(model)


def test_endless_nesting(model: Path) -> None:
    """A configuration of nothing but brackets is refused, not a crash."""
    (model / "config.json").write_text("[" * 200_000 + "]" * 200_000)
    refused_everywhere(model, ModelLoadError)


def test_huge_config(model: Path) -> None:
    """A configuration file beyond the limit is refused before it is parsed."""
    (model / "config.json").write_text('{"a": "' + "x" * MAX_CONFIG_BYTES + '"}')
    refused_everywhere(model)


def test_weights_that_are_none(model: Path) -> None:
    """Bytes that are no safetensors end in a ModelLoadError, not in a traceback of some library."""
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(ModelLoadError, match="cannot load the model"):
        load_causal_lm(model)


def test_no_tokenizer(model: Path) -> None:
    """A model without tokenizer files ends in a ModelLoadError."""
    with pytest.raises(ModelLoadError, match="no usable tokenizer"):
        load_tokenizer(model)


def test_tiny_model_goes_through(tiny_model: Path) -> None:
    """The whole door works on a good model: tokenizer and weights in evaluation mode."""
    assert load_tokenizer(tiny_model).eos_token == "<|im_end|>"
    assert not load_causal_lm(tiny_model).training


def test_checking_imports_no_library() -> None:
    """The check itself reads JSON only: its module needs no ML library."""
    import subprocess

    code = "import sys, components.core.safeload; print({'torch', 'transformers', 'peft'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---------------------------------------------------------------- what is wrong, and what to do

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def configured(**changes: Any) -> Callable[[Path], object]:
    """A fault: other values in config.json."""

    def change(model: Path) -> None:
        file = model / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def cut(name: str, size: int) -> Callable[[Path], object]:
    """A fault: only the first bytes of a file (the last ones are missing, for a negative size)."""
    return lambda model: (model / name).write_bytes((model / name).read_bytes()[:size])


def half_of_the_shards(model: Path) -> None:
    """A fault: an index that names a file which was not copied."""
    (model / WEIGHTS).rename(model / "model-00001-of-00002.safetensors")
    shards = {
        "model.norm.weight": "model-00001-of-00002.safetensors",
        "lm_head.weight": "model-00002-of-00002.safetensors",
    }
    (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": shards}))


FAULTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "empty weights": (cut(WEIGHTS, 0), "corrupt", "header too small"),
    "cut in the header": (cut(WEIGHTS, 1000), "corrupt", "invalid header"),
    "cut at the end": (cut(WEIGHTS, -1000), "corrupt", "not fully covered"),
    "cut index": (lambda m: (half_of_the_shards(m), cut(INDEX, 20)(m)), "corrupt", "JSONDecodeError"),
    "cut config": (cut("config.json", 20), "corrupt", "not valid JSON"),
    "no config": (lambda m: (m / "config.json").unlink(), "missing", r"has no config\.json"),
    "no weights": (lambda m: (m / WEIGHTS).unlink(), "missing", "has no weights"),
    "no directory": (lambda m: shutil.rmtree(m), "missing", "does not exist"),
    "missing shard": (half_of_the_shards, "missing", "00002-of-00002"),
    "other name": (lambda m: (m / WEIGHTS).rename(m / "x.safetensors"), "missing", "no file named"),
    "other shapes": (configured(hidden_size=32), "incompatible", r"lm_head\.weight is \(259, 64\), not \(259, 32\)"),
    "more layers": (configured(num_hidden_layers=3), "incompatible", r"layers\.2\.\S+ is missing.* and 5 more"),
    "unknown type": (configured(model_type="nosuch"), "incompatible", "does not recognize this architecture"),
    "no language model": (configured(model_type="vit"), "incompatible", "ViTConfig"),
    "wrong value": (configured(hidden_size="x"), "incompatible", "hidden_size"),
    "unknown activation": (configured(hidden_act="nosuch"), "incompatible", "nosuch"),
    "no heads": (configured(num_attention_heads=0), "incompatible", "ZeroDivisionError"),
    "more than any memory": (configured(vocab_size=2**42), "out_of_memory", "allocate"),
}


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A good model that a test may damage; its path holds words that are signs of other faults."""
    return shutil.copytree(tiny_model, tmp_path / "cuda timeout")


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_have_a_type(copy: Path, fault: str) -> None:
    """Every real fault of a model directory is told with its type, what was found, and what to do (E29, E31)."""
    change, error_type, said = FAULTS[fault]
    change(copy)
    with pytest.raises(ModelLoadError, match=said) as caught:
        load_causal_lm(copy)
    assert caught.value.error_type == error_type
    assert str(caught.value).endswith(REMEDIES[caught.value.error_type])
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (str(again), again.error_type) == (str(caught.value), error_type)


def test_faults_of_devices_have_a_type(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch says of a GPU that is not there, or of an old driver, is a fault of the device (E29, E31)."""
    import torch
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: torch.zeros(1, device="cuda:99"))
    with pytest.raises(ModelLoadError, match="CUDA|NVIDIA") as caught:
        load_causal_lm(copy)
    assert caught.value.error_type == "device"
    assert str(caught.value).endswith(REMEDIES["device"])


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (MemoryError(), "out_of_memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"), "out_of_memory"),
        (OSError(12, "Cannot allocate memory"), "out_of_memory"),
        (RuntimeError("CUDA driver version is insufficient for CUDA runtime version"), "device"),
        (ConnectionError("reset by peer"), "network"),
        (TimeoutError("timed out"), "network"),
        (FileNotFoundError(2, "No such file or directory"), "missing"),
        (KeyError("x"), "incompatible"),
    ],
)
def test_errors_that_a_test_cannot_cause(error: Exception, fault: str) -> None:
    """Allocators, drivers and networks are told apart by what they say (E29)."""
    assert fault_of(error) == fault


TOKENIZERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (cut("tokenizer.json", 100), "corrupt"),
    "gone": (lambda m: [file.unlink() for file in m.glob("tokenizer*")], "missing"),
    "of something else": (lambda m: (m / "tokenizer.json").write_text("{}"), "incompatible"),
}


@pytest.mark.parametrize("fault", TOKENIZERS)
def test_faults_of_tokenizers(copy: Path, fault: str) -> None:
    """A tokenizer that is cut off, gone or something else is told apart (E29)."""
    change, error_type = TOKENIZERS[fault]
    change(copy)
    with pytest.raises(ModelLoadError, match="no usable tokenizer") as caught:
        load_tokenizer(copy)
    assert caught.value.error_type == error_type


ADAPTERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (cut("adapter_model.safetensors", -10), "corrupt"),
    "no weights": (lambda m: (m / "adapter_model.safetensors").rename(m / "x.safetensors"), "missing"),
    "no config": (lambda m: (m / "adapter_config.json").unlink(), "missing"),
    "unknown method": (lambda m: (m / "adapter_config.json").write_text('{"peft_type": "NO"}'), "incompatible"),
    "other base": (lambda m: None, "incompatible"),
}


@pytest.mark.parametrize("fault", ADAPTERS)
def test_faults_of_adapters(lab: Any, tmp_path: Path, fault: str) -> None:
    """An adapter that is cut off, incomplete or of another base is told apart (E29)."""
    change, error_type = ADAPTERS[fault]
    path = shutil.copytree(lab.trained.path, tmp_path / "adapter")
    change(path)
    with pytest.raises(ModelLoadError) as caught:
        load_adapter(tiny.network(hidden_size=32), path)
    assert caught.value.error_type == error_type


@pytest.mark.parametrize(
    ("names", "formats"),
    [
        (["model-00001-of-00002.safetensors", "config.json"], ["safetensors"]),
        (["adapter_config.json", "adapter_model.safetensors"], ["adapter"]),
        (["model.onnx", "model.onnx.data", "genai_config.json"], ["onnx"]),
        (["deep/er/Model.GGUF"], ["gguf"]),
        (["pytorch_model.bin"], ["pickle"]),
        (["weights.pt", "weights.pth"], ["pickle"]),
        (["model.onnx", "model.safetensors", "training_args.bin"], ["safetensors", "onnx", "pickle"]),
        (["readme.txt"], []),
    ],
)
def test_formats(tmp_path: Path, names: list[str], formats: list[str]) -> None:
    """The formats of a directory's weights are told by the files that are there (E32)."""
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert formats_in(tmp_path) == formats


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth"])
def test_pickles_only(model: Path, canary: Path, suffix: str) -> None:
    """A model that comes as pickles only is never read; the error says how to convert it (E32)."""
    (model / "model.safetensors").unlink()
    (model / f"pytorch_model{suffix}").write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(UnsafeModelError, match="pickles only.*save it with save_pretrained"):
        load_causal_lm(model)
    assert not canary.exists()


def test_threads_load_in_turns(tmp_path: Path) -> None:
    """Threads that load models with tied tables at once leave nothing behind: later loads find every weight (C39)."""
    from transformers import PreTrainedModel

    network, before = tiny.network(tie_word_embeddings=True), PreTrainedModel.tie_weights
    network.save_pretrained(tmp_path, safe_serialization=True)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(load_causal_lm, [tmp_path] * 24))
    assert PreTrainedModel.tie_weights is before
    again = load_causal_lm(tmp_path)
    assert again.lm_head.weight is again.model.embed_tokens.weight
