"""Set the weights of every row to zero that matter least: by their size times the norm of their input.

    optimize:
      sparse:
        - {type: merge_adapter}
        - {type: prune_wanda, sparsity: 0.5, force: true, heal: {type: distillation, max_steps: 100}}

Wanda (Sun et al. 2023, arXiv:2306.11695) needs calibration rows, changes no weight that stays, and loses far less than
magnitudes alone. It makes a model neither smaller nor faster where zeros are multiplied like other weights, as by ONNX
Runtime and PyTorch on a CPU, so it refuses without `force: true`. Healing keeps the zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from components.compression.pruning.zeroing import Zeroing, ZeroingConfig
from components.core.kinds import register


@register("pass", "prune_wanda")
class PruneWanda(Zeroing):
    """Set the weights to zero that matter least for the inputs they meet (Wanda)."""

    class Config(ZeroingConfig):
        pass

    config: Config

    def zero(self, network: Any, rows: Sequence[Any], told: Callable[[int], None]) -> dict[str, Any]:
        from components.compression.pruning.unstructured import wanda

        without = wanda(network, rows, self.config.sparsity, self.config.pattern, told)
        return {"matrices_without_inputs": without}
