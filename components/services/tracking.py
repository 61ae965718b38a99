"""Writes what happens on the bus into a tracker: losses while training, figures of every benchmark, stage times.

`train/loss` where the recipe has one training step; of several, each has a name of its own: `train/1-sft/loss`,
`train/2-dpo/loss`, and so for `eval/`, `speed/` and their tags.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import core_schema

from components.core.artifacts import hash_json
from components.core.component import StrictConfig
from components.core.config import NestedConfigError
from components.core.errors import ConfigError
from components.core.events import (
    BenchmarkMeasured,
    CheckpointLoaded,
    DataChanged,
    DataValidated,
    Event,
    EvidenceWritten,
    MetricLogged,
    RunFinished,
    RunStarted,
    SampleGenerated,
    SpeedChosen,
    StageCached,
    StageFinished,
    StageSkipped,
    TrainingAdapted,
    TrainingEvaluated,
    TrainingFinished,
    TrainingStarted,
    TrainStep,
    TrialFinished,
)
from components.core.kinds import service
from components.core.provenance import git_state
from components.core.recipe import OfKind, Recipe, Spec
from components.core.search import TRIAL
from components.core.secret import masked, masked_data
from components.interfaces import Tracker
from components.services.application import Application
from components.services.timings import Stopwatch
from components.services.workspace import Workspace
from components.trackers._several import Several
from components.trackers.mlflow import MlflowTracker

STEPS_IN_A_BATCH = 10
KEPT_STEPS = 1000
"""Steps that wait for a tracker which refuses them; older ones are given up."""
SAMPLES = "samples.jsonl"


def _spec(given: Any) -> Any:
    """`mlflow` is short for `{type: mlflow}`."""
    return {"type": given} if isinstance(given, str) else given


class OneOrSeveral(OfKind):
    """A component of a kind, by name or with keys of its own, or a list of them without doubles."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        dump = core_schema.plain_serializer_function_ser_schema(
            lambda given: given.dump() if isinstance(given, Spec) else [spec.dump() for spec in given]
        )
        return core_schema.no_info_plain_validator_function(self.parse_any, serialization=dump)

    def parse_any(self, raw: Any) -> Spec | list[Spec] | None:
        """One spec for a name or a mapping, a list of them for a list."""
        if not isinstance(raw, list | tuple):
            return self.parse(_spec(raw))
        each = Annotated[Spec, OfKind(self.kind), BeforeValidator(_spec)]
        try:
            specs = TypeAdapter(list[each]).validate_python(list(raw))
        except ValidationError as error:
            raise NestedConfigError(error, StrictConfig) from error
        names = [spec.type for spec in specs]
        doubles = sorted({name for name in names if names.count(name) > 1})
        if doubles or not names:
            problem = f"'{doubles[0]}' stands there twice" if doubles else "the list is empty"
            raise ConfigError(f"name at least one {self.kind}, and each of them once: {problem}")
        return specs


