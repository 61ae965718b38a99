"""How attention is computed in PyTorch: said, or the one that is faster here.

    optimize: {fast: [{type: merge_adapter}, {type: attention}]}

Both ways give the same numbers up to rounding: `eager` is matrix products and a softmax, `sdpa` torch's fused kernel.
An exported model has its attention in the graph, so this is for models that PyTorch serves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import PositiveInt

from components.compression.opening import EFFECT, Attention, copy_model, read_runtime, write_runtime
from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.kinds import register
from components.interfaces import Pass, StepContext


@register("pass", "attention")
class AttentionChoice(Pass):
    """Choose how attention is computed, by measuring unless it is said."""

    consumes = ("model",)
    produces = "model"
    libraries = ("torch", "transformers")
    depends_on_machine = True
    alone = True
    keeps_opening = True

    class Config(StrictConfig):
        implementation: Literal["auto", "eager", "sdpa"] = "auto"
        tokens: PositiveInt = 32
        """Of each timed answer."""
        rounds: PositiveInt = 3

    config: Config

    @classmethod
    def effects(cls, config: Any) -> frozenset[str]:
        return EFFECT

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        before, facts = read_runtime(source.path), {}
        copy_model(source.path, out)
        chosen: Any = self.config.implementation
        if chosen == "auto":
            taken = {name: self._share(name, source, out) for name in get_args(Attention)}
            chosen = min(taken, key=lambda name: taken[name])
            facts = {f"time_share_{name}": round(share, 4) for name, share in taken.items()}
        write_runtime(out, before, attention=chosen)
        return {"attention": chosen, **facts}

    def _share(self, name: Any, source: Artifact, out: Path) -> float:
        """Time of an answer with this implementation as a share of that with the source as it is opened now."""
        from components.compression.measuring import timings, written

        write_runtime(out, read_runtime(source.path), attention=name)
        found = timings({"now": source, "then": written(source, out)}, self.config.tokens, self.config.rounds)
        # a moment in which the machine is slow slows both
        return found["then"].total / found["now"].total
