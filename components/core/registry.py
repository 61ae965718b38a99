"""Names in a recipe -> component classes, one closed table per kind.

A component registers itself under a name: `@register("trainer", "sft")`. A kind knows the package that holds its
built-in components; that package is imported the first time the kind is asked for, so listing trainers never
imports a benchmark, and nothing imports torch. Plugins may register a lazy target, `"package.module:Class"`.

Try it: `postmill components`.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from components.core.errors import ConfigError

T = TypeVar("T", bound=type)


@dataclass(frozen=True)
class Kind:
    """A family of components: `base` is the class they extend, `package` where the built-in ones live."""

    name: str
    base: str
    package: str | None = None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'sft'?"` when a close name exists, else an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def resolve(target: str) -> Any:
    """Import `"package.module:Name"` and return what it names."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


class Registry:
    """Component classes by kind and name. Duplicates are refused; after `freeze` so is every registration."""

    def __init__(self, kinds: Iterable[Kind] = ()) -> None:
        self._kinds: dict[str, Kind] = {}
        self._entries: dict[str, dict[str, type | str]] = {}
        self._discovered: set[str] = set()
        self._frozen = False
        for kind in kinds:
            self.add_kind(kind)

    def add_kind(self, kind: Kind) -> None:
        """Open a new kind; its components extend `kind.base`."""
        if kind.name in self._kinds:
            raise ConfigError(f"component kind '{kind.name}' exists already")
        self._kinds[kind.name] = kind
        self._entries[kind.name] = {}

    def register(self, kind: str, name: str) -> Callable[[T], T]:
        """Class decorator that puts a component into the table."""

        def decorate(cls: T) -> T:
            self.add(kind, name, cls)
            return cls

        return decorate

    def add(self, kind: str, name: str, target: type | str) -> None:
        """Register a class, or the lazy target `"module:Class"` of one."""
        entries = self._entries[self._known(kind).name]
        if self._frozen:
            raise ConfigError(f"cannot register {kind} '{name}': the registry is frozen after start-up")
        if name in entries:
            raise ConfigError(f"{kind} '{name}' is registered twice: by {entries[name]} and by {target}")
        if isinstance(target, type):
            self._check_base(kind, name, target)
        entries[name] = target

    def get(self, kind: str, name: str) -> Any:
        """The class registered under `kind` and `name`; a ConfigError lists close names if there is none."""
        entries = self._load(kind)
        if name not in entries:
            raise ConfigError(
                f"unknown {kind} '{name}'{did_you_mean(name, entries)} (known: {', '.join(sorted(entries))})"
            )
        target = entries[name]
        if isinstance(target, str):
            target = resolve(target)
            self._check_base(kind, name, target)
            entries[name] = target
        return target

    def create(self, kind: str, name: str, /, **config: Any) -> Any:
        """Validate `config` with the component's own `Config` and build the component."""
        cls = self.get(kind, name)
        return cls(cls.Config.model_validate(config))

    def names(self, kind: str) -> list[str]:
        """All names of a kind, sorted."""
        return sorted(self._load(kind))

    def kinds(self) -> list[str]:
        """All kinds, in the order they were added."""
        return list(self._kinds)

    def freeze(self) -> None:
        """Load every kind and refuse further registrations."""
        for kind in self._kinds:
            self._load(kind)
        self._frozen = True

    def _known(self, kind: str) -> Kind:
        if kind not in self._kinds:
            raise ConfigError(f"unknown component kind '{kind}'{did_you_mean(kind, self._kinds)}")
        return self._kinds[kind]

    def _load(self, kind: str) -> dict[str, type | str]:
        package_name = self._known(kind).package
        if package_name and kind not in self._discovered:
            self._discovered.add(kind)
            package = importlib.import_module(package_name)
            for module in pkgutil.iter_modules(package.__path__):
                if not module.name.startswith("_"):  # helpers, which may import heavy libraries
                    importlib.import_module(f"{package_name}.{module.name}")
        return self._entries[kind]

    def _check_base(self, kind: str, name: str, target: type) -> None:
        base = resolve(self._known(kind).base)
        if not issubclass(target, base):
            raise ConfigError(f"{kind} '{name}' ({target.__qualname__}) must extend {base.__qualname__}")
