"""Matrices in few bits as other servers store them: compressed-tensors' `pack-quantized` and GPTQ's, written and read.

Both put codes into int32 words, low bits first, and differ in what runs along the words:

    compressed-tensors   X.weight_packed (outputs, words of inputs), X.weight_scale (outputs, groups),
                         X.weight_zero_point (words of outputs, groups), X.weight_shape
    gptq                 X.qweight (words of inputs, outputs), X.scales (groups, outputs),
                         X.qzeros (groups, words of outputs; each zero point less one), X.g_idx (inputs)

Sources: compressors/pack_quantized of compressed-tensors 0.20, `QuantLinear` of AutoGPTQ and GPTQModel.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file

from components.compression.quantization.checkpoint import copy_beside
from components.compression.quantization.grid import Codes, Grid, encode
from components.core.artifacts import write_json
from components.core.errors import ConfigError, ModelLoadError
from components.core.safeload import check_model_directory, explained

FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that vLLM computes as one, so that they need one grid."""


def words(values: Any, bits: int) -> Any:
    """(rows, n) unsigned values -> (rows, ceil(n * bits / 32)) int32, low bits first."""
    each = 32 // bits
    values = torch.nn.functional.pad(values.long(), (0, -values.shape[1] % each)).unflatten(1, (-1, each))
    shifts = torch.arange(each) * bits
    # the highest value may set the sign of the word
    return (values << shifts).sum(-1).to(torch.uint32).view(torch.int32)


