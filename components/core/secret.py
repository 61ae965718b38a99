"""Secrets are named in a configuration, never written there: `token: env:HF_TOKEN`.

So a recipe can be printed, logged, tracked and committed; the value is fetched where it is used, by `reveal()`, from
the environment or else from the file `.env` in the working directory. `masked` blots out revealed values in messages
that others wrote.
"""

from __future__ import annotations

import io
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic_core import core_schema

from components.core.errors import ConfigError

_REFERENCE = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")
_SUSPICIOUS = re.compile(
    # not: an author, a tokenizer, the socket of an agent
    r"TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|PASSPHRASE|(API|ACCESS|PRIVATE)_?KEY|CREDENTIAL|AUTH(ORIZATION)?(?!_SOCK|[A-Z])",
    re.IGNORECASE,
)
DOTENV = ".env"
_revealed: set[str] = set()
"""Variables that were read as secrets, whatever their name."""
_NOT_WRITTEN = "a secret is not written into a configuration; name its environment variable: env:HF_TOKEN"
MASK = "***"
SHORTEST = 8
"""Shorter values are not blotted out: they would take half of a message with them."""


class Secret:
    """The name of an environment variable that holds a secret."""

    def __init__(self, reference: str) -> None:
        found = _REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
        if not found:
            # the value itself is not repeated: it may be the secret
            raise ConfigError(_NOT_WRITTEN)
        self.variable = found[1]

    def reveal(self) -> str:
        """The secret itself; a ConfigError if the variable is not set."""
        _revealed.add(self.variable)
        value = os.environ.get(self.variable) or _dotenv().get(self.variable)
        if not value:
            raise ConfigError(
                f"the environment variable '{self.variable}' holds a secret and is not set; "
                f"export it first, or write it into '{DOTENV}'"
            )
        return value

    def __str__(self) -> str:
        return f"env:{self.variable}"

    def __repr__(self) -> str:
        return f"Secret('{self}')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.variable == self.variable

    def __hash__(self) -> int:
        return hash(self.variable)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        # a plain function: pydantic's own checks would repeat a wrong value, which may be the secret
        return core_schema.no_info_plain_validator_function(
            lambda given: given if isinstance(given, cls) else cls(given),
            json_schema_input_schema=core_schema.str_schema(pattern=f"^{_REFERENCE.pattern}$"),
            serialization=core_schema.to_string_ser_schema(),
        )


def masked(text: str) -> str:
    """`text` without the values of revealed secrets, and of variables that look like secrets by their name."""
    return _blotted(text, _values())


def _blotted(text: str, secrets: list[tuple[str, str]]) -> str:
    for _, value in secrets:
        text = text.replace(value, MASK)
    return text


def masked_data(value: Any) -> Any:
    """What JSON can hold, without secrets. Masked text by text: blotting out finished JSON could break it."""
    return _blotted_data(value, _values())


def _blotted_data(value: Any, secrets: list[tuple[str, str]]) -> Any:
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, Mapping):
        return {_blotted(str(key), secrets): _blotted_data(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_blotted_data(item, secrets) for item in value]
    return _blotted(str(value), secrets)


def refuse_secrets(data: Any) -> None:
    """A ConfigError if such a value was written into a configuration: it would be recorded with it."""
    written = [name for name, value in _values() if _holds(data, value)]
    if written:
        raise ConfigError(f"the value of {written[0]} stands in the recipe, and recipes are recorded; take it out")


def _holds(data: Any, value: str) -> bool:
    if isinstance(data, Mapping):
        return any(_holds(part, value) for item in data.items() for part in item)
    if isinstance(data, list | tuple):
        return any(_holds(item, value) for item in data)
    return value in str(data)


def refuse_literals(data: Any, place: str) -> None:
    """A ConfigError if text stands under a key that is named like a secret (`token: abc`); it does not repeat it."""
    found = [f"{at}: {_NOT_WRITTEN}" for at in _literals(data, place)]
    if found:
        raise ConfigError(found)


def _literals(data: Any, place: str) -> Iterator[str]:
    items = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list | tuple) else ()
    for key, value in items:
        if isinstance(value, str) and value and _looks_secret(str(key)) and not _REFERENCE.fullmatch(value):
            yield f"{place}.{key}"
        yield from _literals(value, f"{place}.{key}")


def _values() -> list[tuple[str, str]]:
    """Variables and their values, the longest value first: one may be the beginning of another."""
    found = [
        (name, source.get(name) or "")
        for source in (os.environ, _dotenv())
        for name in list(source)
        if name in _revealed or _looks_secret(name)
    ]
    return sorted((pair for pair in found if len(pair[1]) >= SHORTEST), key=lambda pair: -len(pair[1]))


@lru_cache(maxsize=1024)
def _looks_secret(name: str) -> bool:
    return _SUSPICIOUS.search(name) is not None


def _dotenv() -> Mapping[str, str | None]:
    """The variables of `.env`; read again only when the file is another one, or was changed."""
    try:
        found = os.stat(DOTENV)
    except OSError:
        return {}
    if not stat.S_ISREG(found.st_mode):  # a pipe would make us wait
        return {}
    return _read_dotenv(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=1)
def _read_dotenv(*version: int) -> Mapping[str, str | None]:
    """Whatever is in the file, nobody is told here: its mistakes are reported where the settings are read."""
    from dotenv import dotenv_values

    try:
        text = Path(DOTENV).read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return {}
    return dotenv_values(stream=io.StringIO(text))
