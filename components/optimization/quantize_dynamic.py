"""Dynamic int8 on an exported graph: weights in 8 bits, activations rounded to 8 bits as they come.

    optimize: {int8: [{type: merge_adapter}, {type: onnx, precision: fp32}, {type: quantize_dynamic}]}

Needs no rows. Matrix products are then those of integers, which processors with VNNI or AMX do fast; `onnx` with
`precision: int8` rounds weights only and is far nearer to the network: activations of a language model have a few
channels that take the whole range. `keep_float: ["*down_proj*"]` leaves the products that suffer most as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveFloat

from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.kinds import register
from components.interfaces import Pass, StepContext


@register("pass", "quantize_dynamic")
class QuantizeDynamic(Pass):
    """Round weights of an fp32 graph to int8, and activations while it runs."""

    consumes = ("onnx",)
    produces = "onnx"
    not_after = frozenset({"quantized"})
    libraries = ("onnxruntime", "onnx", "onnx-ir")

    class Config(StrictConfig):
        per_channel: bool = True
        reduce_range: bool = False
        embedding: Literal["int8", "float"] = "int8"
        head: Literal["int8", "float"] = "int8"
        keep_float: tuple[str, ...] = ()
        max_kl: PositiveFloat = 2.0

    config: Config

    @classmethod
    def effects(cls, config: Any) -> frozenset[str]:
        return frozenset({"quantized"})

    def estimated_bytes(self, parameters: int) -> int:
        return int(parameters * 1.4)

    def estimated_memory(self, parameters: int) -> int:
        # the quantizer holds the float graph while it builds the other
        return parameters * 12 + 500_000_000

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        from onnxruntime.quantization import quantize_dynamic

        from components.compression.onnx.graph import FILE
        from components.compression.onnx.int8 import finish, options, rounding

        with rounding(source.path, out, self.config.embedding) as graph:
            quantize_dynamic(graph, out / FILE, **options(source.path, self.config))
        return finish(source.path, out, context.seed, self.config.max_kl)
