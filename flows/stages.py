"""What each stage of `dvc.yaml` does: the services that the flow calls, in its order, without an orchestrator.

`flows.stage` runs one of them on what earlier ones left in `outputs/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from components.core.artifacts import Artifact
from components.core.errors import StepSkipped
from components.core.search import SEARCH
from components.services.benchmarking import BenchmarkService
from components.services.data import DataService
from components.services.judging import JudgingService
from components.services.model import ModelService
from components.services.optimization import OptimizationService
from components.services.outputs import Made
from components.services.search import SearchService, variants
from components.services.training import TrainingService
from components.services.trials import Trial
from flows.stage_figures import write_report, write_training
from flows.stage_step import OPTIMIZE, Step


def data(step: Step) -> Made:
    """The base model, and the rows that passed the contract as its tokens."""
    base, service = step.run.get(ModelService).fetch(step.plan.model), step.run.get(DataService)
    dataset = service.validate(step.plan.data, base)
    service.require(step.plan, dataset, base)
    step.run.get(OptimizationService).require(step.plan.optimize, base)
    return Made({"base": base, "dataset": dataset}, {"changed": dataset.meta["changed"]})


def train(step: Step) -> Made:
    """The trained model or adapter."""
    trained = step.run.get(TrainingService).train(step.plan.train, step.base, step.dataset, step.plan.seed)
    write_training(step, trained)
    return Made({"trained": trained})


def optimize(step: Step) -> Made:
    """One variant, or those that the search found; nothing if it is skipped."""
    variant, service = step.name.removeprefix(OPTIMIZE), step.run.get(OptimizationService)
    if variant == SEARCH:
        return _search(step)
    with suppress(StepSkipped):
        made = service.variant(variant, step.plan.optimize[variant], step.trained, step.plan.seed, step.dataset)
        return Made({variant: made})
    return Made({})


def _search(step: Step) -> Made:
    asked, service, subjects = step.plan.optimize.search, step.run.get(SearchService), step.subjects()
    assert asked is not None
    study, trials = service.study(asked, step.plan.seed), list[Trial]()
    with ThreadPoolExecutor(asked.parallel) as pool:
        while batch := study.batch():
            known = tuple(trials)
            running = [
                pool.submit(service.run, asked, trial, subjects, step.dataset, step.plan.seed, known) for trial in batch
            ]
            for trial in [future.result() for future in running]:
                study.tell(trial)
                service.tell(trial)
                trials.append(trial)
    return Made({SEARCH: service.report(asked, trials, step.trained), **variants(asked, trials)})


def benchmark(step: Step) -> Made:
    """What every benchmark found of every subject; one that is skipped is left out."""
    subjects, service, found = step.subjects(), step.run.get(BenchmarkService), dict[str, Artifact]()
    for position, spec in enumerate(step.plan.benchmark):
        with suppress(StepSkipped):
            made = service.run(spec, subjects, step.dataset, step.plan.seed)
            found |= {f"{position}-{spec.type}-{number}": artifact for number, artifact in enumerate(made)}
    return Made(found, {"variants": [subject.name for subject in subjects[2:]]})


def judge(step: Step) -> Made:
    """The verdict of the gates. One that accepts nothing is a result too: the stage does not fail for it."""
    judged = step.inputs["benchmark"].facts["variants"]
    return Made({"verdict": step.run.get(JudgingService).judge(step.plan, step.measured, judged)})


def report(step: Step) -> Made:
    """The evidence, and the figures of every model for DVC."""
    write_report(step)
    return Made({})


FUNCTIONS: Mapping[str, Callable[[Step], Made]] = {
    function.__name__: function for function in (data, train, optimize, benchmark, judge, report)
}
