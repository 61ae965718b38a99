"""Whether the passes of a chain fit together, told before any of them runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.core.recipe import Spec


def chain_problems(
    chain: Sequence[Spec], kind: str, effects: frozenset[str] = frozenset()
) -> Iterator[tuple[int, str]]:
    """(position, sentence) for every pass that cannot follow what stands before it.

    `kind`, `effects`: of the artifact that the chain begins with.
    """
    for position, spec in enumerate(chain):
        if not spec.enabled:
            continue
        reason = spec.component.refusal(spec.config, kind, effects)
        if reason:
            yield position, f"pass '{spec.type}' {reason}"
        kind, effects = spec.component.produces, effects | spec.component.effects(spec.config)


def missing_packages(chains: Mapping[str, Sequence[Spec]]) -> Iterator[str]:
    """A sentence for every optional package that a pass needs and that is not installed."""
    for name, chain in chains.items():
        for spec in filter(lambda each: each.enabled, chain):
            for module, extra in spec.component.extras.items():
                if find_spec(module) is None:
                    yield (
                        f"optimize.{name}: pass '{spec.type}' needs the package '{module}', which is not installed; "
                        f"run: pip install 'postmill[{extra}]'"
                    )
