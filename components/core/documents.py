"""Configuration files: strict YAML or JSON, layered, with the place of every key kept for messages and `--origin`.

    extended files  <  the file  <  overlays (environments/NAME.yaml beside it, `--env NAME`)

Mappings are merged key by key; everything else is replaced whole. A mapping that names another `type` replaces the
old one whole, because its keys belong to another component. A mapping of positions reaches into a list:
`train: {0: {max_steps: 5}}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from components.core.errors import ConfigError
from components.core.registry import did_you_mean

MAX_BYTES = 2_000_000
MAX_DEPTH = 30
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where libyaml was compiled in
_SCALARS = yaml.SafeLoader("")
Where = tuple[str, ...]


class Document:
    """Plain data, and where every key of it was written (`configs/quickstart.yaml:12`).

    Keys of `places` are the parts of the dotted path as text, positions in lists too: `("train", "0", "type")`.
    """

    def __init__(self, path: Path, data: dict[str, Any], places: dict[Where, str]) -> None:
        self.path, self.data, self.places = path, data, places
        self.files = [path]
        """Every file that has a part in it."""

    def locate(self, where: Iterable[str | int]) -> str:
        """The place of the key at `where`, or of its nearest parent that was written down."""
        at = tuple(map(str, where))
        while at and at not in self.places:
            at = at[:-1]
        return self.places[at] if at else str(self.path)

    def place(self, where: Where, place: str) -> None:
        """Say that the whole value at `where` was written at `place`."""
        for key in [key for key in self.places if key[: len(where)] == where]:
            del self.places[key]
        self.places[where] = place


def load_layers(path: Path, overlays: Iterable[str] = ()) -> Document:
    """A file with what it extends below it and its overlays on top; every disagreement in type is an error."""
    document = _extended(path, ())
    for name in overlays:
        overlay = load_document(_overlay_file(path, name))
        if "extends" in overlay.data:
            raise ConfigError(f"{overlay.locate(('extends',))}: an overlay cannot extend another file")
        merge(document, overlay)
    return document


def _extended(path: Path, below: tuple[Path, ...]) -> Document:
    document = load_document(path)
    bases = document.data.pop("extends", [])
    if path.resolve() in below:
        chain = " -> ".join(str(file) for file in (*below, path.resolve()))
        raise ConfigError(f"{path}: files extend each other in a circle: {chain}")
    if not bases:
        return document
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{document.locate(('extends',))}: extends: name a file or a list of files, found {bases!r}")
    del document.places[("extends",)]
    merged = Document(path, {}, {})
    merged.files = []
    for base in bases:
        merge(merged, _extended(path.parent / base, (*below, path.resolve())))
    merge(merged, document)
    return merged


def _overlay_file(path: Path, name: str) -> Path:
    folder = path.parent / "environments"
    known = sorted(file.stem for file in folder.glob("*.yaml")) if folder.is_dir() else []
    if name not in known:
        where = f"known: {', '.join(known)}" if known else f"'{folder}' holds none"
        raise ConfigError(f"unknown environment '{name}'{did_you_mean(name, known)} ({where})")
    return folder / f"{name}.yaml"


# ---------------------------------------------------------------- one file


def load_document(path: Path) -> Document:
    """Read one mapping. Duplicate keys, aliases, tabs and oversized files are refused."""
    if not path.is_file():
        raise ConfigError(f"file '{path}' does not exist{did_you_mean(path.name, _siblings(path))}")
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"'{path}' has {path.stat().st_size:,} bytes; a configuration has at most {MAX_BYTES:,}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"'{path}' is not UTF-8 text: {error}") from error
    places: dict[Where, str] = {}
    data = _parse_json(text, path, places) if path.suffix == ".json" else _parse_yaml(text, path, places)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:1: a configuration is a mapping of keys, found {type(data).__name__}")
    return Document(path, data, places)


def _siblings(path: Path) -> list[str]:
    return [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []


def _parse_json(text: str, path: Path, places: dict[Where, str]) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"{path}: key '{twice}' stands twice")
        return dict(pairs)

    try:
        data = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested deeper than {MAX_DEPTH} levels") from error
    _place(data, (), str(path), places)
    return data


def _place(data: Any, where: Where, place: str, places: dict[Where, str]) -> None:
    if len(where) > MAX_DEPTH:
        raise ConfigError(f"{place}: nested deeper than {MAX_DEPTH} levels")
    places[where] = place
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in children:
        _place(value, (*where, str(key)), place, places)


def _parse_yaml(text: str, path: Path, places: dict[Where, str]) -> Any:
    try:
        _refuse_unusual(text, path)
        root = yaml.compose(text, Loader=_LOADER)
        return _plain(root, (), places, path) if root is not None else {}
    except ConfigError:
        raise
    except (ValueError, AttributeError) as error:  # PyYAML's constructors, on a tag that does not fit its value
        raise ConfigError(f"{path}: a value does not fit its tag: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem or error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error


def _refuse_unusual(text: str, path: Path) -> None:
    """Aliases may point at their own parent or unfold into gigabytes; deep nesting exhausts the parser."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1 if event.start_mark else "?"
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ConfigError(f"{path}:{line}: nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{path}:{line}: aliases (*{event.anchor}) are not read; write the value out")


