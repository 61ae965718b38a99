"""optuna's samplers as components: `optimize: {search: {sampler: {type: tpe, startup: 6}, space: [...]}}`.

A sampler of somebody else is one class like these.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, ClassVar

from pydantic import PositiveInt

from components.core.component import StrictConfig
from components.core.errors import ConfigError, require
from components.core.kinds import register
from components.core.space import Point, points
from components.interfaces import Sampler


def _samplers() -> Any:
    return require("optuna", "search").samplers


@register("sampler", "grid")
class Grid(Sampler):
    """Every chain of the space, in the order in which it is written."""

    most: ClassVar[int] = 10_000

    def points(self, space: Any) -> list[Point]:
        found = list(islice(points(space), self.most + 1))
        if len(found) > self.most:
            raise ConfigError(f"a grid of more than {self.most:,} chains; make the space smaller, or take sampler: tpe")
        return found

    def rule(self, seed: int) -> Any:
        return _samplers().RandomSampler(seed=seed)  # never asked: every point is known beforehand


@register("sampler", "random")
class Random(Sampler):
    """Chains drawn at random, each choice on its own."""

    def rule(self, seed: int) -> Any:
        return _samplers().RandomSampler(seed=seed)


@register("sampler", "tpe")
class Tpe(Sampler):
    """Chains near those that did well (tree-structured Parzen estimator, for several objectives)."""

    class Config(StrictConfig):
        startup: PositiveInt = 6
        """Trials at random before it begins to learn."""

    config: Config

    def rule(self, seed: int) -> Any:
        return _samplers().TPESampler(seed=seed, n_startup_trials=self.config.startup)
