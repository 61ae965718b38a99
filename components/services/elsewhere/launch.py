"""A training step in several processes: torch's launcher starts them, one of them tells what happens, all of them stop
together.

    train: [{type: sft, launcher: {processes: 2}}]

Everything the processes need stands in one JSON file; what comes back are events, figures and files.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.core import errors
from components.core.artifacts import Artifact, write_json
from components.core.errors import PostmillError, TrainingError
from components.core.machine import machine
from components.core.recipe import Spec
from components.interfaces import StepContext
from components.services.application import opened_settings
from components.services.elsewhere.passed_on import events_passed_on

PATIENCE_S = 120
"""Seconds that the processes may take to end a step and save, before they are killed."""
JOB, EVENTS, FIGURES, FAILURE = "job.json", "events.jsonl", "figures.json", "failure-{}.json"
LAST_WORDS = 8
"""Lines of the processes' own output that an error shows."""


def launch(spec: Spec, model: Artifact, dataset: Artifact, out: Path, context: StepContext) -> Mapping[str, Any]:
    """Train in `launcher.processes` processes; the figures of the run. Their events are passed on to the bus."""
    with tempfile.TemporaryDirectory(prefix="postmill-") as folder:
        place = Path(folder)
        write_json(place / JOB, _job(spec, model, dataset, out, context))
        with (place / "output.txt").open("wb") as output:
            process = subprocess.Popen(
                _command(spec, place),
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(spec),
                start_new_session=True,  # Ctrl+C reaches them once, through us
            )
            with _signals_passed_on(process), events_passed_on(place / EVENTS, context.bus):
                code = process.wait()
        if code != 0 or not (place / FIGURES).is_file():
            raise _failure(place, spec, context, code)
        found: dict[str, Any] = json.loads((place / FIGURES).read_text(encoding="utf-8"))
        return found


def _job(spec: Spec, model: Artifact, dataset: Artifact, out: Path, context: StepContext) -> dict[str, Any]:
    settings = opened_settings()
    return {
        "step": spec.dump(),
        "settings": settings.model_dump(mode="json", exclude={"sinks"}) if settings else None,  # none is opened there
        "model": model.model_dump(mode="json"),
        "dataset": dataset.model_dump(mode="json"),
        "out": str(out),
        "seed": context.seed,
        "scratch": str(context.scratch) if context.scratch else None,
        "identity": json.loads(json.dumps(context.identity, default=str)),
        "inputs": {role: artifact.model_dump(mode="json") for role, artifact in context.inputs.items()},
    }


def _command(spec: Spec, place: Path) -> list[str]:
    launcher = spec.config.launcher
    where = [f"--master-addr={launcher.address}", f"--master-port={launcher.port or _free_port()}"]
    return [
        *(sys.executable, "-m", "torch.distributed.run", *where),
        *(f"--nnodes={launcher.machines}", f"--node-rank={launcher.machine_rank}", f"--shutdown-timeout={PATIENCE_S}"),
        *(f"--nproc-per-node={launcher.processes}", "-m", "components.services.elsewhere.worker", str(place)),
    ]


def _environment(spec: Spec) -> dict[str, str]:
    threads = max(1, machine().cores // spec.config.launcher.processes)
    return {"OMP_NUM_THREADS": str(threads), **os.environ, "TORCH_DISTRIBUTED_DEBUG": "OFF"}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def _signals_passed_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """SIGTERM and Ctrl+C reach the processes, which finish their step, save and stop. One that comes when they have
    ended well is received again afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    received = list[int]()

    def pass_on(number: int, frame: object) -> None:
        received.append(number)
        process.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received and process.returncode == 0:
        signal.raise_signal(received[0])


def _failure(place: Path, spec: Spec, context: StepContext, code: int) -> PostmillError:
    """The error of the process that failed by itself, or that one of them was killed."""
    told = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(place.glob("failure-*.json"))]
    # the first one to fail had a reason; the others were only waiting for it
    told.sort(key=lambda failure: failure["time"])
    for failure in told:
        kind = getattr(errors, failure["type"], None)
        if isinstance(kind, type) and issubclass(kind, PostmillError):
            return kind(failure["message"])
    processes = spec.config.launcher.processes
    saved = sorted(context.scratch.glob("step-*")) if context.scratch else []
    last = f"the checkpoint of step {int(saved[-1].name[5:])} is intact, run again to go on" if saved else "run again"
    if len(told) == processes:
        return TrainingError(f"{processes} processes failed: {told[0]['type']}: {told[0]['message']}; {last}")
    # what the others say then is only that they lost a connection
    words = (place / "output.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    shown = "\n".join(f"  {line}" for line in words[-LAST_WORDS:])
    return TrainingError(
        f"one of {processes} processes died (the launcher ended with {code}) and the others were stopped; {last}. "
        f"Last words:\n{shown}"
    )
