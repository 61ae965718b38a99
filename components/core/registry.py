"""Names in a recipe -> component classes, one table per kind.

A component registers itself under a name: `@register("trainer", "sft")`. A kind knows the package that holds its
built-in components; that package is imported the first time the kind is asked for, so listing trainers never
imports a benchmark, and nothing imports torch. Plugins may register a lazy target, `"package.module:Class"`.

Try it: `postmill components`, or `registry.create("gate", "budget", max={"bytes": "300MB"})`.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from threading import RLock
from typing import Any, TypeVar, is_typeddict

from pydantic import ValidationError

from components.core.errors import ConfigError, did_you_mean

T = TypeVar("T", bound=type)
log = logging.getLogger(__name__)
BUILT_IN = "postmill"
OWN_PACKAGES = ("components.", "tasks.", "flows.")
AT_IMPORT = "a plugin registers in its register(api), not while it is imported, so that it can be undone"


@dataclass(frozen=True)
class Kind:
    """A family of components: `base` is the class or Protocol they answer to, `package` where the built-in ones live.

    `base` is the class itself, or `"module:Class"` where importing it at start-up would cost too much.
    """

    name: str
    base: type | str
    package: str | None = None


@dataclass(frozen=True)
class Entry:
    """One line of a table: the class (or where it is found) and who registered it."""

    target: type | str
    owner: str = BUILT_IN

    def __str__(self) -> str:
        place = self.target if isinstance(self.target, str) else f"{self.target.__module__}:{self.target.__qualname__}"
        return f"{place} ({self.owner})"


def resolve(target: str) -> Any:
    """Import `"package.module:Name"` and return what it names."""
    module, _, attribute = target.partition(":")
    if not (module and attribute):
        raise ImportError("write it as package.module:Class")
    return getattr(importlib.import_module(module), attribute)


class Registry:
    """Component classes by kind and name. Duplicates are refused; owner and seal are those of the thread that asks."""

    def __init__(self, kinds: Iterable[Kind] = ()) -> None:
        self._kinds: dict[str, Kind] = {}
        self._kind_owners: dict[str, str] = {}
        self._entries: dict[str, dict[str, Entry]] = {}
        self._discovered: set[str] = set()
        self._owner = ContextVar("owner", default=BUILT_IN)
        self._seal = ContextVar("seal", default="")
        self._lock = RLock()  # for the tables; never held during an import, which waits for other threads' imports
        for kind in kinds:
            self.add_kind(kind)

    # ------------------------------------------------------------ registering

    def add_kind(self, kind: Kind) -> None:
        """Open a new kind; its components extend `kind.base`, or have what it asks for if it is a Protocol."""
        self._refuse_if_sealed(f"kind '{kind.name}'")
        with self._lock:
            if kind.name in self._kinds:
                raise ConfigError(f"component kind '{kind.name}' exists already")
            self._kind_owners[kind.name] = self._owner.get()
            self._entries[kind.name] = {}
            self._kinds[kind.name] = kind

    def register(self, kind: str, name: str) -> Callable[[T], T]:
        """Class decorator that puts a component into the table."""

        def decorate(cls: T) -> T:
            home = self._known(kind).package
            ours = cls.__module__.startswith((*OWN_PACKAGES, f"{home}." if home else OWN_PACKAGES[0]))
            # our own modules may be imported first by a plugin that extends one of their classes
            with self.owned_by(BUILT_IN) if ours else nullcontext():
                self.add(kind, name, cls)
            return cls

        return decorate

    def add(self, kind: str, name: str, target: type | str) -> None:
        """Register a class, or the lazy target `"module:Class"` of one."""
        entry = Entry(target, self._owner.get())
        if entry.owner != BUILT_IN:  # the built-in names first: a plugin must not take one of them by being early
            self._load(kind)
        self._refuse_if_sealed(f"{kind} '{name}'")
        if not isinstance(target, str):
            self._check_base(kind, name, target)
        with self._lock:
            entries = self._entries[self._known(kind).name]
            if name in entries:
                raise ConfigError(f"{kind} '{name}' is registered twice: by {entries[name]} and by {entry}")
            entries[name] = entry

    def forget(self, owner: str, strangers: bool = False) -> None:
        """Undo everything that `owner` registered. Python keeps the modules it imported.

        What others registered in a kind of `owner` is in the way, unless `strangers` says to forget that too.
        """
        self._refuse_if_sealed(f"what {owner} registered")
        with self._lock:
            theirs = [kind for kind, whose in self._kind_owners.items() if whose == owner]
            users = [str(entry) for kind in theirs for entry in self._entries[kind].values() if entry.owner != owner]
            if users and not strangers:
                raise ConfigError(f"{owner} owns a component kind that others use: {', '.join(users)}")
            for kind in theirs:
                del self._kinds[kind], self._kind_owners[kind], self._entries[kind]
            for entries in self._entries.values():
                for name in [name for name, entry in entries.items() if entry.owner == owner]:
                    del entries[name]
        if users:
            log.warning("%s takes its component kind away from %s", owner, ", ".join(users))

    def owned(self, owner: str) -> list[str]:
        """What `owner` registered, as `"kind:name"`."""
        with self._lock:
            kinds = [f"kind:{kind}" for kind, whose in self._kind_owners.items() if whose == owner]
            return kinds + [
                f"{kind}:{name}"
                for kind, entries in self._entries.items()
                for name, entry in entries.items()
                if entry.owner == owner
            ]

    @contextmanager
    def owned_by(self, owner: str) -> Iterator[None]:
        """Registrations below belong to `owner`, which listings and error messages name. Lifts a seal meanwhile."""
        with self.sealed(""):
            before = self._owner.set(owner)
            try:
                yield
            finally:
                self._owner.reset(before)

    @contextmanager
    def sealed(self, reason: str) -> Iterator[None]:
        """Refuse changes below, with this reason."""
        before = self._seal.set(reason)
        try:
            yield
        finally:
            self._seal.reset(before)

    # ------------------------------------------------------------ asking

    def get(self, kind: str, name: str) -> Any:
        """The class registered under `kind` and `name`; a ConfigError lists close names if there is none."""
        entry = self.entry(kind, name)
        if isinstance(entry.target, type):
            return entry.target
        # a plugin's module is imported once, so what it registered itself would be gone after a reload
        with self.owned_by(BUILT_IN) if entry.owner == BUILT_IN else self.sealed(AT_IMPORT):
            target = _loaded(f"{kind} '{name}' cannot be loaded from {entry}", entry.target)
            self._check_base(kind, name, target)
        with self._lock:
            entries = self._entries.get(kind, {})
            if entries.get(name) is entry:  # and not forgotten meanwhile
                entries[name] = Entry(target, entry.owner)
        return target

    def broken(self, kind: str, name: str) -> str | None:
        """Why a registered component cannot be loaded, or None if it can."""
        self.entry(kind, name)
        try:
            self.get(kind, name)
        except ConfigError as error:
            return str(error)
        return None

    def entry(self, kind: str, name: str) -> Entry:
        """What is registered under `kind` and `name`, without importing it."""
        entries = self._load(kind)
        entry = entries.get(name)
        if entry is None:
            known = ", ".join(sorted(entries)) or "none"
            raise ConfigError(f"unknown {kind} '{name}'{did_you_mean(name, entries)} (known: {known})")
        return entry

    def create(self, kind: str, name: str, /, **config: Any) -> Any:
        """Validate `config` with the component's own `Config` and build the component."""
        cls = self.get(kind, name)
        model = getattr(cls, "Config", None)
        if model is None:  # what answers to a Protocol need not have one
            if config:
                raise ConfigError(f"{kind} '{name}' takes no configuration, found {', '.join(config)}")
            return cls()
        try:
            checked = model.model_validate(config)
        except ValidationError as error:
            from components.core.config import validation_problems

            problems = validation_problems(error, model)
            raise ConfigError(
                [": ".join([f"{kind} '{name}'", *filter(None, [_dotted(at)]), text]) for at, text in problems]
            ) from error
        return cls(checked)

    def factory(self, kind: str) -> Factory:
        """`create` and `register` for one kind: `registry.factory("gate").create("budget", max={...})`."""
        return Factory(self, self._known(kind).name)

    def names(self, kind: str) -> list[str]:
        """All names of a kind, sorted."""
        return sorted(self._load(kind))

    def kinds(self) -> list[str]:
        """All kinds, in the order they were added."""
        return list(self._kinds)

    def _refuse_if_sealed(self, what: str) -> None:
        if self._seal.get():
            raise ConfigError(f"cannot change {what}: {self._seal.get()}")

    def _known(self, kind: str) -> Kind:
        if kind not in self._kinds:
            raise ConfigError(f"unknown component kind '{kind}'{did_you_mean(kind, self._kinds)}")
        return self._kinds[kind]

    def _load(self, kind: str) -> dict[str, Entry]:
        package_name = self._known(kind).package
        if package_name and kind not in self._discovered:
            # threads that ask meanwhile import too: Python makes them wait for each other, module by module
            with self.owned_by(BUILT_IN):
                complete = _import_modules(package_name)
            if complete:  # not before: a module that cannot be imported is told every time
                self._discovered.add(kind)
        return self._entries[kind]

    def _check_base(self, kind: str, name: str, target: Any) -> None:
        base = self._known(kind).base
        complaint = refusal(target, _loaded(f"the base of kind '{kind}' cannot be loaded from {base}", base))
        if complaint:
            raise ConfigError(f"{kind} '{name}': {complaint}")


