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
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar, get_type_hints, overload

import wireup
from pydantic import ValidationError
from wireup.errors import WireupError

from components.core.errors import WiringError
from components.core.registry import Registry, did_you_mean, refusal
from components.core.service import LIFETIMES, Lifetime, service_info

T = TypeVar("T")


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
        if isinstance(what, str):
            if what not in self._roles:
                raise WiringError(f"no service '{what}'{did_you_mean(what, self._roles)}")
            what = self._roles[what]
        try:
            return self._inner.get(what)
        except WireupError as error:
            raise WiringError(f"cannot get {getattr(what, '__qualname__', what)}: {_readable(error)}") from error


class Container(Scope):
    """All services of a process, wired by the recipe's `services` section; close it, or use it in a `with` block."""

    def __init__(
        self,
        registry: Registry,
        services: Mapping[str, Any] | None = None,
        instances: Mapping[type, Any] | None = None,
        factories: Iterable[Callable[[], Any]] = (),
    ) -> None:
        self.choices = choose(registry, services or {})
        given = [wireup.instance(value, as_type=kind) for kind, value in (instances or {}).items()]
        given += [wireup.injectable(factory) for factory in factories]
        try:
            inner = wireup.create_sync_container(injectables=[*given, *map(_injectable, self.choices)])
        except WireupError as error:
            raise WiringError(f"services do not fit together: {_readable(error)}") from error
        super().__init__(inner, {choice.role: choice.provides for choice in self.choices})

    @contextmanager
    def scope(self) -> Iterator[Scope]:
        """Scoped and transient services are made in here, and closed at its end."""
        with self._inner.enter_scope() as scope:
            yield Scope(scope, self._roles)

    @contextmanager
    def override(self, what: type, replacement: Any) -> Iterator[None]:
        """Give out `replacement` instead, for a test. Services made before keep what they got."""
        with self._inner.override.injectable(what, new=replacement):
            yield

    def close(self) -> None:
        """Close what has a `close`, in reverse order of making."""
        self._inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def choose(registry: Registry, services: Mapping[str, Any]) -> list[_Choice]:
    """One implementation a role: the recipe's choice, else the service of the role's name, else the only one."""
    roles: dict[str, dict[str, type]] = {}
    for name in registry.names("service"):
        cls = registry.get("service", name)
        roles.setdefault(service_info(name, cls).role, {})[name] = cls
    unknown = [role for role in services if role not in roles]
    if unknown:
        known = ", ".join(sorted(roles))
        raise WiringError(
            [f"services.{role}: no such role{did_you_mean(role, roles)} (known: {known})" for role in unknown]
        )
    return [_choice(role, candidates, services.get(role)) for role, candidates in roles.items()]


def _choice(role: str, candidates: Mapping[str, type], wanted: Any) -> _Choice:
    options = dict(wanted) if isinstance(wanted, Mapping) else {"type": wanted} if wanted else {}
    name = options.pop("type", role if role in candidates or len(candidates) > 1 else next(iter(candidates)))
    if name not in candidates:
        known = ", ".join(sorted(candidates))
        raise WiringError(f"services.{role}: no service '{name}'{did_you_mean(name, candidates)} (known: {known})")
    cls = candidates[name]
    lifetime = options.pop("lifetime", service_info(name, cls).lifetime)
    if lifetime not in LIFETIMES:
        raise WiringError(f"services.{role}.lifetime: '{lifetime}' is not one of {', '.join(LIFETIMES)}")
    provides = service_info(role, candidates[role]).provides if role in candidates else service_info(name, cls).provides
    complaint = refusal(cls, provides)
    if complaint:
        raise WiringError(f"services.{role}: {complaint}")
    return _Choice(role, name, cls, provides, lifetime, _configured(role, cls, options))


def _configured(role: str, cls: type, options: Mapping[str, Any]) -> Any:
    model = getattr(cls, "Config", None)
    if model is None:
        if options:
            raise WiringError(f"services.{role}: {cls.__qualname__} takes no configuration, found {', '.join(options)}")
        return None
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        from components.core.config import validation_problems

        raise WiringError(
            [f"services.{role}.{'.'.join(map(str, at))}: {text}" for at, text in validation_problems(error, model)]
        ) from error


def _injectable(choice: _Choice) -> Any:
    """The class as a factory that wireup can call: configuration filled in, entered and left if it can be."""
    cls, config = choice.cls, choice.config
    try:
        hints = get_type_hints(_constructor(cls), localns=dict(vars(cls)))  # with its own Config
    except NameError as error:
        raise WiringError(f"service '{choice.name}' ({cls.__qualname__}): {error} in the hints of __init__") from error
    parameters = [
        parameter.replace(annotation=hints.get(name, parameter.annotation), kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(cls).parameters.items()
        if not (name == "config" and config is not None)
    ]
    fixed = {"config": config} if config is not None else {}

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


def _constructor(cls: Any) -> Any:
    return cls.__init__


def _readable(error: WireupError) -> str:
    """wireup's message without addresses and without the factories that stand between it and the classes."""
    text = re.sub(r"<function (\S+)\.(make|enter) at 0x\w+>", r"\1", str(error))
    text = re.sub(r" \(created via [^)]*\)", "", text)
    return " ".join(re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", text).split())
