"""Configuration files: strict YAML or JSON, layered, with the place of every key kept for messages and `--origin`.

    extended files  <  the file  <  overlays (environments/NAME.yaml beside it, `--env NAME`)

Mappings are merged key by key; everything else is replaced whole. A mapping that names another `type` replaces the
old one whole, because its keys belong to another component. A mapping of positions reaches into a list:
`train: {0: {max_steps: 5}}`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from components.core.errors import ConfigError, did_you_mean

MAX_BYTES = 2_000_000
MAX_DEPTH = 30
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where libyaml was compiled in
_TAG = "tag:yaml.org,2002:"
_TYPES = ("null", "bool", "int", "float")
_TYPED = {f"{_TAG}{name}": getattr(yaml.SafeLoader(""), f"construct_yaml_{name}") for name in _TYPES}
_TEXT = (f"{_TAG}str", f"{_TAG}timestamp", f"{_TAG}value")
"""Dates stay text: no key of ours is a date, and names may look like one."""
_POSITION = re.compile(r"0|[1-9][0-9]{0,8}")
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
        """The place of the key at `where`, of its nearest parent that was written down, or of something inside it."""
        at = wanted = tuple(map(str, where))
        while at and at not in self.places:
            at = at[:-1]
        inside = (place for key, place in self.places.items() if wanted and key[: len(wanted)] == wanted)
        return self.places[at] if at else next(inside, str(self.path))

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
    document, chain = load_document(path), (*below, path.resolve())
    if chain[-1] in below or len(chain) > MAX_DEPTH:
        what = "in a circle" if chain[-1] in below else f"over more than {MAX_DEPTH} levels"
        raise ConfigError(f"{path}: files extend each other {what}: {' -> '.join(map(str, chain))}")
    place = f"{document.locate(('extends',))}: extends"
    bases = document.data.pop("extends", None)
    bases = [] if bases is None else [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{place}: name a file or a list of files, found {bases!r}")
    merged = Document(path, {}, {})
    merged.files = []
    for base in bases:
        if not os.path.isfile(path.parent / base):
            raise ConfigError(f"{place}: {_missing(path.parent / base)}")
        merge(merged, _extended(path.parent / base, chain))
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
    text = read_text(path)
    places: dict[Where, str] = {}
    if path.suffix == ".json":
        data = _parse_json(text, path)
        places |= dict.fromkeys(_walk((), data, str(path)), str(path))
    else:
        data = parse_yaml(text, str(path), places)
        data = {} if data is None else data
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:1: a configuration is a mapping of keys, found {type(data).__name__}")
    return Document(path, data, places)


def read_text(path: Path) -> str:
    """A small text file; a ConfigError says why it cannot be read."""
    if not os.path.isfile(path):  # unlike Path.is_file, False for names that no file can have
        raise ConfigError(_missing(path))
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"'{path}' has {size:,} bytes; a configuration has at most {MAX_BYTES:,}")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"'{path}' is not UTF-8 text: {error}") from error
    except OSError as error:  # no permission, or gone in the meantime
        raise ConfigError(f"'{path}' cannot be read: {error.strerror}") from error


def _missing(path: Path) -> str:
    folder = path.parent
    siblings = [file.name for file in folder.glob("*.yaml")] if os.path.isdir(folder) else []
    what = "is not a file" if os.path.exists(path) else "does not exist"
    return f"file '{path}' {what}{did_you_mean(path.name, siblings)}"


def _parse_json(text: str, path: Path) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, value in pairs:
            if key in data:
                raise ConfigError(f"{path}: key '{key}' stands twice")
            data[key] = value
        return data

    def refuse(constant: str) -> NoReturn:
        raise ConfigError(f"{path}: {constant} is not valid JSON")

    try:
        data = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
        json.dumps(data, ensure_ascii=False).encode()  # "\\ud800", half a character, cannot be written anywhere
        return data
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested deeper than {MAX_DEPTH} levels") from error
    except ConfigError:
        raise
    except ValueError as error:  # half a character, or an integer of thousands of digits
        raise ConfigError(f"{path}: not valid JSON: {error}") from error


def _walk(where: Where, value: Any, place: str) -> Iterator[Where]:
    """The path of a value and of everything inside it."""
    if len(where) == MAX_DEPTH and isinstance(value, dict | list):
        raise ConfigError(f"{place}: nested deeper than {MAX_DEPTH} levels")
    yield where
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _walk((*where, str(key)), child, place)


def parse_yaml(text: str, source: str, places: dict[Where, str]) -> Any:
    """Strict YAML; `places` learns the line of every key in it."""
    try:
        _refuse_unusual(text, source)
        root = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{source}:{line}: not valid YAML: {error.problem or error}") from error
    except (yaml.YAMLError, UnicodeEncodeError) as error:  # bytes of the environment that are no UTF-8
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error
    return None if root is None else _plain(root, (), places, source)


def _refuse_unusual(text: str, source: str) -> None:
    """Aliases may point at their own parent or unfold into gigabytes; deep nesting exhausts the parser."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1 if event.start_mark else "?"
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ConfigError(f"{source}:{line}: nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{source}:{line}: aliases (*{event.anchor}) are not read; write the value out")


