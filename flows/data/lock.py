"""`postmill data lock`: the digests of a recipe's files, and what changed since they were last written."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from components.core.errors import DataError
from components.core.recipe import DataSection, lock_path
from components.data.provenance import check_lock, check_splits, write_lock


def lock(console: Console, section: DataSection, recipe: Path) -> None:
    """Write the lock beside the recipe, or where the recipe says."""
    files = {split: dict(spec.build().fingerprint()) for split, spec in section.readers().items()}
    check_splits(section, files)
    path = section.lock or lock_path(recipe)
    there, changed = path.exists(), []
    if there:
        try:
            changed = check_lock(section.model_copy(update={"lock": path, "allow_dirty": True}), files)
        except DataError as error:
            changed = [f"it could not be compared: {error}"]
    write_lock(path, files)
    names = {name for found in files.values() for name in found}
    state = "what changed:" if changed else "nothing changed" if there else "new"
    count = f"{len(names):,} file{'s' if len(names) != 1 else ''}"
    console.print(f"{path}: {count}; {state}", highlight=False, markup=False, soft_wrap=True)
    for line in changed:
        console.print(f"  {line}", style="yellow", highlight=False, markup=False, soft_wrap=True)
