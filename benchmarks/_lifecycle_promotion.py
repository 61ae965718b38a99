"""How long a promotion and a rollback take: whole commands, and the call alone, on versions of real size."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks._lifecycle_bench import ROOT, Bench, postmill, surroundings
from benchmarks._parts import Measured
from benchmarks.report import Figure
from components.core.artifacts import Identity, write_json
from components.interfaces import Check
from components.services.application import Application
from components.services.judging import VariantVerdict, Verdict
from components.services.model_registry import ModelRegistryService
from components.services.promotion import PromotionService
from components.services.workspace import Workspace
from components.trackers.mlflow import connect

MODEL = "weighty"
BYTES = 150_000_000
"""Of the quickstart's registered int8 model."""


def measure_promotion(bench: Bench, rounds: int) -> Measured:
    """Medians of promote and rollback in turn, between two versions."""
    root = bench.place("promotion")
    _register(root)
    commands = {"promote": ("promote", MODEL, "2", "--to", "production"), "rollback": ("rollback", MODEL)}
    postmill(root, "promote", MODEL, "1", "--to", "production")
    seconds: dict[str, list[float]] = {name: [] for name in [*commands, "start"]}
    for _ in range(rounds):
        for name, arguments in commands.items():
            seconds[name].append(postmill(root, *arguments)[0])
        seconds["start"].append(_start(root))
    calls = _calls(root, rounds)
    figures = {f"{name}: the call": Figure(statistics.median(calls[name]), "s", "<= 2") for name in commands} | {
        f"{name}: the whole command": Figure(statistics.median(seconds[name]), "s", "<= 2") for name in commands
    }
    figures["of it: Python imports MLflow"] = Figure(statistics.median(seconds["start"]), "s", "")
    notes = {"bytes": BYTES, "rounds": rounds, "seconds": seconds, "calls": calls}
    return figures, notes


def _start(root: Path) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import mlflow"], env=surroundings(root), check=True, cwd=ROOT)
    return time.perf_counter() - started


def _calls(root: Path, rounds: int) -> dict[str, list[float]]:
    """The same in one process, as a flow or a server does it."""
    found: dict[str, list[float]] = {"promote": [], "rollback": []}
    service = PromotionService(ModelRegistryService(Workspace(root)))
    for _ in range(rounds):
        for name, call in (
            ("promote", lambda: service.promote(MODEL, "2", "production")),
            ("rollback", lambda: service.rollback(MODEL)),
        ):
            started = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - started)
    return found


def _register(root: Path) -> None:
    """Two versions with files of real size, and evidence that accepts them."""
    with Application() as app:
        workspace = Workspace(root, app.bus)
        service, client = ModelRegistryService(workspace), connect(root)
        run = client.create_run(client.get_experiment_by_name("postmill").experiment_id).info.run_id
        verdict = Verdict(
            variants=[VariantVerdict(variant="int8", checks=[Check(gate="x", passed=True, summary="")])], chosen="int8"
        )
        evidence = root / "evidence"
        evidence.mkdir()
        write_json(evidence / "verdict.json", verdict.model_dump())
        for seed in (1, 2):
            example: dict[str, Any] = {"input": ["a"], "output": ["b"]}
            service.register(
                MODEL, "staging", _artifact(workspace, seed), run, {"postmill.variant": "int8"}, example, "", evidence
            )


def _artifact(workspace: Workspace, seed: int) -> Any:
    identity = Identity(stage="optimize", config={"seed": seed}, parents={}, code="", versions={})

    def make(out: Path) -> None:
        (out / "weights.bin").write_bytes(bytes([seed]) * BYTES)

    return workspace.store.build(identity, "weights", {}, make)
