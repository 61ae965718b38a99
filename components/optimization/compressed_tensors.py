"""Way out to vLLM: weights of 4 or 8 bits in compressed-tensors' `pack-quantized` layout (W4A16, W8A16).

    optimize: {vllm: [{type: merge_adapter}, {type: compressed_tensors, bits: 4, group: 128}]}

    vllm serve artifacts/optimize/<key>

A model is rounded to nearest; a model that is quantized keeps its codes, however they were found.

Parity: read back by our own reader, and by transformers through the `compressed-tensors` package, which vLLM uses as
well; both have to give the logits of the codes. vLLM itself is not tried.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from components.core.errors import require
from components.core.kinds import register
from components.core.safeload import load_causal_lm
from components.optimization._packed import PackedExport


@register("pass", "compressed_tensors")
class CompressedTensorsLayout(PackedExport):
    """Write linear layers in compressed-tensors' packed layout, for vLLM and transformers."""

    method = "compressed-tensors"
    libraries = ("torch", "transformers", "compressed-tensors")
    extras: ClassVar[Mapping[str, str]] = {"compressed_tensors": "vllm-layout"}

    def _checked(self, out: Path, rows: Any, expected: Any, found: Any) -> dict[str, Any]:
        from components.compression.closeness import logits_of
        from components.compression.quantization.packed_layouts import packed_parts

        require("compressed_tensors", "vllm-layout")
        facts = super()._checked(out, rows, expected, found)
        network, reader = _expanded(out)
        _round_matrices(expected, packed_parts(out), self.config.dtype)
        worst = self.require_same(logits_of(expected, rows), logits_of(network, rows))
        return {
            "max_logit_difference": max(facts["max_logit_difference"], worst),
            "checked_with": f"{facts['checked_with']}; {reader}",
        }


def _round_matrices(network: Any, names: Iterable[str], dtype: str) -> None:
    """The package multiplies codes by their scales in the type of the scales, so that each weight is rounded to it."""
    import torch

    with torch.no_grad():
        for name in names:
            weight = network.get_submodule(name).weight
            weight.copy_(weight.to(getattr(torch, dtype)))


def _expanded(out: Path) -> tuple[Any, str]:
    """The network as compressed-tensors expands it, and through what."""
    from transformers import CompressedTensorsConfig

    told = json.loads((out / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    if len(told["config_groups"]) > 1:  # transformers 5.23 takes the first grid for all dense layers
        return _by_matrix(out, told), "compressed-tensors, matrix by matrix"
    with warnings.catch_warnings():
        # transformers says that it takes `dequantize` from us and the rest from config.json: so it should
        warnings.filterwarnings("ignore", message="You passed `quantization_config`", category=UserWarning)
        network = load_causal_lm(out, quantization=CompressedTensorsConfig(dequantize=True))
    return network, "transformers with compressed-tensors"


def _by_matrix(out: Path, told: Mapping[str, Any]) -> Any:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    from components.compression.quantization.packed_layouts import load_packed, packed_parts

    compressor = BaseCompressor.get_value_from_registry(told["format"])
    network = load_packed(out)
    schemes = [QuantizationScheme.model_validate(group) for group in told["config_groups"].values()]
    for name, parts in packed_parts(out).items():
        scheme = next(each for each in schemes if name in each.targets)
        network.get_submodule(name).weight.data.copy_(compressor.decompress(parts, scheme)["weight"])
    return network
