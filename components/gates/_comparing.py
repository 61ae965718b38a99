"""What gates that compare a variant with another subject on the same rows have in common.

Every row was answered by both, so each row gives one gain, and only rows on which they differ say anything. Rows that
only one of the two answered, and figures that are no numbers, are never passed over: the check fails and names them.

Several metrics: with `require: all` each is tested at the full `alpha`, and none of the tests needs a correction,
because passing wrongly takes a wrong verdict on the very metric that is not good enough (an intersection-union test,
Berger 1982). With `require: any` one lucky metric is enough, so Holm's correction (1979) goes over them.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from components.core import paired_tests
from components.core.component import StrictConfig
from components.core.errors import ConfigError
from components.core.recipe import CHAMPION
from components.gates._metrics import better, measured, shown
from components.interfaces import Check, Gate, Metric, Scoreboard

if TYPE_CHECKING:
    from components.core.paired_tests import Gains


def _names(value: Any) -> Any:
    """Refuse what is neither a name nor a list of names; of a union pydantic would tell what is wrong twice."""
    names = value if isinstance(value, list | tuple) else [value]
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"write the name of a metric, or a list of them (got {value!r})")
    if len(set(names)) < len(names):
        raise ConfigError(f"name each metric once (got {', '.join(names)})")
    return value


def numbers(what: str, fits: Callable[[float], bool]) -> BeforeValidator:
    """Refuse what is neither such a number nor a mapping from metrics to such numbers."""

    def check(value: Any) -> Any:
        for number in value.values() if isinstance(value, dict) else [value]:
            if isinstance(number, bool) or not isinstance(number, int | float) or not fits(number):
                raise ConfigError(f"write {what}, or one for each metric: {{exact_match: 0.05}} (got {number!r})")
        return value

    return BeforeValidator(check)


class ComparingConfig(StrictConfig):
    """Keys of every gate that compares."""

    metric: Annotated[str | list[str], BeforeValidator(_names)] = Field(
        "exact_match", description="one that has a figure for each row, or a list of them"
    )
    against: str
    alpha: float = Field(0.05, gt=0, lt=0.5, description="how often what is not good enough may pass, at most")
    power: float = Field(0.8, ge=0.5, lt=1, description="chance at which the minimum detectable effect is found")
    require: Literal["all", "any"] = Field("all", description="of several metrics; any: corrected by Holm's method")
    correct: Literal["holm", "none"] = Field("holm", description="for the number of variants, of which one is chosen")

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.metric,) if isinstance(self.metric, str) else tuple(self.metric)

    def amount(self, key: str, metric: str) -> float:
        """What a key that holds a number, or one for each metric, says of a metric."""
        value = getattr(self, key)
        return float(value[metric] if isinstance(value, Mapping) else value)

    @model_validator(mode="after")
    def _one_each(self) -> ComparingConfig:
        for key, value in self:
            if isinstance(value, Mapping) and set(value) != set(self.metrics):
                raise ConfigError(
                    f"it names {', '.join(value) or 'nothing'}, the gate's metrics are {', '.join(self.metrics)}; "
                    "write one number for each of them, or one for all",
                    at=key,
                )
        return self


@dataclass(frozen=True)
class Pairs:
    """The gains of a variant over another subject, row by row."""

    metric: str
    gains: Gains
    about: Metric | None
    binary: bool
    """Each row is right or wrong."""
    bounded: bool
    """Each figure lies between 0 and 1, not by chance: the rows are right or wrong, or the metric is a share."""

    def show(self, value: float, sign: str = "+") -> str:
        return shown(self.about, value, sign)


@dataclass(frozen=True)
class Finding:
    """What a gate's test says: its name and p, whether the gain is as large as it has to be, and what was asked."""

    test: str
    p: float
    enough: bool
    asked: str
    effect: float
    """What the rows must be able to show: a gain, or the distance between an equal variant and one that is refused."""


class Unfit(Exception):
    """Rows that cannot be compared; the message is the check's summary."""


