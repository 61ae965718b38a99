"""Services by type: constructors are filled in from their type hints, lifetimes and teardown are wireup's.

    @service("training")                                         # a role and its default implementation
    class TrainingService: ...

    @service("careful_training", role="training")
    class CarefulTraining(TrainingService): ...                  # chosen by  services: {training: careful_training}

    with Container(registry, {"training": "careful_training"}) as container, container.scope() as run:
        run.get(TrainingService), run.get("training")

A role may be a Protocol (`provides=`). Whatever is missing, circular or held too long is found when the container is
made. A service with `__enter__` is entered when it is made and left when its lifetime ends.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import NoneType, UnionType
from typing import Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints, overload

import wireup
from pydantic import ValidationError
from wireup.errors import ContainerCloseError, WireupError

from components.core.errors import WiringError, did_you_mean
from components.core.registry import Registry, refusal
from components.core.service import LIFETIMES, Lifetime, service_info

T = TypeVar("T")
log = logging.getLogger(__name__)
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class _Choice:
    """A role, the class that fills it, and how."""

    role: str
    name: str
    cls: type
    provides: type
    lifetime: Lifetime
    config: Any


class Scope:
    """Services that live as long as one flow run or one request."""

    def __init__(self, inner: Any, roles: Mapping[str, type]) -> None:
        self._inner, self._roles = inner, roles

    @overload
    def get(self, what: type[T]) -> T: ...
    @overload
    def get(self, what: str) -> Any: ...
    def get(self, what: Any) -> Any:
        """A service by the type that its role provides, or by the name of its role."""
        what = self._type(what)
        try:
            return self._inner.get(what)
        except WireupError as error:
            raise WiringError(f"cannot get {getattr(what, '__qualname__', what)}: {_readable(error)}") from error

    def _type(self, what: Any) -> Any:
        if not isinstance(what, str):
            return what
        if what not in self._roles:
            raise WiringError(f"no service '{what}'{did_you_mean(what, self._roles)}")
        return self._roles[what]


class Container(Scope):
    """All services of a process, wired by the recipe's `services` section; close it, or use it in a `with` block."""

    def __init__(
        self,
        registry: Registry,
        services: Mapping[str, Any] | None = None,
        instances: Mapping[type, Any] | None = None,
        factories: Sequence[Callable[[], Any]] = (),
    ) -> None:
        self.choices = choose(registry, services or {})
        made = {*(instances or {}), *(choice.provides for choice in self.choices), *map(_returned, factories)}
        given = [wireup.instance(value, as_type=kind) for kind, value in (instances or {}).items()]
        given += [wireup.injectable(factory) for factory in factories]
        problems: list[str] = []
        for choice in self.choices:
            with _collected(problems):
                given.append(_injectable(choice, made))
        if problems:
            raise WiringError(problems)
        try:
            # tasks of one run may share its scope from several threads
            inner = wireup.create_sync_container(injectables=given, concurrent_scoped_access=True)
        except WireupError as error:
            raise WiringError(f"services do not fit together: {_readable(error)}") from error
        super().__init__(inner, {choice.role: choice.provides for choice in self.choices})

    @contextmanager
    def scope(self) -> Iterator[Scope]:
        """Scoped and transient services are made in here, and closed at its end."""
        scope = self._inner.enter_scope()
        try:
            yield Scope(scope, self._roles)
        except BaseException as error:
            _close(partial(scope.__exit__, type(error), error, error.__traceback__), because=error)
            raise
        _close(scope.__exit__)

    @contextmanager
    def override(self, what: type | str, replacement: Any) -> Iterator[None]:
        """Give out `replacement` instead, for a test. Services made before keep what they got."""
        what, overrides = self._type(what), self._inner.override
        try:
            overrides.set(what, replacement)
        except WireupError as error:
            raise WiringError(_readable(error)) from error
        try:
            yield
        finally:
            overrides.delete(what)

    def close(self) -> None:
        """Leave what was entered, in reverse order of making. What one of them raises stops none of the others."""
        _close(self._inner.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        _close(self._inner.close, because=error)


def _close(close: Callable[[], None], because: BaseException | None = None) -> None:
    """Close; what that raises is only logged where it would hide the error that brought us here."""
    failed: Exception | None = None
    try:
        close()
    except ContainerCloseError as error:
        failed = error.errors[0] if len(error.errors) == 1 else error
    if failed and because:
        log.warning("services failed to close", exc_info=failed)
    elif failed:
        raise failed


def choose(registry: Registry, services: Mapping[str, Any]) -> list[_Choice]:
    """One implementation a role: the recipe's choice, else the service of the role's name, else the only one.

    A service that cannot be loaded matters only where it is the one.
    """
    roles: dict[str, dict[str, type]] = {}
    broken: dict[str, str] = {}
    for name in registry.names("service"):
        reason = registry.broken("service", name)
        if reason:
            broken[name] = reason
            continue
        cls = registry.get("service", name)
        roles.setdefault(service_info(name, cls).role, {})[name] = cls
    known = ", ".join(sorted(roles))
    problems: list[str] = []
    chosen: list[_Choice] = []
    for role in [*(role for role in services if role not in roles), *roles]:
        with _collected(problems):
            name, options = _wanted(role, roles.get(role, {}), services.get(role), broken)
            if role not in roles:
                raise WiringError(f"services.{role}: no such role{did_you_mean(role, roles)} (known: {known})")
            chosen.append(_choice(role, roles[role], name, options))
    if problems:
        raise WiringError(problems)
    return chosen


@contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    """Go on after a WiringError, so that every mistake is reported at once."""
    try:
        yield
    except WiringError as error:
        problems += error.problems


def _wanted(
    role: str, candidates: Mapping[str, type], wanted: Any, broken: Mapping[str, str]
) -> tuple[Any, dict[str, Any]]:
    """The name of the service that shall fill a role, and its options; a WiringError if that one is broken."""
    options = dict(wanted) if isinstance(wanted, Mapping) else {} if wanted is None else {"type": wanted}
    only = next(iter(candidates)) if len(candidates) == 1 and role not in broken else role
    name = options.pop("type", only)
    if name in list(broken):
        raise WiringError(f"services.{role}: {broken[name]}")
    return name, options


def _choice(role: str, candidates: Mapping[str, type], name: Any, options: dict[str, Any]) -> _Choice:
    known = ", ".join(sorted(candidates))
    if name == role and role not in candidates:
        raise WiringError(f"services.{role}: several fit and none is the default; choose one of {known}")
    if name not in list(candidates):
        raise WiringError(f"services.{role}: no service '{name}'{did_you_mean(str(name), candidates)} (known: {known})")
    cls = candidates[name]
    lifetime = options.pop("lifetime", service_info(name, cls).lifetime)
    if lifetime not in LIFETIMES:
        hint = did_you_mean(str(lifetime), LIFETIMES)
        raise WiringError(f"services.{role}.lifetime: '{lifetime}' is not one of {', '.join(LIFETIMES)}{hint}")
    provides = service_info(role, candidates[role]).provides if role in candidates else service_info(name, cls).provides
    complaint = refusal(cls, provides)
    if complaint:
        raise WiringError(f"services.{role}: {complaint}")
    return _Choice(role, name, cls, provides, lifetime, _configured(role, cls, options))


def _configured(role: str, cls: type, options: Mapping[str, Any]) -> Any:
    model = getattr(cls, "Config", None) if "config" in inspect.signature(cls).parameters else None
    if model is None:
        if options:
            raise WiringError(f"services.{role}: {cls.__qualname__} takes no configuration, found {', '.join(options)}")
        return None
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        from components.core.config import validation_problems

        raise WiringError(
            [f"{'.'.join(['services', role, *map(str, at)])}: {text}" for at, text in validation_problems(error, model)]
        ) from error


def _injectable(choice: _Choice, made: Collection[Any]) -> Any:
    """The class as a factory that wireup can call: configuration filled in, entered and left if it can be."""
    cls = choice.cls
    fixed = {"config": choice.config} if choice.config is not None else {}
    parameters = _asked_for(f"service '{choice.name}' ({cls.__qualname__})", cls, made, without=fixed)

    def make(**injected: Any) -> Any:
        return cls(**injected, **fixed)

    def enter(**injected: Any) -> Iterator[Any]:
        with cls(**injected, **fixed) as made:
            yield made

    closes = hasattr(cls, "__enter__")
    factory: Any = enter if closes else make
    returns = Iterator[cls] if closes else cls  # type: ignore[valid-type]
    factory.__signature__ = inspect.Signature(parameters, return_annotation=returns)
    factory.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": returns}
    factory.__qualname__ = f"{cls.__qualname__}.{factory.__name__}"
    provides = choice.provides if choice.provides is not cls else None
    return wireup.injectable(factory, lifetime=choice.lifetime, as_type=provides)


def _asked_for(service: str, cls: Any, made: Collection[Any], without: Collection[str]) -> list[inspect.Parameter]:
    """The constructor's parameters that somebody provides; a WiringError if nobody does and there is no default."""
    hints, found, missing = _hints(service, cls), [], []
    for name, parameter in inspect.signature(cls).parameters.items():
        hint = hints.get(name)
        if name in without or parameter.kind in VARIADIC:
            continue
        if hint in made:
            found.append(parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY))
        elif hint is None and parameter.default is parameter.empty:
            missing.append(f"{service}: give its parameter '{name}' a type")
        elif parameter.default is parameter.empty:
            wanted = getattr(hint, "__qualname__", hint)
            missing.append(f"{service}: nobody provides {wanted}, which its parameter '{name}' asks for")
    if missing:
        raise WiringError(missing)
    return found


