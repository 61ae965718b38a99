"""One step of the pipeline at a time, for `dvc.yaml`. Prefect takes no part: a server costs 11 s a stage.

    python -m flows.stage train configs/quickstart.yaml        # what `dvc repro` runs
    python -m flows.stage register configs/quickstart.yaml     # after it: an effect, which DVC must not repeat

A stage reads what earlier ones left in `outputs/` and nothing else. DVC decides whether it runs at all; when it does,
the store below the root of the repository gives back what was made before, by an experiment or by `postmill run`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.core.artifacts import hash_json, write_json
from components.core.errors import ConfigError, did_you_mean
from components.core.events import StageCached, StageFinished, StageSkipped
from components.core.provenance import git_state
from components.core.recipe import Recipe, read_recipe
from components.core.settings import load_settings
from components.services.application import Application
from components.services.outputs import Made, Outputs
from components.services.recording import Outcome, RecordingService
from components.services.tracking import RunTracking
from flows.session import log_to_terminal, surroundings
from flows.stage_figures import tell
from flows.stage_step import Step, stages
from flows.stages import FUNCTIONS

OUTPUTS, RUNS = Path("outputs"), Path("runs")
TRACKED = ("train", "report")
"""Stages with a run of their own in the tracker: the curve of training; the figures of all models and the evidence."""


def root() -> Path:
    """The root of artifacts and runs: of the repository, also when DVC runs an experiment in a copy of it."""
    return Path(os.environ.get("DVC_ROOT", "")) / load_settings().root


@contextmanager
def application() -> Iterator[Application]:
    """The application of a stage."""
    settings = load_settings()
    log_to_terminal(settings.monitoring.log_level)
    if settings.environment:
        raise ConfigError(
            f"stages of DVC take no overlays (POSTMILL_ENVIRONMENT={','.join(settings.environment)}), for DVC would "
            "not know of them; write a recipe that 'extends' this one"
        )
    with Application(settings.model_copy(update={"root": root()})) as app:
        yield app


def read(path: Path) -> Recipe:
    """The recipe as DVC knows it: the file, and what it extends. What the environment says of it is refused."""
    if said := surroundings():
        listed = ", ".join(f"{override.place} sets {override.key}" for override in said)
        raise ConfigError(f"{listed}, which DVC would not know of; unset it, and say: dvc exp run -S {path}:KEY=VALUE")
    return read_recipe(path)[0]


def run_stage(app: Application, plan: Recipe, name: str, folder: Path = OUTPUTS) -> None:
    """Run one stage of a recipe on what lies in `folder`, and leave there what it made."""
    known = stages(plan)
    if name not in known:
        raise ConfigError(
            f"this recipe has no stage '{name}'{did_you_mean(name, known)} (known: {', '.join(known)}); "
            "if it was renamed, write dvc.yaml again: postmill dvc init RECIPE"
        )
    app.check(plan)
    started, told = time.monotonic(), list[Any]()
    for event in (StageFinished, StageCached, StageSkipped):
        app.bus.on(event, told.append)
    with app.run(plan) as run:
        outputs = Outputs(folder, app.workspace.store)
        step = Step(name, plan, run, {stage: outputs.read(stage) for stage in known[name]}, folder)
        tracking = _tracked(run, name) if name in TRACKED else None
        made = FUNCTIONS[name.partition("@")[0]](step)
        skipped = [event for event in told if isinstance(event, StageSkipped)]
        made.facts["skipped"] = {f"{event.stage} {event.name}": event.reason for event in skipped}
        if name != "report":  # which leaves a folder for people
            outputs.write(name, made, step.inputs)
    _write_run(step, made, told, tracking.run_id if tracking else None, time.monotonic() - started)


def _tracked(run: Any, name: str) -> RunTracking:
    tracking: RunTracking = run.get(RunTracking)
    of_dvc = {"dvc.stage": name, "dvc.exp": os.environ.get("DVC_EXP_NAME", "")}
    tracking.trackers.tag({key: value for key, value in of_dvc.items() if value})
    return tracking


def _write_run(step: Step, made: Made, told: list[Any], run_id: str | None, seconds: float) -> None:
    """What differs from run to run, in a file that no stage reads. DVC restores it together with the outputs, so that
    they keep the run in the tracker that made them."""
    place = step.folder / RUNS / f"{step.name.replace('@', '/')}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "stage": step.name,
        "recipe": {"name": step.plan.name, "digest": hash_json(step.plan.dump())},
        "mlflow_run_id": run_id,
        "git": git_state(Path.cwd()),
        "experiment": os.environ.get("DVC_EXP_NAME"),
        "inputs": {stage: _digests(found) for stage, found in step.inputs.items()},
        "outputs": _digests(made),
        "computed": [f"{event.stage} {event.name}" for event in told if isinstance(event, StageFinished)],
        "from_store": [f"{event.stage} {event.name}" for event in told if isinstance(event, StageCached)],
        "seconds": round(seconds, 2),
    }
    write_json(place, record)


def _digests(made: Made) -> dict[str, str]:
    return {name: artifact.digest for name, artifact in made.artifacts.items()}


def register(app: Application, plan: Recipe, folder: Path = OUTPUTS) -> Outcome:
    """Put what the verdict in `folder` chose into the model registry, with its evidence; returns the flow's outcome."""
    app.check(plan)
    known = [name for name in stages(plan) if name != "report"]
    with app.run(plan) as run:
        outputs = Outputs(folder, app.workspace.store)
        step = Step("register", plan, run, {name: outputs.read(name) for name in known}, folder)
        _tracked(run, "register")
        recording, subjects = run.get(RecordingService), step.subjects()
        tell(step)
        found = (step.dataset, step.trained, subjects, step.measured, step.verdict)
        recording.record(plan, *found, step.skipped, step.search)
        outcome: Outcome = recording.register(plan, subjects, step.dataset, step.measured, step.verdict)
        return outcome


if __name__ == "__main__":
    import typer

    from flows.cli_stage import stage

    typer.run(stage)
