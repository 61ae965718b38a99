"""Measures subjects: `BenchmarkService(workspace).measure(recipe.benchmark, subjects, dataset, seed)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.core.artifacts import Artifact, write_json
from components.core.recipe import Spec
from components.interfaces import Measurement, Scoreboard, StepContext, Subject
from components.services.data import load_rows
from components.services.workspace import Workspace


class BenchmarkService:
    """Runs benchmarks on base, trained and variants; every result is an artifact."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def measure(
        self, benchmarks: Sequence[Spec], subjects: Sequence[Subject], dataset: Artifact, seed: int
    ) -> list[Artifact]:
        """One artifact a benchmark and subject, or one a benchmark where subjects are measured together."""
        artifacts = []
        for spec in benchmarks:
            groups = [list(subjects)] if spec.component.together else [[subject] for subject in subjects]
            artifacts += [self._measure(spec, group, dataset, seed) for group in groups]
        return artifacts

    def _measure(self, spec: Spec, group: list[Subject], dataset: Artifact, seed: int) -> Artifact:
        def make(out: Path) -> Mapping[str, Any]:
            context = StepContext(seed, self.workspace.bus)
            found = spec.build().measure(group, load_rows(dataset), context)
            write_json(out / "measurements.json", [measurement.model_dump() for measurement in found])
            return {"metrics": {measurement.subject: measurement.metrics for measurement in found}}

        inputs = {subject.name: subject.artifact for subject in group}
        name = spec.type if spec.component.together else f"{spec.type} {group[0].name}"
        artifact = self.workspace.stage(
            "benchmark",
            name,
            spec.component,
            {**spec.dump(), "seed": seed},
            {"dataset": dataset, **inputs},
            "measurement",
            make,
        )
        for subject, metrics in artifact.meta["metrics"].items():
            self.workspace.bus.emit("benchmark.measured", benchmark=spec.type, subject=subject, metrics=metrics)
        return artifact


def scoreboard(artifacts: Sequence[Artifact]) -> Scoreboard:
    """All measurements of a run, from their artifacts."""
    return Scoreboard(
        [
            Measurement.model_validate(entry)
            for artifact in artifacts
            for entry in artifact.read_json("measurements.json")
        ]
    )
