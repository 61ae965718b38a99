"""Writes what happens on the bus into a tracker: losses while training, figures of every benchmark, stage times."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.core.artifacts import hash_json
from components.core.events import Event
from components.core.kinds import registry
from components.core.provenance import git_state
from components.core.recipe import Recipe
from components.interfaces import Tracker
from components.services.workspace import Workspace

STEPS_IN_A_BATCH = 10


class RunTracking:
    """One tracked run of a recipe: subscribes to the bus, and closes the run with its outcome."""

    def __init__(self, workspace: Workspace, recipe: Recipe, tracker: str = "mlflow") -> None:
        self.workspace, self.recipe = workspace, recipe
        self.tracker: Tracker = registry.create("tracker", tracker, root=workspace.root)
        self.run_id = ""
        self._waiting: list[tuple[int, dict[str, float]]] = []
        self._started: dict[str, float] = {}
        self._off: list[Callable[[], None]] = []

    def __enter__(self) -> RunTracking:
        recipe = self.recipe.dump()
        git = git_state(Path.cwd())
        tags = {"postmill.recipe": hash_json(recipe), "git.commit": git["commit"], "git.dirty": git["dirty"]}
        self.run_id = self.tracker.start(self.recipe.name, _flatten(recipe), tags)
        handlers: dict[str, Callable[[Event], None]] = {
            "train.step": self._on_step,
            "train.summary": self._on_summary,
            "benchmark.measured": self._on_benchmark,
            "stage.started": self._on_stage_started,
            "stage.finished": self._on_stage_finished,
            "stage.cached": self._on_stage_cached,
            "data.validated": self._on_data,
            "evidence.written": self._on_evidence,
        }
        self._off = [self.workspace.bus.on(handler, name) for name, handler in handlers.items()]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for off in self._off:
            off()
        self._flush()
        if error is not None:
            self.tracker.tag({"postmill.error": f"{type(error).__name__}: {error}"[:500]})
        self.tracker.finish("FAILED" if error is not None else "FINISHED")

    def _on_step(self, event: Event) -> None:
        values = {f"train/{name}": event.data[name] for name in ("loss", "grad_norm", "learning_rate", "tokens_per_s")}
        self._waiting.append((event.data["step"], values))
        # one write for ten steps: a database transaction each step would cost more than it tells
        if len(self._waiting) >= STEPS_IN_A_BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self.tracker.metrics(self._waiting)
        self._waiting = []

    def _figures(self, values: dict[str, float]) -> None:
        self.tracker.metrics([(0, values)])

    def _on_summary(self, event: Event) -> None:
        self._flush()
        self._figures({f"train/total_{k}": v for k, v in event.data.items() if isinstance(v, int | float)})

    def _on_benchmark(self, event: Event) -> None:
        self._figures({f"{event.data['subject']}/{name}": v for name, v in event.data["metrics"].items()})

    def _on_stage_started(self, event: Event) -> None:
        self._started[_stage(event)] = event.time

    def _on_stage_finished(self, event: Event) -> None:
        self._figures({f"seconds/{_stage(event)}": time.time() - self._started[_stage(event)]})
        self.tracker.tag({f"artifact.{_stage(event)}": event.data["key"]})

    def _on_stage_cached(self, event: Event) -> None:
        self.tracker.tag({f"artifact.{_stage(event)}": f"{event.data['key']} (cached)"})

    def _on_data(self, event: Event) -> None:
        for group in ("rows", "quarantined"):
            self._figures({f"data/{group}_{split}": n for split, n in event.data[group].items()})

    def _on_evidence(self, event: Event) -> None:
        for file in sorted(Path(event.data["folder"]).iterdir()):
            self.tracker.file(file, "evidence")
        chosen = event.data["chosen"]
        self.tracker.tag({"postmill.verdict": "accepted" if chosen else "rejected", "postmill.chosen": str(chosen)})


def _stage(event: Event) -> str:
    return f"{event.data['stage']}.{event.data['name']}".replace(" ", ".").replace("/", ".")


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """`{"train": [{"max_steps": 60}]}` -> `{"train.0.max_steps": 60}`, the keys that `--set` takes."""
    if isinstance(value, dict):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict | list):
        items = [(str(position), item) for position, item in enumerate(value)]
    else:
        return {prefix.rstrip("."): value}
    return {name: leaf for key, item in items for name, leaf in _flatten(item, f"{prefix}{key}.").items()}
