"""Take attention heads and MLP channels out: a narrower model with a plain configuration, faster on any runtime.

    optimize:
      narrow:
        - {type: merge_adapter}
        - {type: prune_width, channels: 0.25, heal: {type: distillation, max_steps: 200, learning_rate: 2.0e-4}}
        - {type: onnx, precision: int4}

Every block loses as much, what gives least of its output on calibration rows (LLM-Pruner, arXiv:2305.11627; Minitron,
arXiv:2407.14679); the matrices after it are fitted anew in closed form. Heads go in whole groups that share keys and
values. Channels stay in a number that `multiple` divides, so that the result can be quantized in groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field, PositiveInt, model_validator

from components.compression.pruning.pruning import PROBES, Pruning, PruningConfig, logits_of
from components.core.errors import ConfigError
from components.core.events import StageProgress
from components.core.kinds import register
from components.interfaces import StepContext


@register("pass", "prune_width")
class PruneWidth(Pruning):
    """Take the attention heads and MLP channels out that matter least, and heal; gives a plain narrower model."""

    class Config(PruningConfig):
        channels: float = Field(0.25, ge=0, description="of an MLP, to take out: a share, or (from 1 on) a count")
        heads: float = Field(0.0, ge=0, description="groups of heads to take out: a share, or (from 1 on) a count")
        multiple: PositiveInt = Field(32, description="divides the number of channels that stay")
        compensate: bool = Field(True, description="fit the matrices after what went anew, by least squares")

        @model_validator(mode="after")
        def _something(self) -> Self:
            if not (self.channels or self.heads):
                raise ConfigError("channels and heads are 0, so nothing would be taken out")
            return self

    config: Config

    def shrink(self, network: Any, rows: Sequence[Any], context: StepContext) -> tuple[dict[str, Any], list[Any]]:
        from components.compression.layers import decoder_layers
        from components.compression.pruning.width import narrow

        blocks = decoder_layers(network)

        def told(done: int) -> None:
            context.bus.emit(StageProgress(stage="optimize", name="prune_width", done=done, total=len(blocks)))

        cuts, facts = self._cuts(network, blocks[0])
        kept = narrow(network, rows, cuts, self.config.compensate, told)
        return {**facts, **kept}, [logits_of(network, row) for row in rows[:PROBES]]

    def _cuts(self, network: Any, block: Any) -> tuple[Any, dict[str, Any]]:
        """What stays of every block, and that beside what was there."""
        from components.compression.pruning.depth import share_of
        from components.compression.pruning.width import Cuts, attention_of, channels_of

        groups = channels = None
        facts: dict[str, Any] = {}
        if self.config.heads:
            total = attention_of(network, block).groups
            groups = total - share_of(self.config.heads, total, "heads")
            facts |= {"head_groups_before": total, "head_groups": groups}
        if self.config.channels:
            total = channels_of(network, block)
            channels = total - share_of(self.config.channels, total, "channels")
            channels -= channels % self.config.multiple
            if not channels:
                raise ConfigError(f"channels: fewer than multiple: {self.config.multiple} would stay of {total}")
            facts |= {"channels_before": total, "channels": channels}
        return Cuts(groups, channels), facts
