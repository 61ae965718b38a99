"""What Postmill adds to a step of the trainer underneath: checkpoints, events, tracking.

    python -m benchmarks._training_overhead recipe.yaml MODEL_ROOT FOLDER ROUNDS

Every round trains three times in one process, in turn: TRL's own trainer class, bare, on the same network (with the
same lean head) with the same arguments and rows in the same order, but without guards, checkpoints, events and whoever
listens to them; through `TrainingService` with a recipe's defaults; and through it with a tracked run. Prints the
seconds of `Trainer.train` for each, and of the whole service, as JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from benchmarks._training_ours import inputs
from benchmarks._training_probe import install
from components.core.artifacts import Artifact
from components.core.recipe import Recipe, load_recipe
from components.services.tracking import RunTracking
from components.services.training import TrainingService
from components.services.workspace import Workspace

KINDS = ("bare", "service", "tracked")


class Trained(BaseException):
    """Leaves the service as soon as the bare trainer is done: what comes after is not part of it."""


@contextmanager
def timed(bare: bool) -> Iterator[dict[str, float]]:
    """Times `Trainer.train`."""
    from transformers import Trainer

    original, spent = Trainer.train, dict[str, float]()

    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        if bare:
            strip(self)
        started, worked = time.perf_counter(), time.process_time()
        found = original(self, *args, **kwargs)
        spent.update(train_s=time.perf_counter() - started, train_cpu_s=time.process_time() - worked)
        if bare:
            raise Trained
        return found

    Trainer.train = train
    try:
        yield spent
    finally:
        Trainer.train = original


def strip(trainer: Any) -> None:
    """Make TRL's class of ours: what is left of it is the order of rows, and the loss from the lean head."""
    order, ours = trainer._get_train_sampler(), type(trainer)
    theirs = next(cls for cls in ours.__mro__ if cls.__module__.startswith("trl."))
    kept = {"compute_loss": ours.compute_loss, "_get_train_sampler": lambda self, rows=None: order}
    trainer.__class__ = type(f"Bare{theirs.__name__}", (theirs,), kept)
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__module__.startswith("components."):
            trainer.remove_callback(callback)


def once(kind: str, recipe: Recipe, given: tuple[Artifact, Artifact], root: Path) -> dict[str, float]:
    """One training run from nothing."""
    workspace, (model, dataset) = Workspace(root), given
    tracking = RunTracking(workspace, recipe) if kind == "tracked" else nullcontext()
    with timed(kind == "bare") as spent, tracking:
        started = time.perf_counter()
        try:
            TrainingService(workspace).train(recipe.train, model, dataset, recipe.seed)
        except Trained:
            logging.getLogger(__name__).debug("the bare trainer is done")
        spent["service_s"] = time.perf_counter() - started
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("recipe", "model_root", "folder"):
        parser.add_argument(name, type=Path)
    parser.add_argument("rounds", type=int)
    options = parser.parse_args()
    install()
    recipe = load_recipe(options.recipe)
    given = inputs(recipe, options.model_root, Workspace(options.folder / "data"))
    once("bare", recipe, given, options.folder / "warm")
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for number in range(options.rounds):
        # turned around every other round: whoever comes first gains or loses by it
        for kind in KINDS if number % 2 == 0 else reversed(KINDS):
            found[kind].append(once(kind, recipe, given, options.folder / f"{kind}-{number}"))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
