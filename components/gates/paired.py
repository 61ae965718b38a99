"""Is the variant better than another subject on the same rows? A paired test, not two averages.

Every row was answered by both, so only the rows on which they differ say anything. Where a row is right or wrong,
McNemar's exact test (McNemar 1947) is a binomial test on those; where it has a figure (a loss, a share of fields),
Wilcoxon's signed-rank test (Wilcoxon 1945) also counts by how much. The gain must be significant and at least
`min_gain`; of a metric of which less is better (nll), it is by how much the variant has less.

    gate: [{type: paired, metric: exact_match, against: base, min_gain: 0.2}]
    gate: [{type: paired, metric: nll, against: base}]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import Field

from components.core.component import StrictConfig
from components.core.kinds import register, registry
from components.interfaces import Check, Gate, Metric, Scoreboard


@register("gate", "paired")
class PairedGate(Gate):
    """Significantly better than another subject on the same rows (McNemar's exact test, or Wilcoxon's)."""

    libraries = ("scipy",)

    class Config(StrictConfig):
        metric: str = "exact_match"
        against: str = "base"
        min_gain: float = Field(0.0, ge=0, le=1)
        alpha: float = Field(0.01, gt=0, lt=1)

    config: Config

    @classmethod
    def needs(cls, config: Any) -> Iterable[str]:
        return (config.metric,)

    def judge(self, variant: str, board: Scoreboard) -> list[Check]:
        metric, against = self.config.metric, self.config.against
        mine, theirs = board.rows(variant, metric), board.rows(against, metric)
        common = sorted(mine.keys() & theirs.keys())
        if not common:
            summary = f"no row of {metric} was answered by both {variant} and {against}"
            return [Check(gate="paired", passed=False, summary=summary)]
        known = _metric(board, metric)
        sign = -1 if known and known.better == "lower" else 1
        gains = [sign * (mine[row] - theirs[row]) for row in common]
        won, lost = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
        gain = sum(gains) / len(common)
        binary = all(value in (0, 1) for row in common for value in (mine[row], theirs[row]))
        name, p = ("McNemar", _mcnemar(won, lost)) if binary else ("Wilcoxon", _wilcoxon(gains))
        show = "{:+.1%}" if known is None or known.unit == "share" else "{:+.4g} " + known.unit
        better = f"{metric} {'less by ' if sign < 0 else ''}"
        return [
            Check(
                gate="paired",
                passed=p < self.config.alpha and gain >= self.config.min_gain,
                summary=(
                    f"{better}{show.format(gain)} against {against} on {len(common)} rows "
                    f"(required {show.format(self.config.min_gain)}), {name} p={p:.2g} (below {self.config.alpha:g})"
                ),
                figures={"gain": gain, "p": p, "rows": len(common), "won": won, "lost": lost, "test": name},
            )
        ]


def _metric(board: Scoreboard, name: str) -> Metric | None:
    """What the benchmark that measured it says of it."""
    benchmarks = {measurement.benchmark for measurement in board.measurements} & set(registry.names("benchmark"))
    found = (metric for benchmark in sorted(benchmarks) for metric in registry.get("benchmark", benchmark).metrics)
    return next((metric for metric in found if metric.name == name), None)


def _mcnemar(won: int, lost: int) -> float:
    """The chance of so many wins, or more, if both were equally good."""
    from scipy.stats import binomtest

    return float(binomtest(won, won + lost, alternative="greater").pvalue) if won + lost else 1.0


def _wilcoxon(gains: Sequence[float]) -> float:
    """The chance of such gains, or larger ones, if they were as likely to be losses. Rows without any do not count."""
    from scipy.stats import wilcoxon

    some = [gain for gain in gains if gain != 0]
    return float(wilcoxon(some, alternative="greater").pvalue) if some else 1.0
