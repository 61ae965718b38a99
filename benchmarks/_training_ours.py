"""Postmill's side of every comparison: a recipe's training steps through `TrainingService`, in a process of its own.

    python -m benchmarks._training_ours recipe.yaml MODEL_ROOT ROOT

MODEL_ROOT: the workspace that holds the base model already; the run itself starts with an empty ROOT. Prints the
probe's report as JSON, with the directory of the trained adapter.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks._training_probe import install
from components.core.artifacts import Artifact
from components.core.events import CheckpointSaved, Event, SpeedChosen
from components.core.recipe import Recipe, load_recipe
from components.services.data import DataService
from components.services.model import ModelService
from components.services.training import TrainingService
from components.services.workspace import Workspace


def inputs(recipe: Recipe, model_root: Path, workspace: Workspace) -> tuple[Artifact, Artifact]:
    """The base model from the store, and the recipe's rows, checked and tokenised for it."""
    model = ModelService(Workspace(model_root)).fetch(recipe.model)
    return model, DataService(workspace).validate(recipe.data, model)


def trained(recipe: Recipe, model_root: Path, root: Path) -> tuple[Artifact, list[Event]]:
    """The last step's artifact, and what was told while it was made."""
    workspace, heard = Workspace(root), []
    for event in (SpeedChosen, CheckpointSaved):
        workspace.bus.on(event, heard.append)
    model, dataset = inputs(recipe, model_root, workspace)
    return TrainingService(workspace).train(recipe.train, model, dataset, recipe.seed), heard


def choice(events: list[Event]) -> dict[str, Any]:
    """How the run was set up for this machine, if it says."""
    return next((dict(event.choice) for event in events if isinstance(event, SpeedChosen)), {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("recipe", "model_root", "root"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    probe = install()
    artifact, events = trained(load_recipe(options.recipe), options.model_root, options.root)
    print(json.dumps({**probe.report(), "adapter": str(artifact.path), "choice": choice(events)}, default=str))


if __name__ == "__main__":
    main()
