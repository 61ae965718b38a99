"""Tasks of lm-evaluation-harness (Gao et al. 2024), from YAML files of yours, through the artifact that will be served.

    pip install 'postmill[lm-eval]'
    benchmark: [{type: lm_eval, tasks: evaluation/tasks, metrics: {house_rules: [acc, acc_norm]}}]

`tasks` is a folder of task files in the harness's own form; `metrics` says which of its tasks are run, and which of
their figures are reported: `house_rules_acc`. Data of a task may be a local file (`dataset_path: json`). The harness's
built-in tasks are not looked at, because they fetch their data from a hub; copy the YAML of one into the folder to use
it. A task file may name Python functions (`!function`), which the harness imports: only use folders that you trust.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveInt

from components.core.artifacts import Artifact, hash_directory, hash_json
from components.core.component import StrictConfig
from components.core.errors import DataError, did_you_mean, require
from components.core.kinds import register
from components.interfaces import Backend, Benchmark, EvalRows, Measurement, Metric, StepContext, Subject
from components.runtime import opened

LOWER = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "ter", "brier_score")
"""Metrics of the harness of which less is better."""


@register("benchmark", "lm_eval")
class LmEval(Benchmark):
    """Tasks of lm-evaluation-harness from local YAML files."""

    metrics = ()
    libraries = ("torch", "transformers", "onnxruntime-genai", "lm_eval")
    depends_on_machine = True
    neutral = ("tasks",)  # the content of the folder counts, not where it lies

    class Config(StrictConfig):
        tasks: Path = Field(description="folder with task files")
        metrics: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(
            min_length=1, description="tasks to run, and the figures of each that are reported"
        )
        limit: PositiveInt | None = Field(None, description="so many rows of each task; all of them by default")
        num_fewshot: int | None = Field(None, ge=0, description="examples in the prompt; the task's own by default")
        chat_template: bool = Field(True, description="ask through the model's chat template")

    config: Config

    @classmethod
    def reports(cls, config: Any) -> tuple[Metric, ...]:
        return tuple(
            Metric(f"{task}_{name}", "share", "lower" if name in LOWER else "higher", f"{task} {name}")
            for task, names in config.metrics.items()
            for name in names
        )

    def identity(self) -> Mapping[str, Any]:
        if not self.config.tasks.is_dir():
            raise DataError(f"lm_eval.tasks: '{self.config.tasks}' is no folder; name one with task files in it")
        return {"files": hash_json(hash_directory(self.config.tasks))}

    def problem(self, dataset: Artifact) -> str | None:
        require("lm_eval", "lm-eval")
        self.identity()
        known, folder = list(self._manager().all_tasks), self.config.tasks
        missing = [f"'{task}'{did_you_mean(task, known)}" for task in self.config.metrics if task not in known]
        if missing:
            raise DataError(f"lm_eval: '{folder}' has no task {', '.join(missing)} (known: {', '.join(known)})")
        return None

    def _manager(self) -> Any:
        require("lm_eval", "lm-eval")
        from lm_eval.tasks import TaskManager

        return TaskManager(include_path=str(self.config.tasks), include_defaults=False)

    def measure(self, subjects: Sequence[Subject], rows: EvalRows, context: StepContext) -> list[Measurement]:
        require("lm_eval", "lm-eval")
        measured = []
        for subject in subjects:
            with opened(subject, bus=context.bus, dtype="float32") as backend, _quiet():
                measured.append(self._summary(subject.name, self._evaluate(backend, subject, context.seed)))
        return measured

    def _evaluate(self, backend: Backend, subject: Subject, seed: int) -> Mapping[str, Any]:
        from lm_eval import simple_evaluate

        from components.benchmarks._lm_eval_model import BackendModel

        found: Mapping[str, Any] = simple_evaluate(
            model=BackendModel(backend, subject.artifact.digest),
            tasks=list(self.config.metrics),
            task_manager=self._manager(),
            num_fewshot=self.config.num_fewshot,
            limit=self.config.limit,
            apply_chat_template=self.config.chat_template,
            fewshot_as_multiturn=self.config.chat_template,
            bootstrap_iters=0,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
        return found

    def _summary(self, name: str, found: Mapping[str, Any]) -> Measurement:
        figures: dict[str, float] = {}
        lines: list[dict[str, Any]] = []
        for task, wanted in self.config.metrics.items():
            # the harness calls them NAME,FILTER
            all_of = {key.partition(",")[0]: value for key, value in found["results"][task].items()}
            for metric in wanted:
                if not isinstance(all_of.get(metric), int | float):
                    known = ", ".join(key for key, value in all_of.items() if isinstance(value, int | float))
                    raise DataError(f"lm_eval: the task '{task}' reports no '{metric}' (reported: {known})")
                figures[f"{task}_{metric}"] = float(all_of[metric])
            lines += [_line(task, wanted, sample) for sample in found["samples"].get(task, [])]
        notes = {"versions": dict(found["versions"]), "rows": len(lines)}
        return Measurement(subject=name, benchmark="lm_eval", metrics=figures, rows=lines, notes=notes)


def _line(task: str, wanted: Sequence[str], sample: Mapping[str, Any]) -> dict[str, Any]:
    """One row of a task; a figure that is computed over all rows (perplexity) has none by row."""
    found = {f"{task}_{name}": sample.get(name) for name in wanted}
    scores = {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
    return {"id": f"{task}-{sample['doc_id']}", **scores}


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness tells at length what it does; what went wrong is still said."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
