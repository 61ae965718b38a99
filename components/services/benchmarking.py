"""Measures subjects: `BenchmarkService(workspace).measure(recipe.benchmark, subjects, dataset, seed)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from components.core.artifacts import Artifact, write_json
from components.core.errors import DataError, StepSkipped
from components.core.events import BenchmarkMeasured, BenchmarkStarted
from components.core.kinds import registry, service
from components.core.recipe import Spec
from components.interfaces import Keep, Measurement, Metric, Scoreboard, StepContext, Subject
from components.services.data import load_rows
from components.services.optional import optional
from components.services.workspace import Workspace


@service("benchmarks")
class BenchmarkService:
    """Runs benchmarks on base, trained and variants; every result is an artifact."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def measure(
        self, benchmarks: Sequence[Spec], subjects: Sequence[Subject], dataset: Artifact, seed: int
    ) -> list[Artifact]:
        """What every benchmark found, skipped ones left out."""
        artifacts = []
        for spec in benchmarks:
            with suppress(StepSkipped):
                artifacts += self.run(spec, subjects, dataset, seed)
        return artifacts

    def run(self, spec: Spec, subjects: Sequence[Subject], dataset: Artifact, seed: int) -> list[Artifact]:
        """One artifact a subject, or one in all where a benchmark measures them together; may raise StepSkipped."""
        groups = [list(subjects)] if spec.component.together else [[subject] for subject in subjects]
        with optional(spec, self.workspace.bus, "benchmark", spec.type):
            return [self._measure(spec, group, dataset, seed) for group in groups]
        raise AssertionError("unreachable")  # `optional` never swallows

    def _measure(self, spec: Spec, group: list[Subject], dataset: Artifact, seed: int) -> Artifact:
        benchmark = spec.build()

        def make(out: Path) -> Mapping[str, Any]:
            context = StepContext(seed, self.workspace.bus, keep=self._keeper(spec))
            problem = benchmark.problem(dataset)
            if problem:
                raise DataError(f"benchmark {spec.type}: {problem}")
            context.bus.emit(BenchmarkStarted(benchmark=spec.type, subjects=tuple(subject.name for subject in group)))
            found = benchmark.measure(group, load_rows(dataset), context)
            write_json(out / "measurements.json", [measurement.model_dump() for measurement in found])
            return {"metrics": {measurement.subject: measurement.metrics for measurement in found}}

        inputs = {subject.name: subject.artifact for subject in group}
        if benchmark.every_pass:
            inputs |= {f"{each.name}/{made.name}": made.artifact for each in group for made in each.passes}
        name = spec.type if spec.component.together else f"{spec.type} {group[0].name}"
        artifact = self.workspace.stage(
            "benchmark",
            name,
            spec.parts(),
            {**spec.identity(), **benchmark.identity(), "seed": seed},
            {"dataset": dataset, **inputs},
            "measurement",
            make,
        )
        for subject, metrics in artifact.meta["metrics"].items():
            self.workspace.bus.emit(BenchmarkMeasured(benchmark=spec.type, subject=subject, metrics=metrics))
        return artifact

    def _keeper(self, spec: Spec) -> Keep:
        """An artifact of its own for what a benchmark uses again when it measures other subjects."""

        def keep(
            name: str, config: Mapping[str, Any], parents: Mapping[str, Artifact], make: Callable[[Path], Any]
        ) -> Path:
            label = f"{spec.type} {name}"
            return self.workspace.stage("reference", label, spec.parts(), config, parents, "reference", make).path

        return keep


def scoreboard(artifacts: Sequence[Artifact]) -> Scoreboard:
    """All measurements of a run, from their artifacts."""
    return Scoreboard(
        [
            Measurement.model_validate(entry)
            for artifact in artifacts
            for entry in artifact.read_json("measurements.json")
        ]
    )


def known_metrics() -> dict[str, Metric]:
    """What every benchmark that is installed says of its metrics, by name."""
    sound = [name for name in registry.names("benchmark") if not registry.broken("benchmark", name)]
    return {metric.name: metric for name in sound for metric in registry.get("benchmark", name).metrics}