@service("tracking", lifetime="scoped")
class RunTracking:
    """One tracked run of a recipe: subscribes to the bus, and closes the run with its outcome."""

    class Config(StrictConfig):
        tracker: Annotated[Spec | list[Spec], OneOrSeveral("tracker")] = Field(
            "mlflow", validate_default=True, description="one, or a list; the first one gives the run its id"
        )

    def __init__(
        self,
        workspace: Workspace,
        recipe: Recipe,
        config: Config | None = None,
        application: Application | None = None,
    ) -> None:
        self.workspace, self.recipe = workspace, recipe
        self.plugins = loaded_plugins(application) if application else ()
        chosen = (config or self.Config()).tracker
        specs = chosen if isinstance(chosen, list) else [chosen]
        _check_registry(recipe, specs)
        self.trackers = Several({spec.type: _below(workspace.root, spec).build() for spec in specs})
        self.skipped: list[StageSkipped] = []
        self.run_id = ""
        self._waiting: dict[str, list[tuple[int, dict[str, float]]]] = {name: [] for name in self.trackers.trackers}
        self._steps = 0
        self._at = self._last = -1  # the training step of the recipe that is on, and the last of its steps written
        self._training = False
        self._samples: list[SampleGenerated] = []
        self.watch = Stopwatch(workspace.bus)
        self._off: list[Callable[[], None]] = []

    def __enter__(self) -> RunTracking:
        recipe = self.recipe.dump()
        git = git_state(Path.cwd())
        digest = hash_json(recipe)
        tags = {"postmill.recipe": digest, "git.commit": git["commit"], "git.dirty": git["dirty"]}
        tags |= plugin_tags(self.plugins)
        self.run_id = self.trackers.start(self.recipe.name, _flatten(recipe), tags)
        bus = self.workspace.bus
        self._off.append(self.watch.__enter__().__exit__)
        bus.emit(RunStarted(recipe=self.recipe.name, run_id=self.run_id, digest=digest, plugins=self.plugins))
        handlers: dict[type[Event], Callable[[Any], None]] = {
            TrainingStarted: self._on_training_started,
            SpeedChosen: self._on_speed,
            CheckpointLoaded: self._on_resumed,
            TrainStep: self._on_step,
            TrainingEvaluated: self._on_evaluated,
            TrainingAdapted: self._on_adapted,
            SampleGenerated: self._samples.append,
            TrainingFinished: self._on_training_finished,
            MetricLogged: self._on_metric,
            BenchmarkMeasured: self._on_benchmark,
            TrialFinished: self._on_trial,
            StageFinished: self._on_stage_finished,
            StageCached: self._on_stage_cached,
            DataValidated: self._on_data,
            DataChanged: self._on_changed,
            StageSkipped: self._on_stage_skipped,
            EvidenceWritten: self._on_evidence,
        }
        self._off = [bus.on(event, handler) for event, handler in handlers.items()]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for off in self._off:
            off()
        try:
            self._close(error)
        except Exception as refused:
            error = refused if error is None else error
            raise
        finally:
            # also when the tracker itself fails: whoever waits for the end of the run must not wait for ever
            self.workspace.bus.emit(
                RunFinished(recipe=self.recipe.name, run_id=self.run_id, status=_status(error), error=_text(error))
            )

    @property
    def tracker(self) -> Tracker:
        """The only tracker, or the first one of several."""
        return self.trackers.first

    def notes(self) -> dict[str, str]:
        """Steps that were left out so far, and why; of two steps with the same name both reasons."""
        found: dict[str, dict[str, None]] = {}
        for event in self.skipped:
            found.setdefault(f"{event.stage} {event.name}", {})[event.reason] = None
        return {name: "; ".join(reasons) for name, reasons in found.items()}

    def _close(self, error: BaseException | None) -> None:
        with TemporaryDirectory(prefix="postmill-tracking-") as scratch:  # until trackers have sent what is in it
            try:
                if error is not None:
                    self.trackers.tag({"postmill.error": _text(error)[:500]})
                self._flush()
                self._write_samples(Path(scratch) / SAMPLES)
            except Exception as refused:
                error = refused if error is None else error
                raise
            finally:
                self.trackers.finish(_status(error))

    def _write_samples(self, path: Path) -> None:
        if self._samples:
            lines = [json.dumps(masked_data(sample.data), ensure_ascii=False) for sample in self._samples]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            self.trackers.file(path)

    # ------------------------------------------------------------ which training step

    def _on_training_started(self, event: TrainingStarted) -> None:
        tried_again = self._training and self.recipe.train[self._at].type == event.trainer
        if not tried_again:
            self._pass_on_to(event.trainer)
        self._training, self._last = self._at >= 0, -1

    def _pass_on_to(self, trainer: str) -> None:
        """The next training step of this type, in the order of the recipe, has its turn."""
        later = range(self._at + 1, len(self.recipe.train))
        self._at = next((at for at in later if self.recipe.train[at].type == trainer), self._at)
        self._last = -1

    def _own(self, after: str) -> str:
        """`1-sft/` of several training steps, nothing of one."""
        steps = [at for at, spec in enumerate(self.recipe.train) if spec.enabled]
        if len(steps) < 2 or self._at not in steps:
            return ""
        return f"{steps.index(self._at) + 1}-{self.recipe.train[self._at].type}{after}"

    # ------------------------------------------------------------ what happens

    def _on_step(self, event: TrainStep) -> None:
        if event.step <= self._last:
            return
        self._last = event.step
        measured = {"loss": event.loss, **event.figures, "tokens_per_s": event.tokens_per_s}
        for waiting in self._waiting.values():
            waiting.append((event.step, _under(f"train/{self._own('/')}", measured)))
            del waiting[:-KEPT_STEPS]
        # one write for ten steps: a database transaction each step would cost more than it tells
        self._steps += 1
        if self._steps % STEPS_IN_A_BATCH == 0:
            self._flush()

    def _flush(self) -> None:
        def write(name: str, tracker: Tracker) -> None:
            if self._waiting[name]:
                tracker.metrics(self._waiting[name])
            self._waiting[name] = []

        self.trackers.each(write)

    def _on_metric(self, event: MetricLogged) -> None:
        # at once, in a write of its own: a name that the tracker refuses must not take our losses with it
        self.trackers.metrics([(event.step, event.values)])

    def _figures(self, values: Mapping[str, float]) -> None:
        self.trackers.metrics([(0, values)])

    def _on_speed(self, event: SpeedChosen) -> None:
        at = f"speed.{self._own('.')}"
        tags = {f"{at}{name}": str(value)[:500] for name, value in event.choice.items()}
        if event.tried:
            tags[f"{at}tried"] = json.dumps([dict(attempt) for attempt in event.tried], default=str)[:2000]
        self.trackers.tag(tags)
        # a curve over the attempts; the choice stands before them, at 0
        points = [_numbers(f"speed/{self._own('/')}", values) for values in (event.choice, *event.tried)]
        self.trackers.metrics([(number, figures) for number, figures in enumerate(points) if figures])

    def _on_resumed(self, event: CheckpointLoaded) -> None:
        self._last = event.step
        named = f"{self._own(': ')}step {event.step}, {event.path}"
        self.trackers.tag({"postmill.resumed_from": named})

    def _on_evaluated(self, event: TrainingEvaluated) -> None:
        self.trackers.metrics([(event.step, _numbers(f"eval/{self._own('/')}", event.figures))])

    def _on_adapted(self, event: TrainingAdapted) -> None:
        self._last = -1  # from the beginning, or from a checkpoint, which is told next
        self.trackers.tag(
            {f"postmill.adapted.{self._own('.')}{event.step}": masked(f"{event.reason}; {event.action}")[:500]}
        )

    def _on_training_finished(self, event: TrainingFinished) -> None:
        self._flush()
        self._figures(_numbers(f"train/{self._own('/')}total_", event.figures))

    def _on_trial(self, event: TrialFinished) -> None:
        """A curve over the trials in the run, and a run of its own below it where the tracker has such a thing."""
        self.trackers.metrics([(event.number, _under("search/", event.figures))])
        tags = {"postmill.trial": event.state, "postmill.reason": masked(event.reason)[:500]}
        tags |= {"postmill.artifact": event.artifact} if event.artifact else {}
        params = _flatten([dict(step) for step in event.chain])

        def write(_: str, tracker: Tracker) -> None:
            below = tracker.child(f"{self.recipe.name} trial {event.number}", params, tags)
            if below is not None:
                below.metrics([(0, event.figures)])
                below.finish("FAILED" if event.state == "failed" else "FINISHED")

        self.trackers.each(write)

    def _on_benchmark(self, event: BenchmarkMeasured) -> None:
        if event.subject == TRIAL:  # told when the trial has ended, under its number
            return
        self._figures({f"{event.subject}/{name}": v for name, v in event.metrics.items()})

    def _on_stage_finished(self, event: StageFinished) -> None:
        self._training = self._training and event.stage != "train"
        cost = {"seconds": event.seconds, "memory": event.peak_memory, "cpu": event.cpu}
        if event.peak_gpu_memory:
            cost["gpu_memory"] = event.peak_gpu_memory
        self._figures({f"{name}/{_stage(event)}": value for name, value in cost.items()})
        self.trackers.tag({f"artifact.{_stage(event)}": event.key})

    def _on_stage_cached(self, event: StageCached) -> None:
        if event.stage == "train":
            self._pass_on_to(event.name)
        self.trackers.tag({f"artifact.{_stage(event)}": f"{event.key} (cached)"})

    def _on_stage_skipped(self, event: StageSkipped) -> None:
        if event.stage == "train":
            if not self._training:  # skipped before it began, so nobody said that it has its turn
                self._pass_on_to(event.name)
            self._training = False
        self.skipped.append(event)
        reason = self.notes()[f"{event.stage} {event.name}"]
        self.trackers.tag({f"postmill.skipped.{_stage(event)}": masked(reason)[:500]})

    def _on_data(self, event: DataValidated) -> None:
        for group, counts in (("rows", event.rows), ("quarantined", event.quarantined)):
            self._figures({f"data/{group}_{split}": n for split, n in counts.items()})

    def _on_changed(self, event: DataChanged) -> None:
        self.trackers.tag({"postmill.data.changed": "; ".join(event.files)[:2000]})

    def _on_evidence(self, event: EvidenceWritten) -> None:
        for file in sorted(Path(event.folder).iterdir()):
            self.trackers.file(file, "evidence")
        if self.recipe.judged:
            verdict = "accepted" if event.chosen else "rejected"
            self.trackers.tag({"postmill.verdict": verdict, "postmill.chosen": str(event.chosen)})