def unwords(packed: Any, bits: int, count: int) -> Any:
    """The first `count` values of each row of words, as uint8."""
    shifts = torch.arange(32 // bits) * bits
    values = (packed.long()[..., None] >> shifts) & (2**bits - 1)
    return values.flatten(1)[:, :count].to(torch.uint8)


class Layout(ABC):
    """How one kind of server stores a matrix in few bits."""

    method: ClassVar[str]
    """`quant_method` in config.json."""
    marker: ClassVar[str]
    """Last part of the name of the tensor that holds the codes."""

    @abstractmethod
    def fit(self, codes: Codes) -> Codes:
        """The same codes, or the nearest that the layout can hold."""

    @abstractmethod
    def tensors(self, codes: Codes, dtype: Any) -> dict[str, Any]:
        """A matrix's tensors by the last part of their name."""

    @abstractmethod
    def codes(self, tensors: Mapping[str, Any], grid: Grid) -> Codes:
        """The matrix that such tensors hold."""

    @abstractmethod
    def description(self, grids: Mapping[str, Grid], ignored: list[str]) -> dict[str, Any]:
        """`quantization_config` of config.json. `ignored`: linear layers that stay in float."""

    @abstractmethod
    def grid(self, told: Mapping[str, Any], name: str) -> Grid:
        """The grid that a `quantization_config` names for a matrix."""


class CompressedTensors(Layout):
    """`pack-quantized` of the compressed-tensors package, which vLLM and transformers read."""

    method = "compressed-tensors"
    marker = "weight_packed"

    def fit(self, codes: Codes) -> Codes:
        return codes

    def tensors(self, codes: Codes, dtype: Any) -> dict[str, Any]:
        # codes are signed there, and packed with half the range added: what is stored is our unsigned code
        zeros = words(codes.zeros.T, codes.grid.bits).T
        return {
            "weight_packed": words(codes.codes, codes.grid.bits),
            "weight_scale": codes.scales.to(dtype),
            "weight_shape": torch.tensor(codes.codes.shape),
            **({} if codes.grid.symmetric else {"weight_zero_point": zeros}),
        }

    def codes(self, tensors: Mapping[str, Any], grid: Grid) -> Codes:
        scales = tensors["weight_scale"].float()
        outputs, inputs = tensors["weight_shape"].tolist()
        if grid.symmetric:
            zeros = torch.full_like(scales, 2 ** (grid.bits - 1), dtype=torch.uint8)
        else:
            zeros = unwords(tensors["weight_zero_point"].T, grid.bits, outputs).T
        return Codes(grid, unwords(tensors["weight_packed"], grid.bits, inputs), scales, zeros)

    def description(self, grids: Mapping[str, Grid], ignored: list[str]) -> dict[str, Any]:
        distinct = sorted(set(grids.values()), key=lambda grid: (grid.bits, grid.group))
        groups = {}
        for number, grid in enumerate(distinct):
            names = [name for name, found in grids.items() if found == grid]
            weights = {
                "num_bits": grid.bits,
                "type": "int",
                "symmetric": grid.symmetric,
                "strategy": "group",
                "group_size": grid.group,
                "dynamic": False,
            }
            targets = ["Linear"] if len(distinct) == 1 else names
            activations = {"input_activations": None, "output_activations": None}
            groups[f"group_{number}"] = {"targets": targets, "weights": weights, **activations}
        return {
            "quant_method": self.method,
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": ignored,
            "kv_cache_scheme": None,
        }

    def grid(self, told: Mapping[str, Any], name: str) -> Grid:
        groups = list(told["config_groups"].values())
        exact = [group for group in groups if name in group["targets"]]
        weights = (exact or groups)[0]["weights"]
        return Grid(weights["num_bits"], weights["group_size"], weights["symmetric"])


class Gptq(Layout):
    """GPTQ's first format, which vLLM, GPTQModel and ONNX Runtime GenAI's builder read."""

    method = "gptq"
    marker = "qweight"

    def fit(self, codes: Codes) -> Codes:
        """Zero points are stored less one, so that none can be 0: such groups take 1 and are rounded again."""
        low = codes.zeros == 0
        if not low.any():
            return codes
        grid = codes.grid
        highest = codes.dequantize().unflatten(1, (-1, grid.group)).amax(-1)
        scales = torch.where(low, (highest / (grid.top - 1)).clamp_min(1e-9), codes.scales)
        again = encode(codes.dequantize(), scales, codes.zeros.clamp_min(1).float(), grid)
        groups = low.repeat_interleave(grid.group, 1)
        return Codes(grid, torch.where(groups, again.codes, codes.codes), scales, codes.zeros.clamp_min(1))

    def tensors(self, codes: Codes, dtype: Any) -> dict[str, Any]:
        grid = codes.grid
        return {
            "qweight": words(codes.codes, grid.bits).T,
            "qzeros": words(codes.zeros.T - 1, grid.bits),
            "scales": codes.scales.T.to(dtype),
            "g_idx": torch.arange(codes.codes.shape[1], dtype=torch.int32) // grid.group,
        }

    def codes(self, tensors: Mapping[str, Any], grid: Grid) -> Codes:
        scales = tensors["scales"].float().T
        inputs, outputs = len(tensors["g_idx"]), len(scales)
        zeros = unwords(tensors["qzeros"], grid.bits, outputs).T + 1
        return Codes(grid, unwords(tensors["qweight"].T, grid.bits, inputs), scales, zeros)

    def description(self, grids: Mapping[str, Grid], ignored: list[str]) -> dict[str, Any]:
        found = list(grids.values())
        common = max(set(found), key=lambda grid: (found.count(grid), grid.bits))
        other = {
            f"+:^{name.replace('.', chr(92) + '.')}$": {
                "bits": grid.bits,
                "group_size": grid.group,
                "sym": grid.symmetric,
            }
            for name, grid in grids.items()
            if grid != common
        }
        return {
            "quant_method": self.method,
            "checkpoint_format": "gptq",
            "bits": common.bits,
            "group_size": common.group,
            "sym": common.symmetric,
            "desc_act": False,
            "lm_head": False,
            **({"dynamic": other} if other else {}),
        }

    def grid(self, told: Mapping[str, Any], name: str) -> Grid:
        escaped = f"+:^{name.replace('.', chr(92) + '.')}$"
        found = {**told, **told.get("dynamic", {}).get(escaped, {})}
        return Grid(found["bits"], found["group_size"], found["sym"])


LAYOUTS: Mapping[str, Layout] = {layout.method: layout for layout in (CompressedTensors(), Gptq())}


# ---------------------------------------------------------------- model directories


def check_fused(codes: Mapping[str, Codes]) -> None:
    """Refuse grids that differ between layers that a server computes as one."""
    for name, found in codes.items():
        parent, _, layer = name.rpartition(".")
        partners = next((group for group in FUSED if layer in group), ())
        for other in (f"{parent}.{partner}" for partner in partners):
            if other in codes and codes[other].grid != found.grid:
                raise ConfigError(
                    f"'{name}' has {found.grid.bits} bits and '{other}' has {codes[other].grid.bits}: vLLM computes "
                    "the two as one; quantize them alike"
                )


def save_packed(
    source: Path, network: Any, codes: Mapping[str, Codes], layout: Layout, dtype: Any, out: Path
) -> dict[str, Codes]:
    """Write `network` with the matrices of `codes` in a layout, everything else in `dtype`; returns what was stored."""
    check_fused(codes)
    kept = {name: layout.fit(found) for name, found in codes.items()}
    tensors = {name: value.detach().to(dtype) for name, value in network.state_dict().items()}
    if network.config.tie_word_embeddings:
        for name in getattr(network, "_tied_weights_keys", None) or {}:
            tensors.pop(name, None)
    for name, found in kept.items():
        tensors.pop(f"{name}.weight")
        tensors |= {f"{name}.{part}": value for part, value in layout.tensors(found, dtype).items()}
    copy_beside(source, out)
    # copies: some tensors are views of one another, which the format does not hold
    save_file(
        {name: value.contiguous().clone() for name, value in tensors.items()},
        out / "model.safetensors",
        {"format": "pt"},
    )
    ignored = [
        name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear) and name not in kept
    ]
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    grids = {name: found.grid for name, found in kept.items()}
    told = {"dtype": str(dtype).removeprefix("torch."), "quantization_config": layout.description(grids, ignored)}
    write_json(out / "config.json", {**config, **told})
    return kept


