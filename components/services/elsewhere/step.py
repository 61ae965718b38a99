"""A step of a run in another process: what it needs stands in a folder, and what comes back is left there.

The folder lies in the store, which every worker sees. Services are made anew from recipe and settings, with a bus
whose events the run passes on to its own; nobody else listens there, so nothing is told twice.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from threading import Lock
from typing import Any

from pydantic import validate_call
from pydantic_core import to_jsonable_python

from components.core import errors
from components.core.artifacts import Artifact, write_json
from components.core.errors import PostmillError
from components.core.events import EventBus
from components.core.recipe import OfKind, Recipe, parse_recipe
from components.core.settings import Settings
from components.interfaces import Subject
from components.services.application import Application
from components.services.benchmarking import BenchmarkService
from components.services.elsewhere.passed_on import events_written
from components.services.optimization import OptimizationService
from components.services.search import SearchService
from components.services.trials import Trial

JOB, EVENTS, RESULT, FAILURE = "job.json", "events.jsonl", "result.json", "failure.json"
_ONE = Lock()
"""A worker may have several threads; directory, plugins and arithmetic belong to the whole process."""


def write_job(place: Path, step: str, recipe: Recipe, settings: Settings, given: dict[str, Any]) -> None:
    """Everything that another process needs for one step."""
    plain = settings.model_dump(mode="json", exclude={"sinks"}) | {"root": str(settings.folder)}
    job = {"step": step, "recipe": recipe.dump(), "settings": plain, "cwd": str(Path.cwd())}
    write_json(place / JOB, job | {"given": to_jsonable_python(given)})


def work(folder: str) -> None:
    """Do the job in this folder and leave its result there, or why there is none."""
    place = Path(folder)
    job = json.loads((place / JOB).read_text(encoding="utf-8"))
    bus = EventBus()
    with _ONE, chdir(job["cwd"]), events_written(place / EVENTS, bus):
        try:
            result = _done(job, bus)
        except Exception as error:
            failure = {"type": type(error).__name__, "message": str(error), "trace": traceback.format_exc()}
            write_json(place / FAILURE, failure)
        else:
            write_json(place / RESULT, to_jsonable_python(result))


def outcome(place: Path) -> Any:
    """What `work` left: the result as plain data, or its error, raised here."""
    if not (place / FAILURE).is_file():
        return json.loads((place / RESULT).read_text(encoding="utf-8"))
    failure = json.loads((place / FAILURE).read_text(encoding="utf-8"))
    kind = getattr(errors, failure["type"], None)
    if isinstance(kind, type) and issubclass(kind, PostmillError):
        raise kind(failure["message"])
    raise RuntimeError(f"in another process:\n{failure['trace']}")


def _done(job: dict[str, Any], bus: EventBus) -> Any:
    """The step, with the plugins of the process that asked for it."""
    with Application(Settings.model_validate(job["settings"])) as app:
        recipe = parse_recipe(job["recipe"])
        with app.container(recipe, bus) as container, container.scope() as run:
            step = validate_call(config={"arbitrary_types_allowed": True})(STEPS[job["step"]])
            return step(run, recipe, **job["given"])


def _variant(run: Any, recipe: Recipe, name: str, source: Artifact, dataset: Artifact) -> Artifact:
    passes: OptimizationService = run.get(OptimizationService)
    return passes.variant(name, recipe.optimize[name], source, recipe.seed, dataset)


def _benchmark(
    run: Any, recipe: Recipe, spec: dict[str, Any], subjects: list[Subject], dataset: Artifact
) -> list[Artifact]:
    parsed = OfKind("benchmark").parse(spec)
    assert parsed is not None
    benchmarks: BenchmarkService = run.get(BenchmarkService)
    return benchmarks.run(parsed, subjects, dataset, recipe.seed)


def _trial(
    run: Any, recipe: Recipe, trial: Trial, subjects: list[Subject], dataset: Artifact, finished: list[Trial]
) -> Trial:
    assert recipe.optimize.search is not None
    searches: SearchService = run.get(SearchService)
    return searches.begin(recipe.optimize.search, trial, subjects, dataset, recipe.seed, finished)


STEPS: dict[str, Callable[..., Any]] = {"variant": _variant, "benchmark": _benchmark, "trial": _trial}
