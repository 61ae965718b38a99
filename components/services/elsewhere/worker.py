"""One of the processes of a training step; `components.services.elsewhere.launch` starts it: `python -m ... FOLDER`."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from components.core.artifacts import Artifact, write_json
from components.core.events import EventBus
from components.core.recipe import OfKind, Spec
from components.core.settings import Settings, load_settings
from components.interfaces import StepContext
from components.services.application import Application
from components.services.elsewhere.launch import EVENTS, FAILURE, FIGURES, JOB
from components.services.elsewhere.passed_on import events_written


def main(place: Path) -> None:
    """Read the job, train, and leave figures or the reason why there are none."""
    rank = int(os.environ["RANK"])
    job = json.loads((place / JOB).read_text(encoding="utf-8"))
    bus = EventBus()
    try:
        with events_written(place / EVENTS, bus) if rank == 0 else nullcontext():
            figures = _train(job, bus)
    except Exception as error:
        failure = {"type": type(error).__name__, "message": str(error), "time": time.time()}
        write_json(place / FAILURE.format(rank), failure)
        raise
    if os.environ.get("LOCAL_RANK", "0") == "0":  # on each machine somebody waits for them
        write_json(place / FIGURES, figures)
    from torch.distributed import destroy_process_group, is_initialized

    if is_initialized():
        destroy_process_group()


def _train(job: dict[str, Any], bus: EventBus) -> dict[str, Any]:
    """Train with the plugins of the process that asked for it. Their handlers hear nothing here: they do there."""
    said = job.get("settings")
    with Application(Settings.model_validate(said) if said else load_settings()):
        return _trained(job, bus)


def _trained(job: dict[str, Any], bus: EventBus) -> dict[str, Any]:
    spec: Spec | None = OfKind("trainer").parse(job["step"])
    assert spec is not None
    model, dataset = (Artifact.model_validate(job[name]) for name in ("model", "dataset"))
    scratch = Path(job["scratch"]) if job["scratch"] else None
    inputs = {role: Artifact.model_validate(plain) for role, plain in job["inputs"].items()}
    context = StepContext(job["seed"], bus, scratch, job["identity"], inputs)
    return dict(spec.build().train(model, dataset, Path(job["out"]), context))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
