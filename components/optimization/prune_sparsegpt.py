"""Set weights to zero one input after the other, and mend the remaining ones for what each costs.

    optimize:
      sparse: [{type: merge_adapter}, {type: prune_sparsegpt, pattern: "2:4", force: true}]

SparseGPT (Frantar and Alistarh 2023, arXiv:2301.00774) needs calibration rows and second moments of every input, and
is the strongest of the three without training. It makes a model neither smaller nor faster where zeros are multiplied
like other weights, as by ONNX Runtime and PyTorch on a CPU, so it refuses without `force: true`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from components.compression.pruning.zeroing import Zeroing, ZeroingConfig
from components.core.kinds import register


@register("pass", "prune_sparsegpt")
class PruneSparseGpt(Zeroing):
    """Set weights to zero and mend the others for what that costs (SparseGPT)."""

    class Config(ZeroingConfig):
        pass

    config: Config

    def zero(self, network: Any, rows: Sequence[Any], told: Callable[[int], None]) -> dict[str, Any]:
        from components.compression.pruning.unstructured import sparsegpt

        without = sparsegpt(network, rows, self.config.sparsity, self.config.pattern, told)
        return {"matrices_without_inputs": without}
