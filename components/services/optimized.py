"""What optimizing a model came to: `ModelService.optimize(model, ["merge_adapter", "onnx"])` returns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from components.core.artifacts import MANIFEST, Artifact
from components.core.kinds import registry
from components.core.machine import human_bytes
from components.core.recipe import Spec
from components.core.search import parsed_chain
from components.core.spec import preset_chain

Step = str | Mapping[str, Any] | Spec


@dataclass(frozen=True)
class StepResult:
    """One pass: what it was, what it gave, and what it measured. Sizes in bytes."""

    type: str
    artifact: Artifact
    bytes_before: int
    bytes_after: int
    parameters_before: int
    parameters_after: int
    seconds: float
    """That the pass took when it ran; a result from the store took none now."""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        sizes = f"{human_bytes(self.bytes_before)} -> {human_bytes(self.bytes_after)}"
        return f"{self.type}: {sizes}, {self.seconds:.1f} s"


@dataclass(frozen=True)
class OptimizationResult:
    """The model before and after, and every pass in between, in the order in which they ran."""

    before: Artifact
    artifact: Artifact
    steps: tuple[StepResult, ...]

    @property
    def bytes_saved(self) -> int:
        return self.before.size - self.artifact.size


def expanded(names: Sequence[Step], kind: str) -> list[Step]:
    """Levels replaced by their passes, as they fit what they begin with: an artifact of this kind, or what passes
    before them give."""
    found: list[Step] = []
    for name in names:
        if isinstance(name, str) and name.lower() in registry.names("preset"):
            found += preset_chain(name, _given_by(found, kind))
        else:
            found.append(name)
    return found


def specs(steps: Sequence[Step]) -> list[Spec]:
    """Passes by name or as in a recipe, found and checked."""
    return parsed_chain([{"type": step} if isinstance(step, str) else step for step in steps])


def _given_by(steps: Sequence[Step], kind: str) -> str:
    on = [spec for spec in specs(steps) if spec.enabled] if steps else []
    return on[-1].component.produces if on else kind


def result(made: Sequence[Artifact]) -> OptimizationResult:
    """Of the model and what one pass after the other made of it."""
    return OptimizationResult(made[0], made[-1], tuple(_step(*pair) for pair in pairwise(made)))


def _step(source: Artifact, artifact: Artifact) -> StepResult:
    name = artifact.read_json(MANIFEST)["identity"]["config"]["type"]
    meta = dict(artifact.meta)
    after = int(meta.pop("parameters", 0))
    before = int(source.meta.get("parameters") or meta.pop("parameters_before", after))
    sizes = int(meta.pop("bytes_before", source.size)), int(meta.pop("bytes_after", artifact.size))
    return StepResult(name, artifact, *sizes, before, after, float(meta.pop("seconds", 0.0)), meta)