def loaded_plugins(application: Application) -> tuple[str, ...]:
    """Names and versions: `("acme 1.0", "base 2.1")`."""
    loaded = [report for report in application.plugins.reports.values() if report.outcome == "loaded"]
    return tuple(sorted(f"{report.name} {report.version}".rstrip() for report in loaded))


def plugin_tags(plugins: Sequence[str]) -> dict[str, str]:
    """The tag of a run and of a registered version; none without plugins."""
    return {"postmill.plugins": ", ".join(plugins)} if plugins else {}


def _check_registry(recipe: Recipe, specs: Sequence[Spec]) -> None:
    """The registry hangs a version on its run in MLflow: found at the start, not when everything is trained."""
    if recipe.register_as is not None and not issubclass(specs[0].component, MlflowTracker):
        raise ConfigError(
            f"services.tracking.tracker: a registered version belongs to a run in MLflow, and '{specs[0].type}' makes "
            f"none; write tracker: [mlflow, {specs[0].type}], or take 'register' out of the recipe"
        )


def _below(root: Path, spec: Spec) -> Spec:
    """The tracker with `root`, if it asks for one and the recipe does not say another."""
    asked = "root" in type(spec.config).model_fields and "root" not in spec.config.model_fields_set
    return spec.model_copy(update={"config": spec.config.model_copy(update={"root": root})}) if asked else spec


def _under(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in values.items()}


def _numbers(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    """The figures among the values."""
    return _under(prefix, {k: v for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)})


def _stage(event: StageFinished | StageCached | StageSkipped) -> str:
    return f"{event.stage}.{event.name}".replace(" ", ".").replace("/", ".")


def _status(error: BaseException | None) -> Literal["FINISHED", "FAILED"]:
    return "FINISHED" if error is None else "FAILED"


def _text(error: BaseException | None) -> str:
    return "" if error is None else masked(f"{type(error).__name__}: {error}")


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """`{"train": [{"max_steps": 60}]}` -> `{"train.0.max_steps": 60}`, the keys that `--set` takes."""
    if isinstance(value, dict):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict | list):
        items = [(str(position), item) for position, item in enumerate(value)]
    else:
        return {prefix.rstrip("."): value}
    return {name: leaf for key, item in items for name, leaf in _flatten(item, f"{prefix}{key}.").items()}