def load_packed(path: Path) -> Any:
    """The network of a directory in one of the layouts, in float32, in evaluation mode, read by our own reader."""
    from components.compression.quantization.checkpoint import network_of

    told, layout = _told(path)
    with explained(f"cannot read the weights in '{path}'", path):
        tensors, packed = _tensors(path, layout)
        for name, parts in packed.items():
            tensors[f"{name}.weight"] = layout.codes(parts, layout.grid(told, name)).dequantize()
    return network_of(path, tensors)


def packed_parts(path: Path) -> dict[str, dict[str, Any]]:
    """The tensors of every packed matrix of a directory, by module name and last part of their own name."""
    return _tensors(path, _told(path)[1])[1]


def _told(path: Path) -> tuple[Mapping[str, Any], Layout]:
    check_model_directory(path)
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    told = config.get("quantization_config", {})
    layout = LAYOUTS.get(told.get("quant_method", ""))
    if layout is None:
        raise ModelLoadError(f"the model in '{path}' is in none of the layouts {', '.join(LAYOUTS)}")
    return told, layout


def _tensors(path: Path, layout: Layout) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """All tensors that are no part of a packed matrix, and those that are."""
    tensors: dict[str, Any] = {}
    for file in sorted(path.glob("*.safetensors")):
        tensors |= load_file(file)
    packed = {}
    for name in [name.removesuffix(f".{layout.marker}") for name in tensors if name.endswith(f".{layout.marker}")]:
        mine = [key for key in tensors if key.startswith(f"{name}.") and key != f"{name}.bias"]
        packed[name] = {key.removeprefix(f"{name}."): tensors.pop(key) for key in mine}
    return tensors, packed
