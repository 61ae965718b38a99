"""What stands on top of the files: the environment and the command line; and every mistake reported at once.

Priority, highest first: `--set a.b=1` > `POSTMILL_A__B=1` in the environment > the same in `.env` > overlays
(`--env prod`) > the recipe file > files that it extends > defaults. `postmill config show RECIPE --origin` tells which
one won. `MODEL_NAME`, `TRAINING_TYPE` and `BATCH_SIZE` are read too, below the names with the prefix.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from components.core.documents import Document
from components.core.errors import ConfigError
from components.core.registry import did_you_mean

ENV_PREFIX = "POSTMILL_"
ALIASES = {"MODEL_NAME": "model.name", "TRAINING_TYPE": "train.0.type", "BATCH_SIZE": "train.*.batch_size"}
Where = tuple[str | int, ...]


@dataclass(frozen=True)
class Override:
    """A dotted key, its value as YAML text, and where it was said."""

    key: str
    text: str
    place: str


def environment_overrides(
    environ: Mapping[str, str], place: str, known: Iterable[str], ignore: Iterable[str]
) -> list[Override]:
    """`POSTMILL_TRAIN__0__MAX_STEPS=10` -> `train.0.max_steps`. `known`: the recipe's keys, `ignore`: the settings'."""
    found, problems = [], []
    known, ignore = list(known), set(ignore)
    for name, value in sorted(environ.items()):
        if not name.startswith(ENV_PREFIX):
            continue
        key = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
        first = key.partition(".")[0]
        if first in ignore:
            continue
        if first not in known:
            problems.append(
                f"{place} {name}: neither a setting nor a key of a recipe{_name_hint(first, [*known, *ignore])}"
            )
        found.append(Override(key, value, f"{place} {name}"))
    if problems:
        raise ConfigError(problems)
    aliases = [Override(key, environ[name], f"{place} {name}") for name, key in ALIASES.items() if name in environ]
    return [*aliases, *found]


def _name_hint(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {ENV_PREFIX}{close[0].upper()}?" if close else f" (known: {', '.join(sorted(known))})"


def parse_assignments(assignments: Iterable[str]) -> list[Override]:
    """`["train.0.max_steps=10"]`, as given to `--set`."""
    overrides = []
    for text in assignments:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise ConfigError(f"--set {text!r}: write it as key=value, for example --set train.0.max_steps=10")
        overrides.append(Override(key.strip(), value, "--set"))
    return overrides


def apply_overrides(document: Document, overrides: Iterable[Override]) -> None:
    """Set dotted keys in place; values are parsed as YAML scalars. A path through nothing is an error."""
    problems = []
    for override in overrides:
        try:
            value = yaml.safe_load(override.text)
            for where in _positions(document.data, override.key.split("."), ()):
                _assign(document.data, where, value)
                document.place(where, override.place)
        except (LookupError, TypeError, yaml.YAMLError) as error:
            reason = error.args[0] if error.args else error
            problems.append(f"{override.place} {override.key}={override.text}: {reason}")
    if problems:
        raise ConfigError(problems)


def _positions(target: Any, keys: list[str], done: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Where a dotted key points: in the spelling of the file, and to every position of a list for `*`."""
    if not keys:
        return [done]
    key, rest = keys[0], keys[1:]
    if isinstance(target, list):
        if key == "*":
            return [where for i, item in enumerate(target) for where in _positions(item, rest, (*done, str(i)))]
        if not key.isdigit() or int(key) >= len(target):
            raise LookupError(f"'{key}' is not a position in '{'.'.join(done)}' (0..{len(target) - 1})")
        return _positions(target[int(key)], rest, (*done, key))
    if isinstance(target, dict):
        # environment variables arrive in lower case: prefer a key that stands in the file
        key = next((k for k in target if k.lower() == key.lower()), key)
        return _positions(target.get(key, {}), rest, (*done, key))
    if target is None:
        return [(*done, key, *rest)]
    raise TypeError(f"'{'.'.join(done)}' is a plain value and has no key '{key}'")


def _assign(target: Any, where: tuple[str, ...], value: Any) -> None:
    *path, last = where
    for key in path:
        index: Any = int(key) if isinstance(target, list) else key
        if isinstance(target, dict) and target.get(index) is None:
            target[index] = {}
        target = target[index]
    target[int(last) if isinstance(target, list) else last] = value


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
