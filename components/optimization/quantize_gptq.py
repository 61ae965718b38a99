"""Calibrated int4: rounded with GPTQ, bits where they are needed, scales trained; the model that still says the same.

    optimize:
      int4: [{type: merge_adapter}, {type: quantize_gptq, size: 95MB}, {type: onnx}]

Calibration rows come from the run's training rows, so nothing that is measured later was looked at. Steps:
1. The second moments of what goes into every linear layer, block by block; GPTQ on each (arXiv:2210.17323).
2. With `size`: what every layer costs in divergence on fewer and on more bits, measured, and the bits spread so that
   all fits. Without it every layer has `bits`.
3. `tune`: scales and norms learn the whole network's distribution again (as arXiv:2407.11062). Codes stay.
The head gets `head` bits, and with it the embedding that is tied to it; one of its own stays in float here, and `onnx`
rounds it with `embedding: int8`. The result opens in PyTorch, too ("quantized").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ByteSize, Field

from components.core.kinds import register
from components.interfaces import StepContext
from components.optimization._weight_only import WIDE, WeightOnly, WeightOnlyConfig, half_type, progress

SAMPLES = 48
"""Rows that sensitivities are measured on."""


@register("pass", "quantize_gptq")
class QuantizeGptq(WeightOnly):
    """Calibrated weights in few bits: GPTQ, bits by measured sensitivity, trained scales."""

    class Config(WeightOnlyConfig):
        size: ByteSize | None = Field(None, description="of all packed matrices; bits go where they buy most")

    config: Config

    def estimated_bytes(self, parameters: int) -> int:
        return int(self.config.size or super().estimated_bytes(parameters))

    def grids(self) -> list[Any]:
        from components.compression.quantization.grid import Grid

        return [*super().grids(), *([Grid(8, WIDE)] if self.config.size else [])]

    def codes(
        self, network: Any, layers: Mapping[str, Any], head: Mapping[str, Any], tokenizer: Any, context: StepContext
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        options = self._options(network, layers, tokenizer, context)
        taken, facts = self._taken(network, options, head, tokenizer, context)
        return {name: found[taken[name]] for name, found in options.items()}, facts

    def _options(
        self, network: Any, layers: Mapping[str, Any], tokenizer: Any, context: StepContext
    ) -> dict[str, list[Any]]:
        """Codes of every layer on every grid, the smallest first: calibrated at few bits, fitted at 8."""
        from components.compression.quantization.gptq import gptq
        from components.compression.quantization.grid import round_to_nearest
        from components.compression.quantization.weight_only import inputs_by_block

        rows, grids = self.rows(context, tokenizer, self.config.rows), self.grids()
        found: dict[str, list[Any]] = {}
        for seen in inputs_by_block(network, layers, rows, half_type(), progress(context, "gptq")):
            for name, inputs in seen.items():
                weight, moments = layers[name].weight.detach(), inputs.moments
                found[name] = [
                    gptq(weight, moments, grid) if grid.bits < 8 else round_to_nearest(weight, grid, moments.diagonal())
                    for grid in grids
                ]
        return found

    def _taken(
        self, network: Any, options: Any, head: Mapping[str, Any], tokenizer: Any, context: StepContext
    ) -> tuple[dict[str, int], dict[str, Any]]:
        """Which option every layer takes, and what that is expected to cost."""
        from components.compression.quantization.sensitivity import allocate, sensitivities

        if self.config.size is None:
            return dict.fromkeys(options, 0), {}
        rows = self.rows(context, tokenizer, SAMPLES, 256)
        costs = sensitivities(network, options, rows, context.seed)
        taken = allocate(options, costs, self.config.size - sum(codes.size for codes in head.values()))
        expected = sum(costs[name][number] for name, number in taken.items())
        more = sorted(name for name, number in taken.items() if number)
        return taken, {"expected_kl": expected, "layers_in_8_bits": more}
