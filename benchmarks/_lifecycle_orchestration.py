"""What orchestration adds: the whole flow in a process, beside the same stage functions called from a plain script.

The small model, an empty store each time, in turn: plain, with the embedded server, with a running one.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from benchmarks._lifecycle_bench import ROOT, Bench, postmill, surroundings
from benchmarks._parts import Measured
from benchmarks.report import Figure

PORT = 4297
PLAIN = """
import json, sys
from pathlib import Path
from components.core.recipe import load_recipe
from components.services.application import Application
from components.services.benchmarking import BenchmarkService
from components.services.cost import CostService
from components.services.data import DataService
from components.services.judging import JudgingService
from components.services.model import ModelService
from components.services.optimization import OptimizationService
from components.services.recording import RecordingService
from components.services.tracking import RunTracking
from components.services.training import TrainingService
from flows.environment import be_quiet
be_quiet()
with Application() as app:
    plan = load_recipe(Path(sys.argv[1]))
    with app.run(plan) as run:
        tracking, _ = run.get(RunTracking), run.get(CostService)
        base = run.get(ModelService).fetch(plan.model)
        dataset = run.get(DataService).validate(plan.data, base)
        trained = run.get(TrainingService).train(plan.train, base, dataset, plan.seed)
        optimization = run.get(OptimizationService)
        made = {n: optimization.variant(n, c, trained, plan.seed, dataset) for n, c in plan.optimize.items()}
        subjects = optimization.subjects({"base": base, "trained": trained, **made})
        measured = run.get(BenchmarkService).measure(plan.benchmark, subjects, dataset, plan.seed)
        verdict = run.get(JudgingService).judge(plan, measured, list(made))
        recording = run.get(RecordingService)
        recording.record(plan, dataset, trained, subjects, measured, verdict, tracking.notes())
        print(json.dumps(recording.register(plan, subjects, dataset, measured, verdict).model_dump()))
"""


def measure_orchestration(bench: Bench, rounds: int) -> Measured:
    """Medians of the differences within a round."""
    recipe, seconds = bench.recipe("story"), {"plain": [], "embedded": [], "server": []}  # type: ignore[var-annotated]
    again: list[float] = []
    home = bench.place("server-home")
    for number in range(rounds):
        roots = {name: bench.place(f"story-{name}-{number}") for name in seconds}
        seconds["plain"].append(_plain(roots["plain"], recipe))
        seconds["embedded"].append(postmill(roots["embedded"], "run", str(recipe))[0])
        again.append(postmill(roots["embedded"], "run", str(recipe))[0])
        with server(home) as url:
            own = {"PREFECT_API_URL": url, "PREFECT_HOME": str(home)}
            seconds["server"].append(postmill(roots["server"], "run", str(recipe), **own)[0])
    plain = statistics.median(seconds["plain"])

    def added(name: str) -> float:
        return statistics.median(full - bare for full, bare in zip(seconds[name], seconds["plain"], strict=True))

    figures = {
        "the stages from a plain script": Figure(plain, "s", ""),
        "the flow adds, with a running server": Figure(added("server"), "s", f"<= {0.05 * plain + 3:.1f}"),
        "the flow adds, with the embedded server": Figure(added("embedded"), "s", f"<= {0.05 * plain + 12:.1f}"),
        "unchanged run again, embedded server": Figure(statistics.median(again), "s", "<= 15"),
    }
    return figures, {"rounds": rounds, "seconds": seconds, "again": again}


def _plain(root: Path, recipe: Path) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, str(recipe)], cwd=ROOT, env=surroundings(root), capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    if json.loads(done.stdout.splitlines()[-1])["version"] != "1":
        raise RuntimeError(f"the plain script registered something else: {done.stdout[-500:]}")
    return seconds


@contextmanager
def server(home: Path) -> Iterator[str]:
    """A Prefect server that runs already, warm."""
    url = f"http://127.0.0.1:{PORT}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(PORT)]
    environment = surroundings(home, PREFECT_HOME=str(home), PREFECT_SERVER_ANALYTICS_ENABLED="false")
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(url)
        yield url
    finally:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            member.terminate()
        psutil.wait_procs(family, timeout=20)


def _wait(url: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise RuntimeError(f"no server answered at {url}")
