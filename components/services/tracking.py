"""Writes what happens on the bus into a tracker: losses while training, figures of every benchmark, stage times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from components.core.artifacts import hash_json
from components.core.component import StrictConfig
from components.core.events import (
    BenchmarkMeasured,
    DataChanged,
    DataValidated,
    Event,
    EvidenceWritten,
    MetricLogged,
    RunFinished,
    RunStarted,
    StageCached,
    StageFinished,
    StageSkipped,
    StageStarted,
    TrainingFinished,
    TrainStep,
)
from components.core.kinds import service
from components.core.provenance import git_state
from components.core.recipe import OfKind, Recipe, Spec
from components.core.secret import masked
from components.interfaces import Tracker
from components.services.application import Application
from components.services.workspace import Workspace

STEPS_IN_A_BATCH = 10


def _spec(given: Any) -> Any:
    """`mlflow` is short for `{type: mlflow}`."""
    return {"type": given} if isinstance(given, str) else given


@service("tracking", lifetime="scoped")
class RunTracking:
    """One tracked run of a recipe: subscribes to the bus, and closes the run with its outcome."""

    class Config(StrictConfig):
        tracker: Annotated[Spec, OfKind("tracker"), BeforeValidator(_spec)] = Field("mlflow", validate_default=True)

    def __init__(
        self,
        workspace: Workspace,
        recipe: Recipe,
        config: Config | None = None,
        application: Application | None = None,
    ) -> None:
        self.workspace, self.recipe = workspace, recipe
        self.plugins = loaded_plugins(application) if application else ()
        self.tracker: Tracker = _below(workspace.root, (config or self.Config()).tracker).build()
        self.skipped: list[StageSkipped] = []
        self.run_id = ""
        self._waiting: list[tuple[int, dict[str, float]]] = []
        self._started: dict[str, float] = {}
        self._off: list[Callable[[], None]] = []

    def __enter__(self) -> RunTracking:
        recipe = self.recipe.dump()
        git = git_state(Path.cwd())
        digest = hash_json(recipe)
        tags = {"postmill.recipe": digest, "git.commit": git["commit"], "git.dirty": git["dirty"]}
        tags |= plugin_tags(self.plugins)
        self.run_id = self.tracker.start(self.recipe.name, _flatten(recipe), tags)
        bus = self.workspace.bus
        bus.emit(RunStarted(recipe=self.recipe.name, run_id=self.run_id, digest=digest, plugins=self.plugins))
        handlers: dict[type[Event], Callable[[Any], None]] = {
            TrainStep: self._on_step,
            TrainingFinished: self._on_training_finished,
            MetricLogged: self._on_metric,
            BenchmarkMeasured: self._on_benchmark,
            StageStarted: self._on_stage_started,
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

    def notes(self) -> dict[str, str]:
        """Steps that were left out so far, and why."""
        return {f"{event.stage} {event.name}": event.reason for event in self.skipped}

    def _close(self, error: BaseException | None) -> None:
        self._flush()
        if error is not None:
            self.tracker.tag({"postmill.error": _text(error)[:500]})
        self.tracker.finish(_status(error))

    def _on_step(self, event: TrainStep) -> None:
        measured = {"loss": event.loss, **event.figures, "tokens_per_s": event.tokens_per_s}
        self._waiting.append((event.step, {f"train/{name}": value for name, value in measured.items()}))
        # one write for ten steps: a database transaction each step would cost more than it tells
        if len(self._waiting) >= STEPS_IN_A_BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self.tracker.metrics(self._waiting)
        self._waiting = []

    def _on_metric(self, event: MetricLogged) -> None:
        # at once, in a write of its own: a name that the tracker refuses must not take our losses with it
        self.tracker.metrics([(event.step, event.values)])

    def _figures(self, values: Mapping[str, float]) -> None:
        self.tracker.metrics([(0, values)])

    def _on_training_finished(self, event: TrainingFinished) -> None:
        self._flush()
        self._figures({f"train/total_{k}": v for k, v in event.figures.items() if isinstance(v, int | float)})

    def _on_benchmark(self, event: BenchmarkMeasured) -> None:
        self._figures({f"{event.subject}/{name}": v for name, v in event.metrics.items()})

    def _on_stage_started(self, event: StageStarted) -> None:
        self._started[_stage(event)] = event.time

    def _on_stage_finished(self, event: StageFinished) -> None:
        self._figures({f"seconds/{_stage(event)}": event.time - self._started[_stage(event)]})
        self.tracker.tag({f"artifact.{_stage(event)}": event.key})

    def _on_stage_cached(self, event: StageCached) -> None:
        self.tracker.tag({f"artifact.{_stage(event)}": f"{event.key} (cached)"})

    def _on_stage_skipped(self, event: StageSkipped) -> None:
        self.skipped.append(event)
        self.tracker.tag({f"postmill.skipped.{_stage(event)}": masked(event.reason)[:500]})

    def _on_data(self, event: DataValidated) -> None:
        for group, counts in (("rows", event.rows), ("quarantined", event.quarantined)):
            self._figures({f"data/{group}_{split}": n for split, n in counts.items()})

    def _on_changed(self, event: DataChanged) -> None:
        self.tracker.tag({"postmill.data.changed": "; ".join(event.files)[:2000]})

    def _on_evidence(self, event: EvidenceWritten) -> None:
        for file in sorted(Path(event.folder).iterdir()):
            self.tracker.file(file, "evidence")
        verdict = "accepted" if event.chosen else "rejected"
        self.tracker.tag({"postmill.verdict": verdict, "postmill.chosen": str(event.chosen)})


def loaded_plugins(application: Application) -> tuple[str, ...]:
    """Names and versions: `("acme 1.0", "base 2.1")`."""
    loaded = [report for report in application.plugins.reports.values() if report.outcome == "loaded"]
    return tuple(sorted(f"{report.name} {report.version}".rstrip() for report in loaded))


def plugin_tags(plugins: Sequence[str]) -> dict[str, str]:
    """The tag of a run and of a registered version; none without plugins."""
    return {"postmill.plugins": ", ".join(plugins)} if plugins else {}


def _below(root: Path, spec: Spec) -> Spec:
    """The tracker with `root`, if it asks for one and the recipe does not say another."""
    asked = "root" in type(spec.config).model_fields and "root" not in spec.config.model_fields_set
    return spec.model_copy(update={"config": spec.config.model_copy(update={"root": root})}) if asked else spec


def _stage(event: StageStarted | StageFinished | StageCached | StageSkipped) -> str:
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
