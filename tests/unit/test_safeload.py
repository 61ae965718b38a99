"""The safe door to weights: what it refuses, before any library opens the directory."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import ModelLoadError, UnsafeModelError
from components.core.safeload import (
    FORBIDDEN_KEYS,
    FORBIDDEN_SUFFIXES,
    MAX_CONFIG_BYTES,
    check_model_directory,
    load_adapter,
    load_causal_lm,
    load_tokenizer,
)


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
