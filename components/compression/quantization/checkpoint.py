"""Model directories whose matrices are packed in few bits ("olive" layout), which the ONNX builder takes as they are.

Beside each packed matrix `X` stand `X.qweight` (outputs, packed inputs; low bits first), `X.scales` (outputs, groups)
in float32 and `X.qzeros` (outputs, packed groups); `quantization_config` in config.json names bits and groups, with
`overrides` where a layer differs. The same directory opens in PyTorch through `load_quantized`, in float32.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from components.compression.quantization.grid import Codes, Grid
from components.core.artifacts import write_json
from components.core.errors import ModelLoadError
from components.core.safeload import BUILDING, check_model_directory, explained

WEIGHTS = "model.safetensors"
PARTS = ("qweight", "scales", "qzeros")


def save_quantized(source: Path, network: Any, codes: Mapping[str, Codes], out: Path) -> dict[str, Any]:
    """Write `network` with the matrices of `codes` (by module name) packed; what else belongs to the model comes from
    `source`. Returns figures: bits per weight of the packed matrices, their bytes."""
    tensors = {name: value.detach().float() for name, value in network.state_dict().items()}
    tied = getattr(network, "_tied_weights_keys", None) or {}
    for name, found in codes.items():
        tensors.pop(f"{name}.weight")
        tensors |= {f"{name}.{part}": value for part, value in packed(found).items()}
    if network.config.tie_word_embeddings:
        # one matrix under two names: packed under the head's, in full under the embedding's
        for head, embedding in tied.items():
            tensors.pop(embedding if head.removesuffix(".weight") in codes else head, None)
    copy_beside(source, out)
    save_file({name: value.contiguous() for name, value in tensors.items()}, out / WEIGHTS, {"format": "pt"})
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    write_json(out / "config.json", {**config, "quantization_config": description(codes)})
    weights, size = sum(found.codes.numel() for found in codes.values()), sum(found.size for found in codes.values())
    return {"bits_per_weight": round(size * 8 / weights, 3), "packed_bytes": size}


def copy_beside(source: Path, out: Path) -> None:
    """Everything of a model directory but its weights: configuration, tokenizer, chat template."""
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix not in (".safetensors", ".bin") and file.name != "manifest.json":
            shutil.copyfile(file, out / file.name)
    (out / "model.safetensors.index.json").unlink(missing_ok=True)


def description(codes: Mapping[str, Codes]) -> dict[str, Any]:
    """The `quantization_config` of config.json: the commonest grid, and what differs from it."""
    grids = [(found.grid.bits, found.grid.group) for found in codes.values()]
    bits, group = max(set(grids), key=lambda grid: (grids.count(grid), grid))
    overrides = {
        name: {"bits": found.grid.bits, "group_size": found.grid.group}
        for name, found in codes.items()
        if (found.grid.bits, found.grid.group) != (bits, group)
    }
    return {
        "quant_method": "olive",
        "bits": bits,
        "group_size": group,
        "symmetric": False,
        "lm_head": "lm_head" in codes,
        "embeds": False,
        "tie_word_embeddings": False,
        "overrides": overrides,
    }


def packed(codes: Codes) -> dict[str, Any]:
    """The tensors of a packed matrix, by the last part of their name."""
    return {
        "qweight": _pack(codes.codes, codes.grid.bits),
        "scales": codes.scales,
        "qzeros": _pack(codes.zeros, codes.grid.bits),
    }


def _pack(values: Any, bits: int) -> Any:
    """(rows, n) values of `bits` bits -> (rows, bytes), low bits first; an odd end is filled with zeros."""
    per_byte = 8 // bits
    if per_byte == 1:
        return values.contiguous()
    values = torch.nn.functional.pad(values, (0, -values.shape[1] % per_byte)).unflatten(1, (-1, per_byte))
    return sum(values[..., place] << (bits * place) for place in range(per_byte)).to(torch.uint8)


def _unpack(values: Any, bits: int, count: int) -> Any:
    mask = 2**bits - 1
    parts = [(values >> (bits * place)) & mask for place in range(8 // bits)]
    return torch.stack(parts, -1).flatten(1)[:, :count]


def is_quantized(path: Path) -> bool:
    """Whether the directory holds packed matrices in this layout."""
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    return bool(config.get("quantization_config", {}).get("quant_method") == "olive")


def read_codes(path: Path) -> tuple[dict[str, Codes], dict[str, Any]]:
    """The packed matrices by module name, and all other tensors, of a checked directory."""
    check_model_directory(path)
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if not is_quantized(path):
        raise ModelLoadError(f"the model in '{path}' is not quantized: its config.json has no such section")
    told = config["quantization_config"]
    tensors: dict[str, Any] = {}
    with explained(f"cannot read the weights in '{path}'", path):
        for file in sorted(path.glob("*.safetensors")):
            tensors |= load_file(file)
    names = [name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")]
    codes = {name: _codes(told | told["overrides"].get(name, {}), *_taken(tensors, name)) for name in names}
    return codes, tensors


def _taken(tensors: dict[str, Any], name: str) -> list[Any]:
    missing = [part for part in PARTS if f"{name}.{part}" not in tensors]
    if missing:
        raise ModelLoadError(f"the packed matrix '{name}' has no {' and no '.join(missing)}; write the model again")
    return [tensors.pop(f"{name}.{part}") for part in PARTS]


def _codes(told: Mapping[str, Any], qweight: Any, scales: Any, qzeros: Any) -> Codes:
    grid = Grid(told["bits"], told["group_size"])
    groups = scales.shape[1]
    return Codes(grid, _unpack(qweight, grid.bits, groups * grid.group), scales, _unpack(qzeros, grid.bits, groups))


def load_quantized(path: Path) -> Any:
    """The network of such a directory in float32, in evaluation mode: what the packed weights stand for."""
    codes, tensors = read_codes(path)
    return network_of(path, tensors | {f"{name}.weight": found.dequantize() for name, found in codes.items()})


def network_of(path: Path, tensors: dict[str, Any]) -> Any:
    """The network that a checked directory's config.json describes, with these weights, in float32."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    del config.quantization_config
    with BUILDING:
        network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if config.tie_word_embeddings:
        for head, embedding in (getattr(network, "_tied_weights_keys", None) or {}).items():
            tensors[head] = tensors[embedding] = tensors.get(head, tensors.get(embedding))
    gaps, unexpected = network.load_state_dict(tensors, strict=False)
    if gaps or unexpected:
        raise ModelLoadError(
            f"the weights in '{path}' do not fit its config.json: missing {gaps[:4]}, unknown {list(unexpected)[:4]}"
        )
    return network.eval()
