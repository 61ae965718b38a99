"""The quickstart as a newcomer meets it: first run, second run, start-up of the commands.

    make bench-quickstart

The first run starts from nothing (no artifacts, no databases, no Prefect home), the second is the same recipe again.
"Orchestration" is the wall clock of the whole process less the seconds that components worked.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mlflow

from benchmarks.report import Figure, publish
from components.trackers.mlflow import tracking_uri

RECIPE = "configs/quickstart.yaml"
POSTMILL = (str(Path(sys.executable).with_name("postmill")),)


def timed_run(root: Path) -> float:
    """Seconds of one `postmill run`; its output is shown."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("POSTMILL_", "PREFECT_", "MLFLOW_"))}
    started = time.perf_counter()
    subprocess.run([*POSTMILL, "run", RECIPE], env={**environment, "POSTMILL_ROOT": str(root)}, check=True)
    return time.perf_counter() - started


def latest_run(root: Path) -> Any:
    """The MLflow run that `timed_run` just left."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    client = mlflow.MlflowClient(tracking_uri(root))
    experiment = client.get_experiment_by_name("postmill")
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"], max_results=1)[0]


def component_seconds(run: Any) -> float:
    """What the components worked, as the run recorded it."""
    return sum(value for name, value in run.data.metrics.items() if name.startswith("seconds/"))


def start_up(arguments: list[str], repeats: int = 7) -> float:
    """Median seconds of a command that should be instant."""
    samples = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([*POSTMILL, *arguments], stdout=subprocess.DEVNULL, check=True)
        samples.append(time.perf_counter() - started)
    return statistics.median(samples)


def measure(root: Path) -> tuple[dict[str, Figure], dict[str, object]]:
    """Both runs and the start-up times."""
    first = timed_run(root)
    run = latest_run(root)
    worked = component_seconds(run)
    second = timed_run(root)
    again = latest_run(root)
    figures = json.loads((root / "reports" / "triage" / "figures.json").read_text(encoding="utf-8"))
    verdict = json.loads((root / "reports" / "triage" / "verdict.json").read_text(encoding="utf-8"))
    base, trained, int4, fp32 = (figures[name] for name in ("base", "trained", "int4", "fp32"))
    chosen = figures[verdict["chosen"]]
    gain = trained["exact_match"] - base["exact_match"]
    steps_again = [name for name in again.data.metrics if name.startswith("train/")]
    measured = {
        "first run": Figure(first, "s", "<= 360"),
        "score of the base model": Figure(base["exact_match"], "share", "<= 0.05"),
        "score of the trained model": Figure(trained["exact_match"], "share", ">= 0.8"),
        "gain kept by the registered variant": Figure(
            (chosen["exact_match"] - base["exact_match"]) / gain, "share", ">= 0.97"
        ),
        "int4 against PyTorch fp32 eager": Figure(int4["tokens_per_s"] / trained["tokens_per_s"], "times", ">= 6"),
        "int4 bytes of fp32's": Figure(int4["bytes"] / fp32["bytes"], "share", "<= 0.2"),
        "second run": Figure(second, "s", "<= 15"),
        "training figures in the second run": Figure(len(steps_again), "count", "<= 0"),
        "postmill --help": Figure(start_up(["--help"]), "s", "<= 0.5"),
        "postmill components": Figure(start_up(["components"]), "s", "<= 0.5"),
        "orchestration, first run": Figure(first - worked, "s", f"<= {0.05 * first + 20:.1f}"),
        "orchestration, later run": Figure(second - component_seconds(again), "s", f"<= {0.05 * second + 12:.1f}"),
    }
    seconds = {
        k.removeprefix("seconds/"): round(v, 1) for k, v in sorted(run.data.metrics.items()) if k.startswith("seconds/")
    }
    training = {k: v for k, v in run.data.metrics.items() if k.startswith("train/total_")}
    return measured, {"chosen": verdict["chosen"], "figures": figures, "seconds": seconds, "training": training}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="work in this directory and keep it")
    arguments = parser.parse_args()
    root = (arguments.keep or Path(tempfile.mkdtemp(prefix="postmill-bench-"))).absolute()
    try:
        figures, notes = measure(root)
    finally:
        if not arguments.keep:
            shutil.rmtree(root, ignore_errors=True)
    sys.exit(0 if publish("quickstart", figures, notes) else 1)


if __name__ == "__main__":
    main()
