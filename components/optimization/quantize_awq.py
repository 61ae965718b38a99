"""Weights in few bits after AWQ's scales: what sees much is rounded finer, and everything else is as it was.

    optimize:
      int4: [{type: merge_adapter}, {type: quantize_awq}, {type: onnx}]

Calibration rows come from the run's training rows. Steps:
1. For all layers that read one value, scales of its channels by which the rounded layers lose least (arXiv:2306.00978).
   They are folded into the norm, `up` or `v` that makes the value; query heads that share a value share its scales. A
   value that nothing can be folded into is left as it is (after GELU, or in a q, k and v whose rows are interleaved).
2. Every weight to the nearest point of its grid; `tune` as in `quantize_gptq`.
Head and embedding are treated as by `quantize_gptq`, without scales. The graph needs no operation that it did not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.core.errors import ArtifactError
from components.core.kinds import register
from components.interfaces import StepContext
from components.optimization._weight_only import WeightOnly, WeightOnlyConfig, half_type, progress

TOLERANCE = 1e-2
"""Of a logit, once scales are folded and nothing is rounded; float32's own noise stays below it."""


@register("pass", "quantize_awq")
class QuantizeAwq(WeightOnly):
    """Calibrated weights in few bits: AWQ's scales folded into the model, rounding to nearest, trained scales."""

    Config = WeightOnlyConfig
    config: WeightOnlyConfig

    def codes(
        self, network: Any, layers: Mapping[str, Any], head: Mapping[str, Any], tokenizer: Any, context: StepContext
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        from components.compression.closeness import logits_of, probe_rows, worst_difference
        from components.compression.quantization.awq import awq

        probes, rows = probe_rows(tokenizer), self.rows(context, tokenizer, self.config.rows)
        before = logits_of(network, probes)
        (grid,) = self.grids()
        codes, facts = awq(network, layers, rows, grid, half_type(), progress(context, "awq"))
        worst = worst_difference(before, logits_of(network, probes))
        if not worst <= TOLERANCE:  # NaN is never close
            raise ArtifactError(
                f"folding scales changed a logit by {worst:.4g} before anything was rounded (at most {TOLERANCE:g} "
                "allowed): blocks of this model share what they make; take quantize_gptq, which folds nothing"
            )
        return codes, facts | {"folding_max_logit_difference": worst}
