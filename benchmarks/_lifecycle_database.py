"""Eight processes write to the embedded database at once, and twenty of them are killed in the middle.

Each writes 200 metrics, one at a time, and half of them register a model. A killed process is started again and goes
on where its own notes say it was. At the end every metric is there once, the database is whole, and nobody was told
that it is locked.
"""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks._lifecycle_bench import ROOT, Bench, surroundings
from benchmarks._parts import Measured
from benchmarks.report import Figure

WRITERS, METRICS, REGISTRATIONS, KILLS = 8, 200, 4, 20
SLOWEST_S = 600.0
WRITER = """
import sys
from pathlib import Path
from benchmarks._lifecycle_database import write
write(Path(sys.argv[1]), int(sys.argv[2]))
"""


def write(root: Path, number: int) -> None:
    """What one writer does: its run, its metrics from where it stood, and its registration."""
    from components.services.model_registry import ModelRegistryService
    from components.services.workspace import Workspace
    from components.trackers.mlflow import MlflowTracker, connect

    notes = root / f"writer-{number}"
    client = connect(root)
    run = _own_run(client, notes, number)
    tracker = MlflowTracker(MlflowTracker.Config(root=root))
    tracker._client, tracker._run = client, run
    notes.with_suffix(".busy").touch()
    there = len(client.get_metric_history(run, "loss"))
    for step in range(there, METRICS):
        tracker.metrics([(step, {"loss": 1.0 / (step + 1)})])
    if number < REGISTRATIONS:
        workspace = Workspace(root)
        example = {"input": ["a"], "output": ["b"]}
        registry = ModelRegistryService(workspace)
        registry.register(f"model-{number}", "staging", _artifact(workspace, number), run, {}, example, "")
    notes.with_suffix(".done").touch()


def _own_run(client: object, notes: Path, number: int) -> str:
    """The run of this writer: found by its name, so that one killed after making it makes no second."""
    experiment = client.get_experiment_by_name("postmill").experiment_id  # type: ignore[attr-defined]
    found = client.search_runs([experiment], f"attributes.run_name = 'writer-{number}'")  # type: ignore[attr-defined]
    made = found[0] if found else client.create_run(experiment, run_name=f"writer-{number}")  # type: ignore[attr-defined]
    return str(made.info.run_id)


def _artifact(workspace: object, number: int) -> object:
    from components.core.artifacts import Identity

    identity = Identity(stage="optimize", config={"number": number}, parents={}, code="", versions={})

    def make(out: Path) -> None:
        (out / "weights.bin").write_bytes(bytes([number]) * 1_000_000)

    return workspace.store.build(identity, "weights", {}, make)  # type: ignore[attr-defined]


@dataclass
class Writers:
    """The eight processes, started again when they were killed."""

    root: Path
    running: dict[int, subprocess.Popen[str]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    failed: int = 0

    def start(self, number: int) -> None:
        (self.root / f"writer-{number}.busy").unlink(missing_ok=True)
        self.running[number] = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(self.root), str(number)],
            cwd=ROOT,
            env=surroundings(self.root, OMP_NUM_THREADS="1"),
            stdout=subprocess.DEVNULL,
            stderr=(self.root / f"writer-{number}.log").open("a"),
            text=True,
        )

    def done(self, number: int) -> bool:
        return (self.root / f"writer-{number}.done").exists()

    def busy(self) -> list[int]:
        """Those that are writing, whom a kill strikes in the middle of it."""
        return [
            number
            for number, process in self.running.items()
            if process.poll() is None and (self.root / f"writer-{number}.busy").exists() and not self.done(number)
        ]

    def kill(self, number: int) -> bool:
        """Whether it was still at work."""
        process = self.running[number]
        process.send_signal(signal.SIGKILL)
        return process.wait() == -signal.SIGKILL

    def tend(self) -> None:
        """Start again whoever ended without being done, which only a kill should do."""
        for number, process in list(self.running.items()):
            code = process.poll()
            if code is not None and not self.done(number):
                self.failed += code != -signal.SIGKILL
                self.start(number)


def measure_database(bench: Bench, seed: int) -> Measured:
    """Start, kill, tend, and look at what is in the database."""
    root, moments = bench.place("database"), random.Random(seed)
    writers, killed, started = Writers(root), 0, time.perf_counter()
    for number in range(WRITERS):
        writers.start(number)
    while not all(writers.done(number) for number in range(WRITERS)):
        if time.perf_counter() - started > SLOWEST_S:
            raise RuntimeError(f"writers are not done after {SLOWEST_S:.0f} s; seed {seed}")
        time.sleep(moments.uniform(0.1, 0.9))
        if killed < KILLS and (busy := writers.busy()):
            killed += writers.kill(moments.choice(busy))
        writers.tend()
    for process in writers.running.values():
        process.wait()
    seconds = time.perf_counter() - started
    logs = "".join(path.read_text(encoding="utf-8") for path in root.glob("writer-*.log"))
    return _figures(root, logs, killed, writers.failed), {"seed": seed, "wall_s": round(seconds, 1)}


def _figures(root: Path, logs: str, killed: int, failed: int) -> dict[str, Figure]:
    with sqlite3.connect(root / "mlruns" / "mlflow.db") as database:
        rows = database.execute(
            "SELECT COUNT(*), COUNT(DISTINCT run_uuid || step) FROM metrics WHERE key = 'loss'"
        ).fetchone()
        whole = database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        versions = database.execute("SELECT COUNT(*) FROM model_versions").fetchone()[0]
    return {
        "processes killed": Figure(killed, "count", f">= {KILLS}"),
        "writers that failed otherwise": Figure(failed, "count", "<= 0"),
        "'database is locked' in their output": Figure(logs.count("database is locked"), "count", "<= 0"),
        "metric rows lost": Figure(WRITERS * METRICS - rows[1], "count", "<= 0"),
        "metric rows twice": Figure(rows[0] - rows[1], "count", "<= 0"),
        "database whole": Figure(float(whole), "yes", ">= 1"),
        "registered versions too many or too few": Figure(abs(versions - REGISTRATIONS), "count", "<= 0"),
    }
