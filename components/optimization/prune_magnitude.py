"""Set the smallest weights of every matrix to zero: the oldest way to prune, and the weakest (Han et al. 2015).

    optimize:
      sparse: [{type: merge_adapter}, {type: prune_magnitude, sparsity: 0.5, force: true}]

A file holds zeros like other weights, and ONNX Runtime and PyTorch multiply with them on a CPU: the model becomes
neither smaller nor faster, so the pass refuses without `force: true`. It is there for runtimes with sparse kernels
(`pattern: "2:4"` for GPUs that have them) and to compare with. Experts in three-dimensional parameters are pruned too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from components.compression.pruning.zeroing import Zeroing, ZeroingConfig
from components.core.kinds import register


@register("pass", "prune_magnitude")
class PruneMagnitude(Zeroing):
    """Set the smallest weights of every matrix to zero, half of them by default."""

    class Config(ZeroingConfig):
        pass

    config: Config

    def zero(self, network: Any, rows: Sequence[Any], told: Callable[[int], None]) -> dict[str, Any]:
        from components.compression.pruning.unstructured import magnitude

        magnitude(network, self.config.sparsity, self.config.pattern)
        return {}