def _hints(service: str, cls: Any) -> dict[str, Any]:
    """What the constructor asks for. `X | None` asks for X; its default counts only where nobody provides X."""
    own = {key: value for base in reversed(cls.__mro__) for key, value in vars(base).items()}  # its own Config
    try:
        hints = get_type_hints(cls.__init__, localns=own)
    except Exception as error:
        raise WiringError(f"{service}: the hints of __init__ cannot be read: {error}") from error
    return {parameter: _without_none(hint) for parameter, hint in hints.items()}


def _returned(factory: Callable[[], Any]) -> Any:
    """What a factory makes: what it returns, or what it yields once."""
    made = get_type_hints(factory).get("return")
    return get_args(made)[0] if inspect.isgeneratorfunction(factory) else made


def _without_none(hint: Any) -> Any:
    inner = [part for part in get_args(hint) if part is not NoneType]
    return inner[0] if get_origin(hint) in (Union, UnionType) and len(inner) == 1 else hint


def _readable(error: WireupError) -> str:
    """wireup's message without addresses, links, and the factories that stand between it and the classes."""
    text = re.sub(r"<function (\S+?)(?:\.make|\.enter)? at 0x\w+>", r"\1", str(error))
    text = re.sub(r" \(created via [^)]*\)|See: https://\S+", "", text)
    return " ".join(re.sub(r"<class '(?:[^']*\.)?(\w+)'>", r"\1", text).split())
