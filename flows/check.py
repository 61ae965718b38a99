"""`postmill check`: everything that can be known before a run, on one screen."""

from __future__ import annotations

from pathlib import Path

import yaml
from rich.console import Console

from components.core.errors import PostmillError
from components.core.machine import free_disk, human_bytes, machine
from components.core.recipe import Recipe
from components.core.safeload import load_tokenizer
from components.services.application import Application
from components.services.data import DataService
from components.services.model import ModelService
from components.services.optimization import OptimizationService
from flows.data.display import print_data, print_rows
from flows.plan import Estimate, estimate, rows_of, steps


def print_check(console: Console, recipe: Recipe, application: Application) -> None:
    """Print the resolved recipe, plan, data, estimates and a masked row; raise if the run could not start."""
    _title(console, "recipe, resolved")
    console.print(yaml.safe_dump(recipe.dump(), sort_keys=False, allow_unicode=True), highlight=False, markup=False)
    _title(console, "plan")
    console.print("\n".join(steps(recipe)), highlight=False, markup=False)
    # base model and data set go into the store, where the run finds them
    base = ModelService(application.workspace).fetch(recipe.model)
    OptimizationService(application.workspace).require(recipe.optimize, base)
    _title(console, "data")
    dataset = DataService(application.workspace).validate(recipe.data, base)
    DataService(application.workspace).require(recipe, dataset)
    print_data(console, dataset)
    _title(console, "estimates")
    size, found = recipe.model.build().parameters() or 0, rows_of(dataset.read_json("report.json"))
    _print_estimates(console, estimate(recipe, size, machine(), found), size, application.workspace.root)
    _title(console, "one training row as the model sees it; [green]green[/], or in ⟦⟧, is trained on")
    print_rows(console, dataset, load_tokenizer(base.path), "train", 1)


def _title(console: Console, text: str) -> None:
    console.rule(f"[bold]{text}", align="left")


def _print_estimates(console: Console, guess: Estimate, parameters: int, root: Path) -> None:
    here, free = machine(), free_disk(root)
    console.print(
        f"machine  {here.processor}, {here.cores} cores, {human_bytes(here.memory)}, {here.dtype()}", highlight=False
    )
    console.print(f"model    {parameters / 1e6:,.0f} M weights", highlight=False)
    console.print(f"memory   about {human_bytes(guess.memory)} at the peak", highlight=False)
    console.print(f"disk     about {human_bytes(guess.disk)} of artifacts ({human_bytes(free)} free)", highlight=False)
    console.print(f"training about {guess.train_seconds / 60:,.1f} minutes", highlight=False)
    if guess.memory > here.memory or guess.disk > free:
        raise PostmillError("this run does not fit this machine; see memory and disk above")
