"""What a service class says of itself: its role, the type it is asked for by, and how long it lives.

Kept apart from the container, so that declaring a service costs no import.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

C = TypeVar("C", bound=type)
Lifetime = Literal["singleton", "scoped", "transient"]
LIFETIMES: tuple[Lifetime, ...] = ("singleton", "scoped", "transient")


@dataclass(frozen=True)
class ServiceInfo:
    """`provides` is the class or Protocol that constructors name to get the service."""

    role: str
    provides: type
    lifetime: Lifetime = "singleton"


def serves(role: str, provides: type | None = None, lifetime: Lifetime = "singleton") -> Callable[[C], C]:
    """Class decorator: this service fills `role`. A plugin then registers the class by its api."""

    def decorate(cls: C) -> C:
        cls.__service__ = ServiceInfo(role, provides or cls, lifetime)  # type: ignore[attr-defined]
        return cls

    return decorate


def service_info(name: str, cls: type) -> ServiceInfo:
    """What `serves` left on a class; a class without it is a singleton in a role of its own name."""
    found: ServiceInfo | None = vars(cls).get("__service__")
    return found or ServiceInfo(name, cls)
