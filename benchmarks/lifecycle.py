"""What a team leans on after the first run: gates that are rarely wrong, promotion, restarts, and reproduction.

    make bench-lifecycle                                # everything
    make bench-lifecycle ARGS="--quick"                 # few rounds: to see that it works
    make bench-lifecycle ARGS="--only gates promotion"  # these parts; the others' figures stay as they were

gates          models that are alike, and one that is worse: how often is the verdict wrong?
promotion      promote and roll back two versions of 150 MB
orchestration  the whole flow beside its stage functions alone, and an unchanged run
dvc            an unchanged `dvc repro`
database       eight processes on one embedded database, twenty of them killed
kills          SIGKILL between and inside all stages, and the same command again
replay         the quickstart's registered model, made again from its commit
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks._lifecycle_bench import Bench
from benchmarks._lifecycle_database import measure_database
from benchmarks._lifecycle_dvc import measure_dvc
from benchmarks._lifecycle_gates import calibration
from benchmarks._lifecycle_kills import measure_kills
from benchmarks._lifecycle_orchestration import measure_orchestration
from benchmarks._lifecycle_promotion import measure_promotion
from benchmarks._lifecycle_replay import measure_replay
from benchmarks._parts import Measured, run_parts

PARTS: dict[str, Callable[[Bench, argparse.Namespace], Measured]] = {
    "gates": lambda bench, options: calibration(rows=options.rows),
    "promotion": lambda bench, options: measure_promotion(bench, 2 if options.quick else 7),
    "orchestration": lambda bench, options: measure_orchestration(bench, 1 if options.quick else 3),
    "dvc": lambda bench, options: measure_dvc(bench, 1 if options.quick else 3),
    "database": lambda bench, options: measure_database(bench, options.seed),
    "kills": lambda bench, options: measure_kills(bench, 2 if options.quick else None),
    "replay": lambda bench, options: measure_replay(bench, options.quick, options.root),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=" ".join(PARTS))
    parser.add_argument("--rows", type=Path, help="rows.jsonl of a run, to resample real answers too")
    parser.add_argument("--root", type=Path, help="where the quickstart ran already, for the replay")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the moments of kills")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="postmill-lifecycle-") as folder:
        bench = Bench(Path(folder))
        parts = {name: partial(part, bench, options) for name, part in PARTS.items()}
        sys.exit(run_parts("lifecycle", parts, options.only, {"quick": options.quick}))


if __name__ == "__main__":
    main()
