"""`postmill check`: everything that can be known before a run, on one screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from components.core.chat import Encoded, encode_chat
from components.core.errors import DataError, PostmillError
from components.core.machine import free_disk, human_bytes, machine
from components.core.recipe import Recipe
from components.core.safeload import load_tokenizer
from components.data.contract import check_split
from components.services.application import Application
from components.services.model import ModelService
from flows.plan import estimate, steps


def print_check(console: Console, recipe: Recipe, application: Application) -> None:
    """Print the resolved recipe, plan, data, estimates and a masked row; raise if the run could not start."""
    _title(console, "recipe, resolved")
    console.print(yaml.safe_dump(recipe.dump(), sort_keys=False, allow_unicode=True), highlight=False, markup=False)
    _title(console, "plan")
    console.print("\n".join(steps(recipe)), highlight=False, markup=False)
    _title(console, "data")
    first = _print_data(console, recipe)
    _title(console, "estimates")
    _print_estimates(console, recipe, recipe.model.build().parameters() or 0, application.workspace.root)
    _title(console, "one training row as the model sees it; [green]green[/] is trained on")
    # the base model goes into the store, where the run finds it
    base = ModelService(application.workspace).fetch(recipe.model)
    tokenizer = load_tokenizer(base.path)
    console.print(_coloured(tokenizer, encode_chat(tokenizer, first)))


def _title(console: Console, text: str) -> None:
    console.rule(f"[bold]{text}", align="left")


def _print_data(console: Console, recipe: Recipe) -> list[dict[str, str]]:
    """Row counts and problems of both splits; returns the first training conversation."""
    contract, shape = recipe.data.contract, recipe.data.format.build()
    seen: set[str] = set()
    first: list[dict[str, str]] | None = None
    for split in ("eval", "train"):
        checked = check_split(getattr(recipe.data, split).build(), shape, contract.max_chars, set(seen))
        if contract.forbid_overlap:
            seen |= set(checked.digests)
        console.print(f"{split}: {len(checked.good):,} rows good, {len(checked.bad):,} bad", highlight=False)
        for bad in checked.bad[:5]:
            console.print(f"  {bad.source}:{bad.line}: {bad.rule}: {bad.reason}", highlight=False, markup=False)
        if not checked.good or len(checked.bad) > contract.max_bad_fraction * checked.total:
            raise DataError(
                f"{split}: too many bad rows (max_bad_fraction: {contract.max_bad_fraction:.1%}); see above"
            )
        first = shape.messages(checked.good[0].value)
    assert first is not None
    return first


def _print_estimates(console: Console, recipe: Recipe, parameters: int, root: Path) -> None:
    here = machine()
    guess, free = estimate(recipe, parameters, here), free_disk(root)
    console.print(
        f"machine  {here.processor}, {here.cores} cores, {human_bytes(here.memory)}, {here.dtype()}", highlight=False
    )
    console.print(f"model    {parameters / 1e6:,.0f} M weights", highlight=False)
    console.print(f"memory   about {human_bytes(guess.memory)} at the peak", highlight=False)
    console.print(f"disk     about {human_bytes(guess.disk)} of artifacts ({human_bytes(free)} free)", highlight=False)
    console.print(f"training about {guess.train_seconds / 60:,.1f} minutes", highlight=False)
    if guess.memory > here.memory or guess.disk > free:
        raise PostmillError("this run does not fit this machine; see memory and disk above")


def _coloured(tokenizer: Any, encoded: Encoded) -> Text:
    text = Text()
    for token, trained in zip(encoded.ids, encoded.mask, strict=True):
        text.append(tokenizer.decode([token]), style="bold green" if trained else "dim")
    return text
