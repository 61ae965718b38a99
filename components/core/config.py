"""YAML in, overrides on top, every mistake reported at once with its line and a suggestion.

Priority: `--set a.b=1` on the command line > `POSTMILL_A__B=1` in the environment > the YAML file > defaults.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from components.core.errors import ConfigError
from components.core.registry import did_you_mean

ENV_PREFIX = "POSTMILL_"
MAX_BYTES = 2_000_000
MAX_DEPTH = 30
_SCALARS = yaml.SafeLoader("")
Where = tuple[str | int, ...]


class Document:
    """A parsed YAML file: plain data, and the line on which every key stands."""

    def __init__(self, path: Path, data: dict[str, Any], lines: dict[Where, int]) -> None:
        self.path, self.data, self.lines = path, data, lines

    def locate(self, where: Where) -> str:
        """`configs/quickstart.yaml:12` for the key at `where`, or for its nearest parent in the file."""
        while where and where not in self.lines:
            where = where[:-1]
        return f"{self.path}:{self.lines[where]}" if where else str(self.path)


def load_yaml(path: Path) -> Document:
    """Read one YAML mapping. Duplicate keys, aliases, tabs and oversized files are refused."""
    if not path.is_file():
        raise ConfigError(f"recipe file '{path}' does not exist{did_you_mean(path.name, _siblings(path))}")
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"'{path}' has {path.stat().st_size:,} bytes; a recipe has at most {MAX_BYTES:,}")
    lines: dict[Where, int] = {}
    try:
        text = path.read_text(encoding="utf-8")
        _refuse_unusual(text, path)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = _plain(root, (), lines, path) if root is not None else {}
    except UnicodeDecodeError as error:
        raise ConfigError(f"'{path}' is not UTF-8 text: {error}") from error
    except ConfigError:
        raise
    except (ValueError, AttributeError) as error:  # PyYAML's constructors, on a tag that does not fit its value
        raise ConfigError(f"{path}: a value does not fit its tag: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem or error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:1: a recipe is a mapping of keys, found {type(data).__name__}")
    return Document(path, data, lines)


def _refuse_unusual(text: str, path: Path) -> None:
    """Aliases may point at their own parent or unfold into gigabytes; deep nesting exhausts the parser."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else "?"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(f"{path}:{line}: nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{path}:{line}: aliases (*{event.anchor}) are not read; write the value out")


def _siblings(path: Path) -> list[str]:
    return [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []


def _plain(node: yaml.Node, where: Where, lines: dict[Where, int], path: Path) -> Any:
    """Turn a YAML node into data; the node is walked by hand to see duplicate keys and to keep line numbers."""
    lines.setdefault(where, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*where, i), lines, path) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _SCALARS.construct_object(node)
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{path}:{key_node.start_mark.line + 1}: a key is plain text, not a list or a mapping")
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in result:
            raise ConfigError(f"{path}:{line}: key '{key}' stands twice (first on line {lines[(*where, key)]})")
        lines[(*where, key)] = line
        result[key] = _plain(value_node, (*where, key), lines, path)
    return result


def environment_overrides(environ: Mapping[str, str], ignore: Iterable[str] = ()) -> dict[str, str]:
    """`POSTMILL_TRAIN__0__MAX_STEPS=10` -> `{"train.0.max_steps": "10"}`; names in `ignore` are settings, not keys."""
    found = {}
    for name, value in sorted(environ.items()):
        if name.startswith(ENV_PREFIX) and name not in set(ignore):
            found[name.removeprefix(ENV_PREFIX).lower().replace("__", ".")] = value
    return found


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """`["train.0.max_steps=10"]` -> `{"train.0.max_steps": "10"}`."""
    pairs = {}
    for text in assignments:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise ConfigError(f"--set {text!r}: write it as key=value, for example --set train.0.max_steps=10")
        pairs[key.strip()] = value
    return pairs


def apply_overrides(data: dict[str, Any], overrides: Mapping[str, str], origin: str) -> None:
    """Set dotted keys in place; values are parsed as YAML scalars. A path through nothing is an error."""
    problems = []
    for dotted, text in overrides.items():
        try:
            _assign(data, dotted.split("."), yaml.safe_load(text))
        except (LookupError, TypeError, yaml.YAMLError) as error:
            problems.append(f"{origin} {dotted}={text}: {error.args[0] if error.args else error}")
    if problems:
        raise ConfigError(problems)


def _assign(target: Any, keys: list[str], value: Any) -> None:
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(target, list):
            if not key.isdigit() or int(key) >= len(target):
                raise LookupError(f"'{key}' is not a position in '{'.'.join(keys[:depth])}' (0..{len(target) - 1})")
            index: Any = int(key)
        elif isinstance(target, dict):
            # environment variables arrive in lower case: prefer a key that stands in the file
            index = next((k for k in target if k.lower() == key.lower()), key)
            if not last and index not in target:
                target[index] = {}
        else:
            raise TypeError(f"'{'.'.join(keys[:depth])}' is a plain value and has no key '{key}'")
        if last:
            target[index] = value
        else:
            target = target[index]


def validation_problems(error: ValidationError, model: type[BaseModel], where: Where = ()) -> list[tuple[Where, str]]:
    """Flatten a pydantic error, errors of nested component configs included, into (path, message) pairs."""
    problems: list[tuple[Where, str]] = []
    for item in error.errors():
        at = (*where, *item["loc"])
        inner = (item.get("ctx") or {}).get("error")
        if isinstance(inner, NestedConfigError):
            problems += validation_problems(inner.error, inner.model, at)
        elif isinstance(inner, ConfigError):
            problems += [(at, problem) for problem in inner.problems]
        elif item["type"] == "extra_forbidden":
            fields = _fields_at(model, item["loc"][:-1])
            problems.append((at, f"unknown key '{at[-1]}'{_key_hint(str(at[-1]), fields)}"))
        elif item["type"] == "missing":
            problems.append((at, f"key '{at[-1]}' is required"))
        else:
            message = item["msg"].removeprefix("Value error, ")
            problems.append((at, f"{message} (got {_short(item.get('input'))})"))
    return problems


class NestedConfigError(ValueError):
    """Carries a component's own validation error through the recipe's; `validation_problems` unpacks it."""

    def __init__(self, error: ValidationError, model: type[BaseModel]) -> None:
        super().__init__(str(error))
        self.error, self.model = error, model


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _key_hint(key: str, fields: list[str]) -> str:
    if difflib.get_close_matches(key, fields, n=1, cutoff=0.6):
        return did_you_mean(key, fields)
    return f" (known: {', '.join(fields)})" if fields else ""


def _fields_at(model: Any, path: Iterable[str | int]) -> list[str]:
    """Field names of the model nested at `path`, as far as annotations tell."""
    for key in path:
        field = getattr(model, "model_fields", {}).get(key)
        if field is None:
            continue
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), model)
    return list(getattr(model, "model_fields", {}))
