"""Whether the passes of a chain fit together, told before any of them runs.

A pass with a condition (`when`) may run or not, so what follows must fit in both cases: it gives what it takes, and its
effects count as well as their absence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from components.core.condition import ALWAYS_KNOWN

if TYPE_CHECKING:
    from components.core.recipe import Spec

Effects = frozenset[str]


def chain_problems(
    chain: Sequence[Spec], kind: str, effects: Effects = frozenset(), figures: Collection[str] = ()
) -> Iterator[tuple[int, str]]:
    """(position, sentence) for every pass that cannot follow what stands before it.

    `kind`, `effects`, `figures`: of the artifact that the chain begins with; figures are those that passes recorded.
    """
    ways, steps = {effects}, [(position, spec) for position, spec in enumerate(chain) if spec.enabled]
    for number, (position, spec) in enumerate(steps):
        # what a pass will record is not known before it runs
        known = None if number else dict.fromkeys((*ALWAYS_KNOWN, *figures))
        reason = _unfit(spec, kind, ways) or _unconditional(spec, kind, known)
        if reason:
            yield position, f"pass '{spec.type}' {reason}"
        after = {way | spec.component.effects(spec.config) for way in ways}
        kind, ways = spec.component.produces, ways | after if spec.when else after


def _unfit(spec: Spec, kind: str, ways: set[Effects]) -> str | None:
    """Why the pass cannot take an artifact of this kind, with effects in one of several ways."""
    found = [spec.component.refusal(spec.config, kind, way) for way in sorted(ways, key=sorted)]
    reason: str | None = next(filter(None, found), None)
    if reason and not all(found):
        return f"{reason} (it may come to that: a pass before it runs under a condition; drop its 'when', or this pass)"
    return reason


def _unconditional(spec: Spec, kind: str, known: Collection[str] | None) -> str | None:
    """Why the pass cannot have the condition that it has; None if it has none."""
    if spec.when is None:
        return None
    if spec.component.produces != kind:
        return (
            f"has a condition ('when') and turns {kind} into {spec.component.produces}: what comes after it could not "
            "go on from either; only a pass that gives what it takes may have one"
        )
    return None if known is None else spec.when.unknown(known)


def missing_packages(what: str, extras: Mapping[str, str]) -> Iterator[str]:
    """A sentence for every optional package that is not installed; `extras`: of ours, by the module they bring."""
    for module, extra in extras.items():
        if find_spec(module) is None:
            yield (f"{what} needs the package '{module}', which is not installed; run: pip install 'postmill[{extra}]'")
