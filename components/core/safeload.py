"""The one safe door to weights: safetensors or ONNX, a config.json of plain architecture facts, no code, no pickles.

`trust_remote_code=False` has been bypassed several times (CVE-2026-4372, CVE-2026-5241), so a directory is checked
here before any library opens it. Nothing else in the project calls `from_pretrained` on a directory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.core.errors import ModelLoadError, UnsafeModelError

WEIGHTS = (".safetensors", ".onnx")
FORBIDDEN_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".h5", ".msgpack", ".npy", ".npz")
FORBIDDEN_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines", "_attn_implementation_internal")
MAX_CONFIG_BYTES = 1_000_000


def check_model_directory(path: Path) -> None:
    """Refuse a directory that could run code or that holds no safe weights. Reads JSON only."""
    if not path.is_dir():
        raise ModelLoadError(f"model directory '{path}' does not exist")
    files = [p for p in path.rglob("*") if p.is_file() or p.is_symlink()]
    for file in files:
        _check_file(file, path)
    if not any(file.suffix.lower() in WEIGHTS for file in files):
        raise ModelLoadError(
            f"model directory '{path}' has no weights: expected *.safetensors (or *.onnx), "
            f"found {', '.join(sorted(f.name for f in files)[:8]) or 'nothing'}"
        )


def _check_file(file: Path, root: Path) -> None:
    if not file.resolve().is_relative_to(root.resolve()):
        raise UnsafeModelError(f"'{file}' is a link that leaves the model directory; copy the file instead")
    suffix = file.suffix.lower()
    if suffix in FORBIDDEN_SUFFIXES:
        raise UnsafeModelError(
            f"'{file}' can run code when it is loaded (pickle family); convert the weights to safetensors and remove it"
        )
    if suffix == ".py":
        raise UnsafeModelError(f"'{file}': a model directory must not bring code; remove it")
    if suffix == ".json":
        _check_json(file)


def _check_json(file: Path) -> None:
    configures_loading = "config" in file.name
    if configures_loading and file.stat().st_size > MAX_CONFIG_BYTES:
        raise UnsafeModelError(f"'{file}' has {file.stat().st_size:,} bytes; at most {MAX_CONFIG_BYTES:,} are read")
    if not configures_loading:
        return
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelLoadError(f"'{file}' is not valid JSON: {error}") from error
    for key in FORBIDDEN_KEYS:
        if _has_key(content, key):
            raise UnsafeModelError(f"'{file}' sets '{key}', which makes a loader fetch or run code; remove the key")


def _has_key(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_has_key(item, key) for item in value.values())
    if isinstance(value, list):
        return any(_has_key(item, key) for item in value)
    return False


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a checked model directory."""
    check_model_directory(path)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"no usable tokenizer in '{path}': {error}") from error


def load_causal_lm(path: Path, dtype: str = "float32", quantization: Any = None) -> Any:
    """A causal language model from a checked directory, in evaluation mode; `quantization`: of its weights, on loading."""
    check_model_directory(path)
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            **({"quantization_config": quantization} if quantization else {}),
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelLoadError(f"cannot load the model in '{path}': {error}") from error
    return model.eval()


def load_adapter(model: Any, path: Path) -> Any:
    """Put a PEFT adapter from a checked directory on a loaded model."""
    check_model_directory(path)
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        return PeftModel.from_pretrained(model, path, is_trainable=False, local_files_only=True).eval()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelLoadError(f"the adapter in '{path}' does not fit this model: {error}") from error
