"""A space of chains: passes written as in a recipe, with choices in the place of values.

    - {type: onnx, precision: {any: [int8, int4]}}          one of these
    - {type: prune_depth, fraction: {between: [0.1, 0.3]}}    a number in between; `step: 0.05`, or `log: true`
    - {any: [null, {type: cast, dtype: bfloat16}]}           a pass, or none

`resolved` walks through it and asks for every choice it comes to, so what stands inside of an option is asked for only
where that option was taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.core.errors import ConfigError

Value = int | float
Point = dict[str, Value]
"""What was chosen, by the place of the choice: the position of an option, or a number."""


@dataclass(frozen=True)
class Options:
    """One of several values, or parts of a chain."""

    options: tuple[Any, ...]

    def values(self) -> list[Value] | None:
        """The positions of all options."""
        return list(range(len(self.options)))

    def edges(self) -> list[Value]:
        """Values which, if they are fine, all are."""
        return list(range(len(self.options)))


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`, both included."""

    low: Value
    high: Value
    step: Value | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def values(self) -> list[Value] | None:
        """All of them; None where there is no end of them."""
        step = self.step or (1 if self.whole else None)
        if step is None:
            return None
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return [self.low + number * step for number in range(count)]

    def edges(self) -> list[Value]:
        return [self.low, self.high]


Choice = Options | Range
Choose = Callable[[str, Choice], Value]


def resolved(node: Any, choose: Choose, at: str = "") -> Any:
    """The node with every choice made. A list leaves out what `null` was chosen for."""
    choice = _choice(node, at)
    if isinstance(choice, Range):
        return choose(at, choice)
    if isinstance(choice, Options):
        taken = int(choose(at, choice))
        return resolved(choice.options[taken], choose, f"{at}({taken})")
    if isinstance(node, Mapping):
        return {key: resolved(value, choose, _below(at, key)) for key, value in node.items()}
    if isinstance(node, list):
        found = [resolved(item, choose, _below(at, number)) for number, item in enumerate(node)]
        left_out = [item is None and _choice(given, at) is not None for item, given in zip(found, node, strict=True)]
        return [item for item, gone in zip(found, left_out, strict=True) if not gone]
    return node


def _below(at: str, key: Any) -> str:
    return f"{at}.{key}" if at else str(key)


def _choice(node: Any, at: str) -> Choice | None:
    if not isinstance(node, Mapping) or not node.keys() & {"any", "between"}:
        return None
    if node.keys() == {"any"} and isinstance(node["any"], list) and node["any"]:
        return Options(tuple(node["any"]))
    if "between" in node and not node.keys() - {"between", "step", "log"}:
        return _range(node, at)
    raise ConfigError(f"{at}: a choice is written {{any: [a, b]}} or {{between: [low, high], step: s}}, found {node}")


def _range(node: Mapping[str, Any], at: str) -> Range:
    ends, step, log = node["between"], node.get("step"), node.get("log", False)
    numbers = [*ends, *([] if step is None else [step])] if isinstance(ends, list) else []
    sound = len(numbers) >= 2 and all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    if not (sound and len(ends) == 2 and ends[0] < ends[1] and (step is None or step > 0) and isinstance(log, bool)):
        raise ConfigError(f"{at}: write {{between: [low, high]}} with two numbers that rise, found {dict(node)}")
    if log and (ends[0] <= 0 or step is not None):
        raise ConfigError(f"{at}: log: true needs numbers above 0, and goes without step; found {dict(node)}")
    return Range(ends[0], ends[1], step, log)


def points(space: Any) -> Iterator[Point]:
    """Every point, in the order in which options are written; a ConfigError where there is no end of them."""

    def all_of(at: str, choice: Choice) -> list[Value]:
        values = choice.values()
        if values is None:
            raise ConfigError(f"{at}: there are endless numbers between; say in which steps: {{between: ..., step: s}}")
        return values

    waiting: list[list[Value]] = [[]]
    while waiting:
        point, branches = _walk(space, waiting.pop(), all_of)
        waiting += reversed(branches)
        yield point


def samples(space: Any) -> Iterator[Point]:
    """Points that together take every option once and both ends of every range: what is wrong shows in one of them."""
    seen: set[tuple[str, Value]] = set()

    def unseen(at: str, choice: Choice) -> list[Value]:
        found = [value for value in choice.edges() if (at, value) not in seen] or choice.edges()[:1]
        seen.update((at, value) for value in found)
        return found

    waiting: list[list[Value]] = [[]]
    while waiting:
        point, branches = _walk(space, waiting.pop(), unseen)
        waiting += branches
        yield point


def _walk(
    space: Any, given: Sequence[Value], values: Callable[[str, Choice], list[Value]]
) -> tuple[Point, list[list[Value]]]:
    """The point that begins with these values and goes on with the first ones; and how the others branch off."""
    point: Point = {}
    branches: list[list[Value]] = []

    def choose(at: str, choice: Choice) -> Value:
        if len(point) < len(given):
            point[at] = given[len(point)]
        else:
            first, *others = values(at, choice)
            here = list(point.values())
            branches[:0] = [[*here, other] for other in others]  # deeper choices turn first
            point[at] = first
        return point[at]

    resolved(space, choose)
    return point, branches


def chain_at(space: Any, point: Mapping[str, Value]) -> Any:
    """The chain of a point."""
    return resolved(space, lambda at, _: point[at])
