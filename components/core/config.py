"""What stands on top of the files: the environment and the command line; and every mistake reported at once.

Priority, highest first: `--set a.b=1` > `POSTMILL_A__B=1` in the environment > the same in `.env` > overlays
(`--env prod`) > the recipe file > files that it extends > defaults. `postmill config show RECIPE --origin` tells which
one won. `MODEL_NAME`, `TRAINING_TYPE` and `BATCH_SIZE` are read too, below the names with the prefix.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from components.core.documents import MAX_DEPTH, Document, Where, parse_yaml, position
from components.core.errors import ConfigError, did_you_mean

ENV_PREFIX = "POSTMILL_"
ALIASES = {"MODEL_NAME": "model.name", "TRAINING_TYPE": "train.0.type", "BATCH_SIZE": "train.*.batch_size"}
Location = tuple[str | int, ...]


@dataclass(frozen=True)
class Override:
    """A dotted key, its value as YAML text, and where it was said."""

    key: str
    text: str
    place: str


def environment_overrides(environ: Mapping[str, str], place: str, known: Iterable[str]) -> list[Override]:
    """`POSTMILL_TRAIN__0__MAX_STEPS=10` -> `train.0.max_steps`, for every name that begins with a `known` key."""
    known = set(known)
    found = [Override(_key(name), environ[name], f"{place} {name}") for name in sorted(environ) if _is_ours(name)]
    return [override for override in found if override.key.partition(".")[0] in known]


def alias_overrides(environ: Mapping[str, str], place: str) -> list[Override]:
    """`MODEL_NAME` and the other names without our prefix."""
    return [Override(key, environ[name], f"{place} {name}") for name, key in ALIASES.items() if name in environ]


def unknown_variables(environ: Mapping[str, str], place: str, known: Iterable[str]) -> list[str]:
    """A complaint about every variable with our prefix that begins with no `known` key."""
    known = sorted(known)
    words = {name: _key(name).partition(".")[0] for name in sorted(environ) if _is_ours(name)}
    return [
        f"{place} {name}: neither a setting nor a key of a recipe{_name_hint(word, known)}"
        for name, word in words.items()
        if word not in known
    ]


def _is_ours(name: str) -> bool:
    return name.startswith(ENV_PREFIX)


def _key(name: str) -> str:
    return name.removeprefix(ENV_PREFIX).lower().replace("__", ".")


def _name_hint(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {ENV_PREFIX}{close[0].upper()}?" if close else f" (known: {', '.join(known)})"


def parse_assignments(assignments: Iterable[str]) -> list[Override]:
    """`["train.0.max_steps=10"]`, as given to `--set`."""
    parts = [text.partition("=") for text in assignments]
    wrong = [key + sign + value for key, sign, value in parts if not (sign and key.strip())]
    if wrong:
        raise ConfigError(
            [f"--set {text!r}: write it as key=value, for example --set train.0.max_steps=10" for text in wrong]
        )
    return [Override(key.strip(), value, "--set") for key, _, value in parts]


def apply_overrides(document: Document, overrides: Iterable[Override]) -> None:
    """Set dotted keys in place; values are parsed like YAML in a file. A path through nothing is an error."""
    problems: list[str] = []
    for override in overrides:
        said = f"{override.place} {override.key}"
        try:
            value = parse_yaml(override.text, said, {})
            for where in _positions(document.data, override.key.split("."), ()):
                _assign(document.data, where, deepcopy(value))
                document.place(where, override.place)
        except ConfigError as error:
            problems += error.problems
        except (LookupError, TypeError) as error:
            # the value is not repeated: it may be a secret
            problems.append(f"{said}: {error.args[0]}")
    if problems:
        raise ConfigError(problems)


def _positions(target: Any, keys: list[str], done: Where) -> list[Where]:
    """Where a dotted key points: in the spelling of the file, and to every position of a list for `*`."""
    if not keys:
        return [done]
    if len(done) == MAX_DEPTH:
        raise LookupError(f"deeper than {MAX_DEPTH} levels")
    key, rest = keys[0], keys[1:]
    if not key.isprintable():
        raise LookupError(f"{key!r} is no text")  # it could not be written to a file either
    if isinstance(target, list):
        positions = range(len(target)) if key == "*" and target else [position(key, target)]
        return [where for at in positions for where in _positions(target[at], rest, (*done, str(at)))]
    if key == "*":
        raise LookupError(f"'*' stands for every position of a list, and '{'.'.join(done)}' is none")
    if isinstance(target, dict):
        if key not in target:  # environment variables arrive in lower case: find the key that stands in the file
            key = next((k for k in target if k.lower() == key.lower()), key)
        return _positions(target.get(key), rest, (*done, key))
    if target is None:
        return _positions({}, keys, done)
    raise TypeError(f"'{'.'.join(done)}' is a plain value and has no key '{key}'")


def _assign(target: Any, where: Where, value: Any) -> None:
    at: Any = int(where[0]) if isinstance(target, list) else where[0]
    if len(where) > 1:
        inner = target[at] if isinstance(target, list) else target.get(at)
        inner = {} if inner is None else inner
        _assign(inner, where[1:], value)
        value = inner
    target[at] = value


def validation_problems(
    error: ValidationError, model: type[BaseModel], where: Location = (), beside: tuple[str, ...] = ()
) -> list[tuple[Location, str]]:
    """Flatten a pydantic error, errors of nested component configs included, into (path, message) pairs.

    `beside`: keys that may stand next to the model's own.
    """
    problems: list[tuple[Location, str]] = []
    for item in error.errors():
        at = (*where, *item["loc"])
        inner = (item.get("ctx") or {}).get("error")
        if isinstance(inner, NestedConfigError):
            problems += validation_problems(inner.error, inner.model, at, inner.beside)
        elif isinstance(inner, ConfigError):
            problems += [((*at, inner.at) if inner.at else at, problem) for problem in inner.problems]
        elif item["type"] == "extra_forbidden":
            fields = [*_fields_at(model, item["loc"][:-1]), *(beside if len(item["loc"]) == 1 else ())]
            problems.append((at, f"unknown key '{at[-1]}'{_key_hint(str(at[-1]), fields)}"))
        elif item["type"] == "missing":
            problems.append((at, f"key '{at[-1]}' is required"))
        else:
            message = item["msg"].removeprefix("Value error, ")
            hint = "; a list is written [a, b]" if item["type"] in ("list_type", "tuple_type") else ""
            problems.append((at, f"{message} (got {_short(item.get('input'))}){hint}"))
    return problems


class NestedConfigError(ValueError):
    """Carries a component's own validation error through the recipe's; `validation_problems` unpacks it.

    `beside`: keys that the recipe takes next to the component's own.
    """

    def __init__(self, error: ValidationError, model: type[BaseModel], beside: tuple[str, ...] = ()) -> None:
        super().__init__(str(error))
        self.error, self.model, self.beside = error, model, beside


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _key_hint(key: str, fields: list[str]) -> str:
    if difflib.get_close_matches(key, fields, n=1, cutoff=0.6):
        return did_you_mean(key, fields)
    return f" (known: {', '.join(fields)})" if fields else ""


def _fields_at(model: Any, path: Iterable[str | int]) -> list[str]:
    """The keys of the model nested at `path`, as far as annotations tell."""
    for key in path:
        field = keys_of(model).get(str(key))
        if field is None:
            continue
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), model)
    return list(keys_of(model))


def keys_of(model: Any) -> dict[str, FieldInfo]:
    """The fields of a model by the names that they have in a file."""
    return {field.alias or name: field for name, field in getattr(model, "model_fields", {}).items()}
