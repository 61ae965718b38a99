"""Is the variant better than another subject on the same rows? An exact paired test, not two averages.

Every row was answered by both, so only the rows on which they differ say anything: McNemar's exact test (McNemar
1947) is a binomial test on those. The gain must be significant and at least `min_gain`.

    gate: [{type: paired, metric: exact_match, against: base, min_gain: 0.2}]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import Field

from components.core.component import StrictConfig
from components.core.kinds import register
from components.interfaces import Check, Gate, Scoreboard


@register("gate", "paired")
class PairedGate(Gate):
    """Significantly better than another subject on the same rows (McNemar's exact test)."""

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
        from scipy.stats import binomtest

        metric, against = self.config.metric, self.config.against
        mine, theirs = board.rows(variant, metric), board.rows(against, metric)
        common = sorted(mine.keys() & theirs.keys())
        if not common:
            summary = f"no row of {metric} was answered by both {variant} and {against}"
            return [Check(gate="paired", passed=False, summary=summary)]
        won = sum(mine[row] > theirs[row] for row in common)
        lost = sum(mine[row] < theirs[row] for row in common)
        gain = (sum(mine[row] for row in common) - sum(theirs[row] for row in common)) / len(common)
        p = float(binomtest(won, won + lost, alternative="greater").pvalue) if won + lost else 1.0
        return [
            Check(
                gate="paired",
                passed=p < self.config.alpha and gain >= self.config.min_gain,
                summary=(
                    f"{metric} {gain:+.1%} against {against} on {len(common)} rows "
                    f"(required {self.config.min_gain:+.1%}), McNemar p={p:.2g} (below {self.config.alpha:g})"
                ),
                figures={"gain": gain, "p": p, "rows": len(common), "won": won, "lost": lost},
            )
        ]