def _plain(node: yaml.Node, where: Where, places: dict[Where, str], source: str) -> Any:
    """Turn a YAML node into data; the node is walked by hand to see duplicate keys and to keep line numbers."""
    places.setdefault(where, f"{source}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, places[where])
    if node.tag not in (f"{_TAG}seq", f"{_TAG}map"):
        raise ConfigError(f"{places[where]}: the tag {_short(node.tag)} is not read")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*where, str(i)), places, source) for i, item in enumerate(node.value)]
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = f"{source}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{place}: a key is plain text, not a list or a mapping")
        key = str(key_node.value)
        if key in result:
            first = places[(*where, key)].rpartition(":")[2]
            raise ConfigError(f"{place}: key '{key}' stands twice (first on line {first})")
        places[(*where, key)] = place
        result[key] = _plain(value_node, (*where, key), places, source)
    return result


def _scalar(node: yaml.ScalarNode, place: str) -> Any:
    if node.tag in _TEXT:
        return node.value
    if node.tag not in _TYPED:
        raise ConfigError(f"{place}: the tag {_short(node.tag)} is not read")
    try:
        return _TYPED[node.tag](node)
    except (ValueError, LookupError) as error:  # `!!int x`, or an integer of thousands of digits
        raise ConfigError(f"{place}: the value does not fit its type {_short(node.tag)}") from error


def _short(tag: str) -> str:
    return tag.replace(_TAG, "!!")


# ---------------------------------------------------------------- layers


def merge(below: Document, above: Document) -> None:
    """Put `above` on top of `below`, in place."""
    problems: list[str] = []
    below.data = _merged(below, above, (), below.data, above.data, problems)
    below.files += above.files
    if problems:
        raise ConfigError(problems)


def _merged(below: Document, above: Document, where: Where, old: Any, new: Any, problems: list[str]) -> Any:
    if _is_patch(new, old):
        for key, value in new.items():
            try:
                at: Any = position(key, old) if isinstance(old, list) else key
            except LookupError as error:
                problems.append(f"{above.locate((*where, key))}: {'.'.join(where)}: {error}")
                continue
            if isinstance(old, dict) and key not in old:
                old[at] = _replaced(below, above, (*where, key), None, value)
            else:
                old[at] = _merged(below, above, (*where, key), old[at], value, problems)
        return old
    if _shape(old) != _shape(new) and old is not None and new is not None:
        problems.append(
            f"{above.locate(where)}: '{'.'.join(where)}' is {_shape(new)} here, "
            f"but {_shape(old)} in {below.locate(where)}"
        )
        return old
    return _replaced(below, above, where, old, new)


def position(key: str, items: list[Any]) -> int:
    """The position in a list that a part of a dotted path names; a LookupError if there is none."""
    if not _POSITION.fullmatch(key) or int(key) >= len(items):
        raise LookupError(f"there is no position '{key}' ({f'0..{len(items) - 1}' if items else 'the list is empty'})")
    return int(key)


def _is_patch(new: Any, old: Any) -> bool:
    """Whether `new` changes parts of `old` instead of replacing it."""
    if not isinstance(new, dict):
        return False
    if isinstance(old, list):
        return bool(new) and all(map(_POSITION.fullmatch, new))
    return isinstance(old, dict) and new.get("type", old.get("type")) == old.get("type")


def _replaced(below: Document, above: Document, where: Where, old: Any, new: Any) -> Any:
    for gone in _walk(where, old, ""):
        below.places.pop(gone, None)
    below.places |= {at: above.locate(at) for at in _walk(where, new, "")}
    return new


def _shape(value: Any) -> str:
    return "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list) else "a plain value"