@dataclass(frozen=True)
class Factory:
    """One kind of the registry."""

    registry: Registry
    kind: str

    def create(self, name: str, /, **config: Any) -> Any:
        """A component of this kind."""
        return self.registry.create(self.kind, name, **config)

    def register(self, name: str) -> Callable[[T], T]:
        """Class decorator for this kind."""
        return self.registry.register(self.kind, name)

    def names(self) -> list[str]:
        """What can be created."""
        return self.registry.names(self.kind)


def refusal(target: Any, base: type) -> str | None:
    """Why `target` does not answer to `base` (a class it must extend, or a Protocol it must satisfy), or None."""
    if not isinstance(target, type) or is_typeddict(target):
        return f"{target!r} is not a class"
    missing = set(getattr(target, "__abstractmethods__", ()))
    if getattr(base, "_is_protocol", False):
        declared = {name for cls in target.__mro__ for name in inspect.get_annotations(cls)}  # and set in `__init__`
        missing |= {name for name in _asked_for(base) - declared if not hasattr(target, name)}
    elif not issubclass(target, base):
        return f"{target.__qualname__} must extend {base.__qualname__}"
    return f"{target.__qualname__} lacks {', '.join(sorted(missing))} of {base.__qualname__}" if missing else None


def _asked_for(protocol: type) -> set[str]:
    """The public methods and attributes that a Protocol names."""
    names: set[str] = set()
    for cls in protocol.__mro__[:-1]:
        if getattr(cls, "_is_protocol", False):
            names |= set(inspect.get_annotations(cls)) | set(vars(cls))
    return {name for name in names if not name.startswith("_")}


def _dotted(at: Iterable[str | int]) -> str:
    return ".".join(map(str, at))


def _loaded(problem: str, target: type | str) -> Any:
    try:
        return resolve(target) if isinstance(target, str) else target
    except (Exception, SystemExit) as error:  # a stranger's module: whatever it raises is its own failure
        raise ConfigError(f"{problem}: {type(error).__name__}: {error}") from error


def _import_modules(package_name: str) -> bool:
    """True when all are there; False if one of them is still being imported, and asked for its own kind."""
    modules = [package := importlib.import_module(package_name)]
    for found in pkgutil.iter_modules(package.__path__):
        if not found.name.startswith("_"):  # helpers, which may import heavy libraries
            modules.append(importlib.import_module(f"{package_name}.{found.name}"))
    return not any(getattr(module.__spec__, "_initializing", False) for module in modules)
