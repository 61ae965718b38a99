"""Less memory for a running model: half precision and a smaller key-value cache, measured, or the pass fails.

    optimize: {lean: [{type: merge_adapter}, {type: memory, target_memory_reduction: 0.3}]}

Before and after, a fresh process opens the model and answers once; what its resident memory rises by above the
libraries' own, at its peak, is what counts. For less still, export to ONNX in few bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt

from components.compression.opening import EFFECT, KeyValueCache, copy_model, read_runtime, write_runtime
from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.errors import ArtifactError
from components.core.kinds import register, registry
from components.core.machine import human_bytes
from components.interfaces import Pass, StepContext


@register("pass", "memory")
class Memory(Pass):
    """Bring the peak memory of the running model down by a share that is measured."""

    consumes = ("model",)
    produces = "model"
    libraries = ("torch", "transformers")
    depends_on_machine = True
    alone = True
    keeps_opening = True

    class Config(StrictConfig):
        target_memory_reduction: float | None = Field(
            0.3, gt=0, lt=1, description="share of the peak that must go; null: it is only measured"
        )
        dtype: Literal["bfloat16", "float16"] | None = Field("bfloat16", description="null: weights stay as they are")
        cache: KeyValueCache | None = Field(None, description="for example {type: quantized, bits: 4}")
        tokens: PositiveInt = Field(64, description="of the answer")

    config: Config

    @classmethod
    def effects(cls, config: Any) -> frozenset[str]:
        return EFFECT if config.cache else frozenset()

    def estimated_bytes(self, parameters: int) -> int:
        return parameters * (2 if self.config.dtype else 4)

    @classmethod
    def uses(cls, config: Any) -> Sequence[type]:
        return [registry.get("pass", "cast")]

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        from components.compression.measuring import footprint, written

        facts = self._written(source, out, context)
        if self.config.cache:
            write_runtime(out, read_runtime(out), cache=self.config.cache)
        before = footprint(source, self.config.tokens)
        after = footprint(written(source, out), self.config.tokens)
        reduction, target = 1 - after["model"] / before["model"], self.config.target_memory_reduction
        if target is not None and reduction < target:
            raise ArtifactError(
                f"the model takes {human_bytes(after['model'])} at its peak where it took "
                f"{human_bytes(before['model'])}: {reduction:.0%} less, and {target:.0%} was the target; "
                "lower it, or add a measure (dtype, cache), or export to ONNX in few bits"
            )
        memory = {f"memory_{name}_before": size for name, size in before.items()}
        memory |= {f"memory_{name}": size for name, size in after.items()}
        return {**facts, **memory, "memory_reduction": round(reduction, 4)}

    def _written(self, source: Artifact, out: Path, context: StepContext) -> dict[str, Any]:
        """The model in the dtype that is asked for."""
        if self.config.dtype is None:
            copy_model(source.path, out)
            return {}
        step: Pass = registry.create("pass", "cast", dtype=self.config.dtype)
        return step.apply(source, {}, out, context)
