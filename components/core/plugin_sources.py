"""Where plugins are found: installed distributions and, only when configured, directories. Nothing is executed here.

An installed plugin is an entry point of the group `postmill.plugins`; its distribution's metadata says the version,
which Postmill it fits (`Requires-Dist: postmill>=0.1,<1`) and which other plugins it needs. A plugin in a directory is
a file or package with a `Plugin` class, whose `name`, `version`, `requires` and `host` are read from the syntax tree.
"""

from __future__ import annotations

import ast
import importlib.util
import itertools
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from components.core.errors import PluginError

HOST = "postmill"
FACTS = ("name", "version", "requires", "host")
_loads = itertools.count(1)


@dataclass(frozen=True)
class Candidate:
    """A plugin that could be loaded: what its metadata says, and how to get its class. `problem`: why it never can."""

    name: str
    origin: str
    version: str = ""
    requires: tuple[Requirement, ...] = ()
    host: SpecifierSet = SpecifierSet()
    distribution: str = ""
    problem: str = ""
    load: Callable[[], Any] = lambda: None
    unload: Callable[[], None] = lambda: None

    def answers_to(self, requirement: Requirement) -> bool:
        """Whether a requirement means this plugin, by its own name or its distribution's."""
        return canonicalize_name(requirement.name) in (canonicalize_name(self.name), self.distribution)


def installed(entry_points: Iterable[metadata.EntryPoint]) -> Iterator[Candidate]:
    """A candidate an entry point, from the metadata of its distribution."""
    for entry_point in entry_points:
        facts = _metadata(entry_point)
        if not ("Name" in facts and "Version" in facts):
            problem = "its distribution has no name or no version, so it is half installed; install it again"
            yield Candidate(entry_point.name, f"entry point {entry_point.value}", problem=problem)
            continue
        origin = f"{facts['Name']} {facts['Version']}"
        try:
            yield _from_metadata(entry_point, facts, origin)
        except (InvalidVersion, InvalidRequirement, InvalidSpecifier) as error:
            yield Candidate(entry_point.name, origin, problem=_invalid(error))


def _metadata(entry_point: metadata.EntryPoint) -> Any:
    """The fields of the distribution's METADATA, parsed once: each access to `distribution.metadata` parses anew."""
    assert entry_point.dist is not None  # entry_points() sets it
    try:
        return entry_point.dist.metadata
    except FileNotFoundError:  # of the package importlib_metadata, whose finder answers once somebody imported it
        return {}


