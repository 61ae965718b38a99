"""What trackers that stand on an optional library share: is it there, can the folder be written, is the key set."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from components.core.errors import ConfigError
from components.core.health import Health
from components.core.secret import Secret


def library_health(module: str, extra: str, folder: Path, api_key: Secret | None = None) -> Health:
    """Whether a run could be recorded now. Asks no server and makes nothing."""
    if find_spec(module) is None:
        return Health("failed", f"the package '{module}' is not installed; run: pip install 'postmill[{extra}]'")
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        return Health("failed", f"'{there}' cannot be written, and runs are kept in '{folder}'")
    try:
        if api_key is not None:
            api_key.reveal()
    except ConfigError as error:
        return Health("failed", str(error))
    return Health("ok", f"runs are kept in '{folder}'" if api_key is None else "the key of the server is set")


def copied(path: Path, folder: Path) -> Path:
    """A file copied into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(path, folder / path.name))


def check_mode(mode: str | None, api_key: Secret | None, example: str) -> None:
    """A ConfigError where a run shall go to a server and nothing says who we are: nobody is there to be asked."""
    if mode == "online" and api_key is None:
        raise ConfigError(f"online runs need a key; add api_key: env:{example}", at="mode")


@contextmanager
def hooks_kept() -> Iterator[None]:
    """Such libraries put themselves in the way of exceptions and exits for good; our runs are closed without that."""
    before = sys.excepthook, sys.exit
    try:
        yield
    finally:
        sys.excepthook, sys.exit = before
