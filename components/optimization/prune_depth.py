"""Take whole decoder blocks out: smaller and faster in proportion, on any runtime, with a plain configuration.

    optimize:
      shallow:
        - {type: merge_adapter}
        - {type: prune_depth, layers: 0.25, heal: {type: distillation, max_steps: 200, learning_rate: 2.0e-4}}
        - {type: onnx, precision: int4}

`by: influence` takes the blocks that change hidden states least (ShortGPT, arXiv:2403.03853): one pass over the
calibration rows. `by: greedy` takes, one after the other, the block whose absence is measured to cost least KL: slower,
and better. `by: even` takes blocks at equal distances. Without healing a model loses much of what it could do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from components.compression.pruning.pruning import PROBES, Pruning, PruningConfig, logits_of
from components.core.kinds import register
from components.interfaces import StepContext


@register("pass", "prune_depth")
class PruneDepth(Pruning):
    """Take the decoder blocks out that matter least, and heal; gives a plain smaller model."""

    class Config(PruningConfig):
        layers: float = Field(0.25, gt=0, description="blocks to take out: a share, or (from 1 on) a count")
        by: Literal["influence", "greedy", "even"] = "influence"

    config: Config

    def shrink(self, network: Any, rows: Sequence[Any], context: StepContext) -> tuple[dict[str, Any], list[Any]]:
        from components.compression.pruning.depth import choose_layers, remove_layers
        from components.compression.pruning.influence import Blocks

        blocks = Blocks(network)
        removed, influence = choose_layers(blocks, rows, self.config.layers, self.config.by, context.bus)
        with blocks.bypassed(removed):
            expected = [logits_of(network, row) for row in rows[:PROBES]]
        remove_layers(network, removed)
        return {"layers_before": len(influence), "removed_layers": removed, "block_influence": influence}, expected