class ComparingGate(Gate):
    """Compares a variant with another subject on the same rows."""

    libraries = ("scipy",)
    name: ClassVar[str]
    needing: ClassVar[str]
    """What more rows are needed for, where there are too few; `{}` is the effect."""
    config: Any

    @classmethod
    def needs(cls, config: Any) -> Iterable[str]:
        return tuple(config.metrics)

    @classmethod
    def compares_with(cls, config: Any) -> Iterable[str]:
        return (config.against,)

    @abstractmethod
    def test(self, pairs: Pairs) -> Finding:
        """Test the gate's claim on one metric. Raises Unfit for rows that the chosen test cannot take."""

    def judge(self, variant: str, board: Scoreboard) -> list[Check]:
        metrics, against = self.config.metrics, self.config.against
        if against == CHAMPION and CHAMPION not in board.subjects() and all(board.rows(variant, m) for m in metrics):
            summary = f"there is no champion yet with whose {', '.join(metrics)} that of {variant} could be compared"
            return [Check(gate=self.name, passed=True, summary=summary)]
        checks = [self._check(metric, variant, board) for metric in metrics]
        if self.config.require == "any" and len(checks) > 1:
            checks = [self._any(checks)]
        return checks if self.config.correct == "holm" else [check.model_copy(update={"p": None}) for check in checks]

    def _check(self, metric: str, variant: str, board: Scoreboard) -> Check:
        try:
            pairs = _pairs(metric, variant, self.config.against, board)
            return self._verdict(pairs, self.test(pairs))
        except Unfit as reason:
            return Check(gate=self.name, passed=False, summary=str(reason), figures={"metric": metric})

    def _verdict(self, pairs: Pairs, found: Finding) -> Check:
        config, gains, rows = self.config, pairs.gains, len(pairs.gains)
        gain, passed = float(gains.mean()), found.p < config.alpha and found.enough
        low, high = paired_tests.interval(gains, config.alpha, pairs.bounded)
        variance, design = paired_tests.spread(gains, pairs.bounded), (config.alpha, config.power, pairs.bounded)
        detectable = paired_tests.detectable(variance, rows, *design)
        needed = paired_tests.rows_for(found.effect, variance, *design) if found.effect > 0 else None
        summary = (
            f"{pairs.metric} {'less by ' * (better(pairs.about) < 0)}{pairs.show(gain)} against {config.against} on "
            f"{rows} rows ({found.asked}), {found.test} p={found.p:.2g} (below {config.alpha:g}); "
            f"{100 - 200 * config.alpha:.4g}% interval {pairs.show(low)} to {pairs.show(high)}, "
            f"detects {pairs.show(detectable, '')} (power {config.power:g})"
        )
        if not passed:
            summary += self._too_few(rows, needed, pairs.show(found.effect, ""))
        figures = {"metric": pairs.metric, "against": config.against, "test": found.test, "p": found.p}
        figures |= {"alpha": config.alpha, "gain": gain, "low": low, "high": high, "detectable": detectable}
        figures |= {"rows": rows, "won": int((gains > 0).sum()), "lost": int((gains < 0).sum())}
        figures |= {"power": config.power, "rows_needed": needed}
        return Check(gate=self.name, passed=passed, summary=summary, figures=figures, p=found.p, alpha=config.alpha)

    def _too_few(self, rows: int, needed: int | None, effect: str) -> str:
        """What to say of a failure that is the fault of the rows, not of the variant."""
        least = paired_tests.least_rows(self.config.alpha)
        if rows < least:
            return f"; with {rows} rows nothing can pass, {least} are the least at alpha {self.config.alpha:g}"
        if needed is not None and needed > rows:
            return f"; too few rows: about {needed:,} are needed {self.needing.format(effect)}"
        return ""

    def _any(self, checks: list[Check]) -> Check:
        """One check for several metrics of which one is enough."""
        alpha = self.config.alpha
        corrected = paired_tests.holm([1.0 if check.p is None else check.p for check in checks])
        good = [check.passed and p < alpha for check, p in zip(checks, corrected, strict=True)]
        best = min((p for p, fine in zip(corrected, good, strict=True) if fine), default=min(corrected))
        parts = [f"{'pass' if fine else 'FAIL'} {check.summary}" for check, fine in zip(checks, good, strict=True)]
        return Check(
            gate=self.name,
            passed=any(good),
            summary=f"one of {len(checks)} metrics, Holm p={best:.2g} (below {alpha:g}): {' | '.join(parts)}",
            figures={"p": best, "alpha": alpha, "metrics": [check.figures for check in checks], "corrected": corrected},
            p=best,
            alpha=alpha,
        )


def _pairs(metric: str, variant: str, against: str, board: Scoreboard) -> Pairs:
    """The same rows of both. Raises Unfit, naming what is wrong with them."""
    import numpy as np

    mine, theirs = board.rows(variant, metric), board.rows(against, metric)
    common, alone = sorted(mine.keys() & theirs.keys()), sorted(mine.keys() ^ theirs.keys())
    if not common:
        raise Unfit(f"no row of {metric} was answered by both {variant} and {against}")
    if alone:
        raise Unfit(
            f"only {len(common)} of {len(common) + len(alone)} rows of {metric} were answered by both {variant} and "
            f"{against} (not '{alone[0]}'); measure both on the same rows"
        )
    for subject, rows in ((variant, mine), (against, theirs)):
        if wrong := [row for row in common if not math.isfinite(rows[row])]:
            raise Unfit(f"{metric} of {subject} is no number on {len(wrong)} of {len(common)} rows ('{wrong[0]}')")
    about = measured(metric, board)
    first, second = np.array([mine[row] for row in common]), np.array([theirs[row] for row in common])
    figures = np.concatenate([first, second])
    binary = bool(np.isin(figures, (0, 1)).all())
    share = about is not None and about.unit == "share" and figures.min() >= 0 and figures.max() <= 1
    return Pairs(metric, better(about) * (first - second), about, binary, binary or bool(share))