def _from_metadata(entry_point: metadata.EntryPoint, facts: Any, origin: str) -> Candidate:
    Version(facts["Version"])
    needs = [Requirement(text) for text in facts.get_all("Requires-Dist") or ()]
    needs = [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return Candidate(
        name=entry_point.name,
        origin=origin,
        version=facts["Version"],
        requires=tuple(need for need in needs if canonicalize_name(need.name) != HOST),
        host=next((need.specifier for need in needs if canonicalize_name(need.name) == HOST), SpecifierSet()),
        distribution=canonicalize_name(facts["Name"]),
        load=entry_point.load,
    )


def _invalid(error: Exception) -> str:
    # packaging draws an arrow below the mistake, in a line of its own
    return f"its metadata is not valid: {' '.join(str(error).split()).rstrip(' ~^')}"


def in_directory(directory: Path) -> Iterator[Candidate]:
    """Every plugin file and package of a directory, read as text."""
    if not directory.is_dir():
        yield Candidate(directory.name, str(directory), problem=f"plugin directory '{directory}' does not exist")
        return
    try:
        _refuse_if_open(directory)
        packages = [path / "__init__.py" for path in directory.iterdir() if (path / "__init__.py").is_file()]
    except (OSError, PluginError) as error:
        yield Candidate(directory.name, str(directory), problem=str(error))
        return
    for source in sorted([*directory.glob("*.py"), *packages]):
        name = source.parent.name if source.name == "__init__.py" else source.stem
        if not name.startswith("_"):
            yield _from_source(name, source)


def _refuse_if_open(path: Path) -> None:
    """A PluginError if somebody else may change `path`, wrote it, or may put another one in its place."""
    owner, user = path.stat().st_uid, os.geteuid()
    if path.is_file() and owner not in (0, user):
        raise PluginError(
            f"'{path}' belongs to user {owner}, neither you nor root, so its code is not loaded; chown {user} '{path}'"
        )
    for place in dict.fromkeys([path, *path.absolute().parents, *path.resolve().parents]):
        mode = place.stat().st_mode
        sticky = mode & stat.S_ISVTX and place != path  # such as /tmp, where nobody may replace what is yours
        if mode & stat.S_IWOTH and not sticky:
            raise PluginError(f"everybody may write to '{place}', so its code is not loaded; chmod o-w '{place}'")


def _from_source(name: str, source: Path) -> Candidate:
    try:
        package = source.parent.rglob("*") if source.name == "__init__.py" else ()
        for path in (source, source.parent, *filter(Path.exists, package)):
            _refuse_if_open(path)
        return _described(name, source, _read_facts(source))
    except (InvalidVersion, InvalidRequirement, InvalidSpecifier) as error:
        return Candidate(name, str(source), problem=_invalid(error))
    except (SyntaxError, ValueError, OSError, RecursionError, PluginError) as error:
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
        return Candidate(name, str(source), problem=f"{getattr(error, 'msg', error)}{line}")


def _described(name: str, source: Path, found: dict[str, Any]) -> Candidate:
    text = {key: found.get(key, default) for key, default in (("name", name), ("version", "0"), ("host", ""))}
    needs = found.get("requires", ())
    wrong = [key for key, value in text.items() if not isinstance(value, str)]
    if wrong:
        raise PluginError(f"'{wrong[0]}' must be text, found {text[wrong[0]]!r}")
    if not isinstance(needs, tuple | list) or not all(isinstance(need, str) for need in needs):
        raise PluginError(f"'requires' must be a tuple of texts, found {needs!r}")
    Version(text["version"])
    code = _Code(name, source, found["class"])
    return Candidate(
        name=text["name"],
        origin=str(source),
        version=text["version"],
        requires=tuple(map(Requirement, needs)),
        host=SpecifierSet(text["host"]),
        load=code.load,
        unload=code.drop,
    )


def _read_facts(source: Path) -> dict[str, Any]:
    """Class name and literal facts of the one class that extends `Plugin`."""
    tree = ast.parse(source.read_text(encoding="utf-8"), str(source))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and _extends_plugin(node)]
    if len(classes) != 1:
        raise PluginError(f"it defines {len(classes)} classes that extend Plugin, expected one")
    facts: dict[str, Any] = {"class": classes[0].name}
    for node in classes[0].body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and target.id in FACTS:
                    facts[target.id] = _literal(target.id, node.value)
    return facts


def _extends_plugin(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).rpartition(".")[2] == "Plugin" for base in node.bases)


def _literal(name: str, value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError) as error:
        reason = "write it out, because discovery executes nothing"
        raise PluginError(f"'{name}' is {ast.unparse(value)}; {reason}") from error


@dataclass
class _Code:
    """A plugin's file, imported under a module name of its own, anew each time."""

    name: str
    source: Path
    class_name: str
    module: str = ""

    def load(self) -> Any:
        """Execute the file and return the plugin's class."""
        self.module = f"postmill_plugin_{self.name}_{next(_loads)}"
        places = [str(self.source.parent)] if self.source.name == "__init__.py" else None
        loader = _Fresh(self.module, str(self.source))
        spec = importlib.util.spec_from_file_location(
            self.module, self.source, loader=loader, submodule_search_locations=places
        )
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[self.module] = module
        try:
            loader.exec_module(module)
        except BaseException:
            self.drop()
            raise
        return getattr(module, self.class_name)

    def drop(self) -> None:
        """Forget the module and its submodules."""
        for name in [name for name in sys.modules if name == self.module or name.startswith(f"{self.module}.")]:
            del sys.modules[name]


class _Fresh(SourceFileLoader):
    """Compiles the source each time: Python trusts a compiled file of the same second and size, so a quick edit would
    be missed by a reload. Leaves nothing in the plugin's directory."""

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)
