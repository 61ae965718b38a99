"""Is the variant better than another subject on the same rows? A paired test, not two averages.

Where a row is right or wrong, McNemar's exact test is a binomial test on the rows that differ; where it has a figure (a
loss, a share of fields), Wilcoxon's signed-rank test also counts by how much. A bootstrap of the mean gain and a
permutation of its signs can be asked for. The gain must be significant and at least `min_gain`; of a metric of which
less is better (nll), it is by how much the variant has less.

    gate: [{type: paired, metric: exact_match, against: base, min_gain: 0.2}]
    gate: [{type: paired, metric: nll, against: base}]
    gate: [{type: paired, metric: [exact_match, json_valid], min_gain: {exact_match: 0.2, json_valid: 0.1}}]
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.core import paired_tests
from components.core.kinds import register
from components.gates._comparing import ComparingConfig, ComparingGate, Finding, Pairs, Unfit, numbers

Gain = Annotated[float, Field(ge=0, le=1)]
Gains = Annotated[Gain | dict[str, Gain], numbers("a gain from 0 to 1", lambda gain: 0 <= gain <= 1)]
TESTS = {"mcnemar": "McNemar", "wilcoxon": "Wilcoxon", "bootstrap": "bootstrap", "permutation": "permutation"}


@register("gate", "paired")
class PairedGate(ComparingGate):
    """Significantly better than another subject on the same rows (McNemar's exact test, or Wilcoxon's)."""

    name = "paired"
    needing = "to show a gain of {}"

    class Config(ComparingConfig):
        against: str = "base"
        min_gain: Gains = Field(0.0, description="or one for each metric")
        alpha: float = Field(0.01, gt=0, lt=0.5)
        test: Literal["auto", "mcnemar", "wilcoxon", "bootstrap", "permutation"] = Field(
            "auto", description="auto: mcnemar where each row is right or wrong, else wilcoxon"
        )

    config: Config

    def test(self, pairs: Pairs) -> Finding:
        chosen, required = self.config.test, self.config.amount("min_gain", pairs.metric)
        if chosen == "auto":
            chosen = "mcnemar" if pairs.binary else "wilcoxon"
        if chosen == "mcnemar" and not pairs.binary:
            raise Unfit(
                f"McNemar's test takes rows that are right (1) or wrong (0), and {pairs.metric} has others; take "
                "test: wilcoxon, bootstrap or permutation"
            )
        gain = float(pairs.gains.mean())
        return Finding(
            test=TESTS[chosen],
            p=getattr(paired_tests, chosen)(pairs.gains),
            enough=gain >= required,
            asked=f"required {pairs.show(required)}",
            effect=max(gain, required) if gain > 0 else 0.0,
        )
