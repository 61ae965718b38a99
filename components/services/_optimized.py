"""What optimizing a model came to: `ModelService.optimize(model, ["merge_adapter", "onnx"])` returns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.core.artifacts import Artifact, Store
from components.core.kinds import registry
from components.core.machine import human_bytes
from components.core.recipe import Spec

Step = str | Mapping[str, Any] | Spec
ADAPTERS_ONLY = ("adapter",)


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
    """Levels replaced by their passes. One that begins with an adapter may be given a whole model."""
    found: list[Step] = []
    for name in names:
        if isinstance(name, str) and name.lower() in registry.names("preset"):
            whole = kind != "adapter" or bool(found)
            found += [
                step for step in registry.get("preset", name.lower()).chain if not (whole and _for_adapters(step))
            ]
        else:
            found.append(name)
    return found


def _for_adapters(step: Mapping[str, Any]) -> bool:
    return bool(registry.get("pass", step["type"]).consumes == ADAPTERS_ONLY)


def traced(store: Store, before: Artifact, after: Artifact, chain: Sequence[Step]) -> OptimizationResult:
    """The result of a chain, read back from its artifacts."""
    artifact, steps = after, list[StepResult]()
    for step in reversed(chain):
        source = store.get(artifact.parents["source"])
        steps.insert(0, _step(_type(step), source, artifact))
        artifact = source
    return OptimizationResult(before, after, tuple(steps))


def _type(step: Step) -> str:
    if isinstance(step, str):
        return step
    return step.type if isinstance(step, Spec) else str(step["type"])


def _step(name: str, source: Artifact, artifact: Artifact) -> StepResult:
    meta = dict(artifact.meta)
    after = int(meta.pop("parameters", 0))
    before = int(source.meta.get("parameters") or meta.pop("parameters_before", after))
    sizes = int(meta.pop("bytes_before", source.size)), int(meta.pop("bytes_after", artifact.size))
    return StepResult(name, artifact, *sizes, before, after, float(meta.pop("seconds", 0.0)), meta)
