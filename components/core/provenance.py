"""What shaped an output besides its configuration: the component's code and the versions of its libraries."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from threading import Lock

WIRING = (
    *(
        "builder",
        "config",
        "container",
        "documents",
        "errors",
        "events",
        "health",
        "kinds",
        "lifecycle",
        "measured",
        "plugin_sources",
    ),
    *("plugins", "recipe", "registry", "schema", "secret", "service", "settings"),
)
NEUTRAL = frozenset(("components.interfaces", *(f"components.core.{name}" for name in WIRING)))
"""Modules that wire and report but compute nothing that ends in an artifact."""
_PARSER = Lock()
"""Python's parser, up to 3.11, now and then fails when two threads are in it."""


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Installed versions of distributions, read from metadata: nothing is imported."""
    return {name: _version(name) for name in sorted(names)}


@cache
def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def code_digest(*classes: type) -> str:
    """sha256 of the source that defines these classes and of the project modules it imports, directly or not.

    An edit to a trainer makes its artifacts stale; an edit to another trainer, or to an error message, does not.
    """
    seen: dict[str, str] = {}
    for cls in classes:
        _collect(cls.__module__, seen)
    return hashlib.sha256("".join(seen[name] for name in sorted(seen)).encode()).hexdigest()[:16]


def _collect(module: str, seen: dict[str, str]) -> None:
    if module in seen:
        return
    source = _source(module)
    if source is None:
        return
    seen[module] = source
    # a plugin's component goes stale with its own package, and with what it takes from here
    followed = {module.partition(".")[0], "components"}
    for name in _imports(source, module):
        if name.partition(".")[0] in followed and name not in NEUTRAL:
            _collect(name, seen)


def _source(module: str) -> str | None:
    """The module's text, found by its name alone: asking the import system would import its packages."""
    loaded = getattr(sys.modules.get(module), "__file__", None)
    if loaded and loaded.endswith(".py"):
        return Path(loaded).read_text(encoding="utf-8")  # also a plugin's file, which has no place on the path
    top, *parts = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec and not parts and spec.submodule_search_locations is None and (spec.origin or "").endswith(".py"):
        return Path(str(spec.origin)).read_text(encoding="utf-8")  # a plugin that is a single file
    for root in (spec.submodule_search_locations or ()) if spec else ():
        place = Path(root).joinpath(*parts)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return file.read_text(encoding="utf-8")
    return None


def _imports(source: str, module: str) -> set[str]:
    found: set[str] = set()
    with _PARSER:
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # `from package import module` names a module too; what is no module has no source and is passed over
            for origin in _origins(node, module):
                found |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    return found


def _origins(node: ast.ImportFrom, module: str) -> list[str]:
    """What `from ... import` imports from; a leading dot is the package that the module is, or is in."""
    if not node.level:
        return [node.module or ""]
    parts = module.split(".")
    packages = [parts[: len(parts) - node.level + inside] for inside in (0, 1)]
    return [".".join([*package, *([node.module] if node.module else [])]) for package in packages if package]


def git_state(root: Path) -> dict[str, str]:
    """Commit and cleanliness of the work tree, or `{"commit": "none"}` outside a repository."""
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return {"commit": "none", "dirty": "unknown"}
    return {"commit": commit, "dirty": str(bool(_git(root, "status", "--porcelain"))).lower()}


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=20, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
