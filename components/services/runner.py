"""Where variants, benchmarks and trials are made: on threads of this process, or in processes here or elsewhere.

    # postmill.yaml
    runner: {type: dask, workers: 2}                  # threads, processes, dask, ray

The results are the same: what is made lands in one store, under the same keys. Training stays in this process, and so
do measurements of time, which run alone, when nothing else does.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Self

from components.core.artifacts import Artifact
from components.core.errors import ConfigError, PostmillError
from components.core.kinds import service
from components.core.recipe import Recipe, Spec
from components.core.search import parsed_chain
from components.core.secret import masked
from components.core.settings import Settings
from components.interfaces import Subject
from components.runners._base import Runner, WorkerLost, Workers
from components.services.benchmarking import BenchmarkService
from components.services.elsewhere.chosen_runner import chosen_runner
from components.services.elsewhere.passed_on import events_passed_on
from components.services.elsewhere.step import EVENTS, outcome, work, write_job
from components.services.elsewhere.turns import Turns, timed
from components.services.optimization import OptimizationService
from components.services.search import SearchService
from components.services.trials import Trial
from components.services.workspace import Workspace

log = logging.getLogger(__name__)
JOBS = ".jobs"
TRIES = 2


@service("runner", lifetime="scoped")
class RunnerService:
    """Does the steps of a run that may be done beside each other, where the settings say."""

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        passes: OptimizationService,
        benchmarks: BenchmarkService,
        searches: SearchService,
    ) -> None:
        self.workspace, self.settings = workspace, settings
        self.passes, self.benchmarks, self.searches = passes, benchmarks, searches
        self.runner: Runner = chosen_runner(settings)
        self.workers = self.runner if isinstance(self.runner, Workers) else None
        self._turns = Turns()

    def __enter__(self) -> Self:
        if self.workers is not None:
            self.workers.check()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End what is being made elsewhere: nobody waits for it any more."""
        if self.workers is not None:
            self.workers.stop()

    @property
    def at_once(self) -> int:
        """How many steps may run at the same time; 1: one after the other."""
        return self.runner.size

    def variant(self, recipe: Recipe, name: str, source: Artifact, dataset: Artifact) -> Artifact:
        """As `OptimizationService.variant`; a chain with a pass that must be alone is made here."""
        chain = recipe.optimize[name]
        alone = any(spec.component.alone for spec in chain)
        if self.workers is None or alone:
            with self._turns.taken(alone):
                return self.passes.variant(name, chain, source, recipe.seed, dataset)
        found = self._elsewhere("variant", recipe, name=name, source=source, dataset=dataset)
        return Artifact.model_validate(found)

    def benchmark(self, recipe: Recipe, spec: Spec, subjects: Sequence[Subject], dataset: Artifact) -> list[Artifact]:
        """As `BenchmarkService.run`; one that measures time runs here and alone."""
        if self.workers is None or timed(spec):
            with self._turns.taken(timed(spec)):
                return self.benchmarks.run(spec, subjects, dataset, recipe.seed)
        found = self._elsewhere("benchmark", recipe, spec=spec.dump(), subjects=subjects, dataset=dataset)
        return [Artifact.model_validate(each) for each in found]

    def trial(
        self, recipe: Recipe, trial: Trial, subjects: Sequence[Subject], dataset: Artifact, finished: Sequence[Trial]
    ) -> Trial:
        """As `SearchService.run`; made elsewhere, timed here and alone."""
        search = recipe.optimize.search
        assert search is not None
        alone = _alone(trial)
        if self.workers is None or alone:
            with self._turns.taken(alone and self.workers is not None):
                return self.searches.run(search, trial, subjects, dataset, recipe.seed, finished)
        try:
            given = {"trial": trial, "subjects": subjects, "dataset": dataset, "finished": finished}
            begun = Trial.model_validate(self._elsewhere("trial", recipe, **given))
        except WorkerLost as lost:  # one chain that brings a worker down is a failed trial like any other
            return trial.ended("failed", masked(str(lost)))
        with self._turns.taken(alone=True):
            return self.searches.finish(search, begun, subjects, dataset, recipe.seed)

    # ------------------------------------------------------------ in another process

    def _elsewhere(self, step: str, recipe: Recipe, **given: Any) -> Any:
        """A step in another process; its events are passed on to our bus while it works."""
        jobs = self.workspace.store.root / JOBS
        jobs.mkdir(parents=True, exist_ok=True)
        place = Path(mkdtemp(prefix=f"{step}-", dir=jobs))  # for its owner only: it holds recipe and settings
        try:
            write_job(place, step, recipe, self.settings, given)
            with self._turns.taken(alone=False), events_passed_on(place / EVENTS, self.workspace.bus):
                self._run(place)
            return outcome(place)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _run(self, place: Path) -> None:
        assert self.workers is not None
        for left in reversed(range(TRIES)):
            try:
                return self.workers.run(work, str(place))
            except WorkerLost as lost:
                if not left:
                    raise WorkerLost(
                        f"runner: {lost}; it was tried {TRIES} times, something in it brings workers down"
                    ) from lost
                log.warning("runner: %s; the task is begun again", lost)
            except PostmillError:
                raise
            except Exception as error:
                raise PostmillError(
                    f"runner: a worker of '{self.settings.runner['type']}' could not begin: {type(error).__name__}: "
                    f"{masked(str(error))}; every worker needs this Postmill, and sees '{self.workspace.root}' and "
                    f"'{Path.cwd()}' under the same paths"
                ) from error
        raise AssertionError("unreachable")


def _alone(trial: Trial) -> bool:
    """Whether a pass of its chain must be alone; a chain that is not one is told where it is tried."""
    try:
        return any(spec.component.alone for spec in parsed_chain(trial.chain))
    except ConfigError:
        return False
