"""Where rows come from: files that stand in two splits, test files among the training files, files that changed.

`RECIPE.lock` beside a recipe holds the sha256 of every file that its rows come from; `postmill data lock RECIPE` writes
it. A run refuses files that are not what was locked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.core.errors import DataError
from components.core.recipe import DataSection

Files = Mapping[str, Mapping[str, str]]
"""Split -> path or address -> sha256."""
EMPTY = hashlib.sha256().hexdigest()
HELD_OUT = re.compile(
    r"(?:^|[-_./:])(test|eval|valid|validation|dev|heldout|holdout)(?:[-_.:/]|\d*\.|$)", re.IGNORECASE
)


def check_splits(section: DataSection, files: Files) -> None:
    """Refuse a file that is named in two splits, and held-out files that a folder or pattern took into training."""
    place: dict[str, tuple[str, str]] = {}
    for split, found in files.items():
        for path, digest in found.items():
            known_split, known_path = place.setdefault(digest, (split, path))
            if known_split != split and digest != EMPTY:
                raise DataError(
                    f"'{path}' ({split}) has the same content as '{known_path}' ({known_split}); rows that a model is "
                    "measured on must not be trained on: name other files for one of them"
                )
    _check_chunks(section)
    named = set(_texts(section.train.config.model_dump(mode="json")))
    strays = [path for path in files.get("train", ()) if path not in named and HELD_OUT.search(Path(path).name)]
    if strays:
        raise DataError(
            f"data.train takes in '{strays[0]}', which by its name is held out; name the training files one by one, "
            "or move it elsewhere"
        )


def _check_chunks(section: DataSection) -> None:
    """Chunks that overlap share text, so a document must stay in one split."""
    overlapping = getattr(section.train.config, "overlap_chars", 0)
    if overlapping and section.split and section.split.group_by is None:
        raise DataError(
            f"data.split: chunks that share overlap_chars={overlapping} characters would stand in training and in "
            "evaluation; keep a document's chunks together with split.group_by=file"
        )


def _texts(value: Any) -> Iterator[str]:
    """Every text in a configuration."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def write_lock(path: Path, files: Files) -> None:
    """Write the lock; it appears whole or not at all."""
    text = json.dumps({"files": {name: digest for found in files.values() for name, digest in found.items()}}, indent=2)
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(text + "\n", encoding="utf-8")
    scratch.replace(path)


def check_lock(section: DataSection, files: Files) -> list[str]:
    """What changed since the recipe was locked; a DataError unless `allow_dirty` says to go on."""
    if section.lock is None:
        return []
    changed = _changes(section.lock, files)
    if changed and not section.allow_dirty:
        listed = "\n".join(f"  {line}" for line in changed)
        raise DataError(
            f"data changed since '{section.lock}' was written:\n{listed}\n"
            "restore it (dvc checkout), accept it with: postmill data lock RECIPE, "
            "or go on once with --allow-dirty, which is recorded"
        )
    return changed


def _changes(lock: Path, files: Files) -> list[str]:
    locked = _read(lock)
    present = {name: digest for found in files.values() for name, digest in found.items()}
    changed = [
        f"{name}: locked {locked[name][:16]}, found {digest[:16]}"
        for name, digest in present.items()
        if name in locked and locked[name] != digest
    ]
    changed += [
        f"{name}: not in the lock, found {digest[:16]}" for name, digest in present.items() if name not in locked
    ]
    return changed + [
        f"{name}: locked {digest[:16]}, not read any more" for name, digest in locked.items() if name not in present
    ]


def _read(lock: Path) -> dict[str, str]:
    try:
        found = json.loads(lock.read_text(encoding="utf-8"))["files"]
        if not isinstance(found, dict) or not all(isinstance(digest, str) for digest in found.values()):
            raise ValueError("'files' must map paths to digests")
        return found
    except FileNotFoundError as error:
        raise DataError(f"the lock '{lock}' does not exist; write it with: postmill data lock RECIPE") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"the lock '{lock}' is damaged: {error}; write it again: postmill data lock RECIPE") from error