def _plain(node: yaml.Node, where: Where, places: dict[Where, str], path: Path) -> Any:
    """Turn a YAML node into data; the node is walked by hand to see duplicate keys and to keep line numbers."""
    places.setdefault(where, f"{path}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*where, str(i)), places, path) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _SCALARS.construct_object(node)
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = f"{path}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{place}: a key is plain text, not a list or a mapping")
        key = str(key_node.value)
        if key in result:
            first = places[(*where, key)].rpartition(":")[2]
            raise ConfigError(f"{place}: key '{key}' stands twice (first on line {first})")
        places[(*where, key)] = place
        result[key] = _plain(value_node, (*where, key), places, path)
    return result


# ---------------------------------------------------------------- layers


def merge(below: Document, above: Document) -> None:
    """Put `above` on top of `below`, in place."""
    problems: list[str] = []
    below.data = _merged(below, above, (), below.data, above.data, problems)
    below.files += above.files
    below.places[()] = above.places.get((), below.places.get((), str(above.path)))
    if problems:
        raise ConfigError(problems)


def _merged(below: Document, above: Document, where: Where, old: Any, new: Any, problems: list[str]) -> Any:
    if _is_patch(new, old):
        for key, value in new.items():
            at = int(key) if isinstance(old, list) else key
            if isinstance(old, list) and at >= len(old):
                problems.append(f"{above.locate((*where, key))}: there is no position {at} (0..{len(old) - 1})")
            elif isinstance(old, dict) and at not in old:
                old[at] = _taken_over(below, above, (*where, key), value)
            else:
                old[at] = _merged(below, above, (*where, key), old[at], value, problems)
        return old
    if _shape(old) != _shape(new) and old is not None and new is not None:
        problems.append(
            f"{above.locate(where)}: '{'.'.join(where)}' is {_shape(new)} here, "
            f"but {_shape(old)} in {below.locate(where)}"
        )
        return old
    return _taken_over(below, above, where, new)


def _is_patch(new: Any, old: Any) -> bool:
    """Whether `new` changes parts of `old` instead of replacing it."""
    if not isinstance(new, dict):
        return False
    if isinstance(old, list):
        return bool(new) and all(str(key).isdigit() for key in new)
    return isinstance(old, dict) and new.get("type", old.get("type")) == old.get("type")


def _taken_over(below: Document, above: Document, where: Where, value: Any) -> Any:
    below.place(where, above.locate(where))
    below.places |= {key: place for key, place in above.places.items() if key[: len(where)] == where}
    return value


def _shape(value: Any) -> str:
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else "a plain value"
