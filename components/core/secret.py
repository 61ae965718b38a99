"""Secrets are named in a configuration, never written there: `token: env:HF_TOKEN`.

So a recipe can be printed, logged, tracked and committed; the value is fetched where it is used, by `reveal()`.
`masked` blots out revealed values in messages that others wrote.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import core_schema

from components.core.errors import ConfigError

_REFERENCE = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")
_SUSPICIOUS = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|(API|ACCESS|PRIVATE)_?KEY|CREDENTIAL", re.IGNORECASE)
_revealed: set[str] = set()
"""Variables that were read as secrets, whatever their name."""
MASK = "***"
SHORTEST = 8
"""Shorter values are not blotted out: they would take half of a message with them."""


class Secret:
    """The name of an environment variable that holds a secret."""

    def __init__(self, reference: str) -> None:
        found = _REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
        if not found:
            # the value itself is not repeated: it may be the secret
            raise ConfigError(
                "a secret is not written into a configuration; name its environment variable: env:HF_TOKEN"
            )
        self.variable = found[1]

    def reveal(self) -> str:
        """The secret itself; a ConfigError if the variable is not set."""
        _revealed.add(self.variable)
        value = os.environ.get(self.variable)
        if not value:
            raise ConfigError(
                f"the environment variable '{self.variable}' holds a secret and is not set; export it first"
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
    for value in _values().values():
        text = text.replace(value, MASK)
    return text


def masked_data(value: Any) -> Any:
    """What JSON can hold, without secrets. Masked text by text: blotting out finished JSON could break it."""
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, Mapping):
        return {masked(str(key)): masked_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [masked_data(item) for item in value]
    return masked(str(value))


def refuse_secrets(data: Any) -> None:
    """A ConfigError if such a value was written into a configuration: it would be recorded with it."""
    written = [name for name, value in _values().items() if _holds(data, value)]
    if written:
        raise ConfigError(f"the value of {written[0]} stands in the recipe, and recipes are recorded; take it out")


def _holds(data: Any, value: str) -> bool:
    if isinstance(data, Mapping):
        return any(_holds(part, value) for item in data.items() for part in item)
    if isinstance(data, list | tuple):
        return any(_holds(item, value) for item in data)
    return value in str(data)


def _values() -> dict[str, str]:
    """Variable -> value, the longest first: one may be the beginning of another."""
    found = {name: value for name, value in os.environ.items() if name in _revealed or _SUSPICIOUS.search(name)}
    return {
        name: found[name] for name in sorted(found, key=lambda name: -len(found[name])) if len(found[name]) >= SHORTEST
    }
