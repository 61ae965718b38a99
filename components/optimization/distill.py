"""Distillation into a smaller model: the source teaches, a student that is smaller learns its probabilities.

    optimize:
      student:
        - {type: merge_adapter}
        - {type: distill, student: {layers: 0.5}, trainer: {type: distillation, max_steps: 400, learning_rate: 5.0e-4}}
        - {type: onnx, precision: int4}

`student: {layers: 0.5, intermediate: 0.75}` begins with half of the source's own blocks and three quarters of their
channels, those that matter most: far nearer to its teacher than random weights (Minitron, arXiv:2407.14679).
`student: {type: pretrained, name: ...}` is another model with the same tokenizer. The teacher is asked once about every
trained token, and its likeliest tokens are kept, so it is out of memory while the student learns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from components.compression.pruning.healing import checked
from components.compression.pruning.pruning import PROBES, Pruning, Rows, logits_of
from components.compression.pruning.student import Shape, Student, shrunk
from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.kinds import register
from components.core.recipe import OfKind, Spec, default_spec
from components.interfaces import StepContext


def _distillation() -> Spec:
    return default_spec("trainer", "distillation")


@register("pass", "distill")
class Distill(Pruning):
    """Teach a smaller model (blocks and channels of the source, or another model) the source's probabilities."""

    class Config(StrictConfig):
        student: Student = Shape()
        trainer: Annotated[Spec, OfKind("trainer"), AfterValidator(checked)] = Field(
            default_factory=_distillation, description="how it learns; its teacher is the source"
        )
        rows: Rows = Rows()

    config: Config

    @classmethod
    def healer(cls, config: Any) -> Spec | None:
        found: Spec = config.trainer
        return found

    @classmethod
    def inputs(cls, config: Any) -> Mapping[str, Spec]:
        other = {} if isinstance(config.student, Shape) else {"student": config.student}
        return {**super().inputs(config), **other}

    def shrink(self, network: Any, rows: Sequence[Any], context: StepContext) -> tuple[dict[str, Any], list[Any]]:
        assert isinstance(self.config.student, Shape)
        taken = shrunk(network, rows, self.config.student, context)
        return taken, [logits_of(network, row) for row in rows[:PROBES]]

    def apply(
        self, source: Artifact, parents: Mapping[str, Artifact], out: Path, context: StepContext
    ) -> dict[str, Any]:
        student = context.inputs.get("student")
        if student is None:
            return super().apply(source, parents, out, context)
        return self.finished(source, student.path, out, context)
