"""Static int8 on an exported graph: weights and activations in 8 bits, ranges of activations from calibration rows.

    optimize:
      static: [{type: merge_adapter}, {type: onnx, precision: fp32}, {type: quantize_static, rows: 64}]

A few channels of a language model are far larger than the others and would take the whole range. SmoothQuant-style
equalisation (Xiao et al. 2022) divides each channel by a factor before it is rounded and multiplies the weights that
read it: the network stays the same in float, its activations round better. The factors go into the norm, or into the
projection, that comes before, so nothing is added to the graph. `equalize: null` leaves that out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.kinds import register
from components.core.safeload import load_tokenizer
from components.interfaces import Pass, StepContext


@register("pass", "quantize_static")
class QuantizeStatic(Pass):
    """Round weights and activations of an fp32 graph to int8, with ranges from calibration rows."""

    consumes = ("onnx",)
    produces = "onnx"
    not_after = frozenset({"quantized"})
    libraries = ("onnxruntime", "onnx", "onnx-ir")

    class Config(StrictConfig):
        rows: PositiveInt = 32
        max_length: PositiveInt = 256
        equalize: Annotated[float, Field(ge=0, le=1)] | None = 0.5
        calibration: Literal["minmax", "percentile", "entropy"] = "minmax"
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

    @classmethod
    def needs_rows(cls, config: Any) -> bool:
        return True

    def estimated_bytes(self, parameters: int) -> int:
        return int(parameters * 1.4)

    def estimated_memory(self, parameters: int) -> int:
        # the float graph while it is calibrated, and again while the other is built
        return parameters * 14 + 500_000_000

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        from components.compression.calibration import calibration_ids
        from components.compression.onnx.equalize import equalize
        from components.compression.onnx.int8 import finish, options, rounding

        config = self.config
        tokenizer = load_tokenizer(source.path)
        rows = calibration_ids(context.dataset, tokenizer, config.rows, config.max_length, context.seed)
        with rounding(source.path, out, config.embedding) as graph:
            groups = 0 if config.equalize is None else equalize(graph, rows, config.equalize)
            self._quantize(graph, out, rows, options(source.path, config))
        facts = finish(source.path, out, context.seed, config.max_kl)
        return {**facts, "calibration_rows": len(rows), "equalized_groups": groups}

    def _quantize(self, graph: Path, out: Path, rows: list[Any], options: dict[str, Any]) -> None:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        from components.compression.onnx.graph import FILE
        from components.compression.onnx.int8 import Rows

        methods = {
            "minmax": CalibrationMethod.MinMax,
            "percentile": CalibrationMethod.Percentile,
            "entropy": CalibrationMethod.Entropy,
        }
        quantize_static(
            graph,
            out / FILE,
            Rows(graph, rows),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            calibrate_method=methods[self.config.calibration],
            **options,
        )
