"""Measures a registered model again, and compares with the evidence of its registration.

    ProductionService(workspace, registry).measure("triage@production", recipe.benchmark, dataset, recipe.seed)

Nothing comes from the store here: that a model is as fast today as it was is what is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from components.core.artifacts import Artifact
from components.core.component import StrictConfig
from components.core.errors import ConfigError, DataError
from components.core.events import BenchmarkMeasured, BenchmarkStarted, ModelRegressed
from components.core.kinds import service
from components.core.recipe import Spec
from components.interfaces import Metric, Scoreboard, StepContext, Subject
from components.services.data import load_rows
from components.services.model_registry import ModelRegistryService
from components.services.workspace import Workspace

QUALITY = ("share", "nats", "bits", "tokens")
"""Units of what a model says; every other one is of what that costs: speed, memory, size."""


class Tolerance(StrictConfig):
    """How much worse than registered is no news."""

    score: float = Field(0.02, ge=0, description="quality: points of a share (0.02: two points), a fraction of others")
    speed: float = Field(
        0.5, ge=0, description="speed, memory, size: as a fraction; timings vary by a third by themselves"
    )
    ignore: list[str] = Field(
        ["load_s", "ttft_p95_ms", "tpot_p95_ms"],
        description="metrics that are shown and raise no alarm: they jump about",
    )


class Change(BaseModel):
    """A metric when the model was registered, and now. `worse`: by how much it lost, in points or as a fraction."""

    model_config = ConfigDict(frozen=True)
    metric: Metric
    before: float
    now: float
    worse: float
    allowed: float

    @property
    def lost(self) -> bool:
        return self.worse > self.allowed


class Checkup(BaseModel):
    """What measuring a registered version again came to. `left_out`: benchmarks that need other models beside it."""

    model_config = ConfigDict(frozen=True)
    model: str
    version: str
    changes: tuple[Change, ...]
    left_out: tuple[str, ...]

    @property
    def losses(self) -> list[Change]:
        return [change for change in self.changes if change.lost]


@service("production")
class ProductionService:
    """Looks after models that are served."""

    def __init__(self, workspace: Workspace, registry: ModelRegistryService) -> None:
        self.workspace, self.registry = workspace, registry

    def checkup(
        self, reference: str, benchmarks: Sequence[Spec], dataset: Artifact, seed: int, tolerance: Tolerance
    ) -> Checkup:
        """Measure the version that `reference` names, every file verified, and compare with its registration.

        Announced as `ModelRegressed` if it lost more than is tolerated.
        """
        model = self.registry.resolve(reference)
        alone = [spec for spec in benchmarks if spec.enabled and not hasattr(spec.config, "reference")]
        if not alone:
            raise ConfigError(
                f"benchmark: none of this recipe measures {reference} by itself; add exact_match or latency"
            )
        measured = self._measure(Subject(name=reference, artifact=model.artifact), alone, dataset, seed)
        metrics = [metric for spec in alone for metric in spec.component.reports(spec.config)]
        found = Checkup(
            model=model.name,
            version=model.version,
            changes=tuple(compare(metrics, registered_figures(model.tags), measured, tolerance)),
            left_out=tuple(spec.type for spec in benchmarks if spec.enabled and spec not in alone),
        )
        if not found.changes:
            raise DataError(
                f"{reference} was registered without any figure that this recipe measures; nothing to compare"
            )
        if found.losses:
            lost = {change.metric.name: change.worse for change in found.losses}
            self.workspace.bus.emit(ModelRegressed(model=model.name, version=model.version, losses=lost))
        return found

    def _measure(self, subject: Subject, specs: Sequence[Spec], dataset: Artifact, seed: int) -> dict[str, float]:
        bus, measured = self.workspace.bus, []
        for spec in specs:
            benchmark = spec.build()
            if problem := benchmark.problem(dataset):
                raise DataError(f"benchmark {spec.type}: {problem}")
            bus.emit(BenchmarkStarted(benchmark=spec.type, subjects=(subject.name,)))
            for measurement in benchmark.measure([subject], load_rows(dataset), StepContext(seed, bus)):
                measured.append(measurement)
                figures = measurement.metrics
                bus.emit(BenchmarkMeasured(benchmark=spec.type, subject=measurement.subject, metrics=figures))
        return Scoreboard(measured).metrics(subject.name)


def registered_figures(tags: Mapping[str, str]) -> dict[str, float]:
    """The figures that a version was registered with."""
    return {name.removeprefix("metric."): float(text) for name, text in tags.items() if name.startswith("metric.")}


def compare(
    metrics: Sequence[Metric], before: Mapping[str, float], now: Mapping[str, float], tolerance: Tolerance
) -> Iterator[Change]:
    """Every metric that was measured both times."""
    for metric in metrics:
        if metric.name in before and metric.name in now:
            was, is_ = before[metric.name], now[metric.name]
            loss = was - is_ if metric.better == "higher" else is_ - was
            if metric.unit != "share":
                loss = loss / max(abs(was), 1e-9)
            allowed = tolerance.score if metric.unit in QUALITY else tolerance.speed
            allowed = float("inf") if metric.name in tolerance.ignore else allowed
            yield Change(metric=metric, before=was, now=is_, worse=loss, allowed=allowed)
