"""Is the variant not worse than another subject, by more than a margin, on the same rows?

To find no difference proves nothing: with few rows nobody finds one. So the question is turned round: a loss of
`margin` or more is what is assumed, and the rows must refute it. The margin is the loss that you would accept; it is in
the unit of the metric, and a variant passes where the lower end of the interval is above it. Rows that are right or
wrong, and shares, are judged by Tango's score test, other figures by a studentized bootstrap of their mean; how often
each lets through what it should not is measured by `python -m benchmarks._lifecycle_gates`.

    gate: [{type: non_inferior, metric: exact_match, against: champion, margin: 0.05}]
    gate: [{type: non_inferior, metric: [exact_match, nll], against: trained, margin: {exact_match: 0.05, nll: 0.1}}]

Before there is a champion the gate passes, and says so.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.core import paired_tests
from components.core.errors import ConfigError
from components.core.kinds import register
from components.core.recipe import CHAMPION
from components.gates._comparing import ComparingConfig, ComparingGate, Finding, Pairs, Unfit, numbers
from components.gates._metrics import described

Margin = Annotated[float, Field(gt=0)]
Margins = Annotated[Margin | dict[str, Margin], numbers("a margin above 0", lambda margin: 0 < margin < math.inf)]


@register("gate", "non_inferior")
class NonInferiorGate(ComparingGate):
    """Not worse than another subject by more than a margin, shown on the same rows."""

    name = "non_inferior"
    needing = "for an equal variant to pass a margin of {}"

    class Config(ComparingConfig):
        against: str = Field(CHAMPION, description="champion, trained, base or a variant")
        margin: Margins = Field(0.05, description="the loss that is accepted; or one for each metric")
        test: Literal["auto", "score", "bootstrap"] = Field(
            "auto", description="auto: score for shares and for rows that are right or wrong, else bootstrap"
        )

        @model_validator(mode="after")
        def _not_whole(self) -> NonInferiorGate.Config:
            for metric in self.metrics:
                margin = self.amount("margin", metric)
                if margin >= 1 and (about := described(metric)) and about.unit == "share":
                    raise ConfigError(_whole(metric, margin), at="margin")
            return self

    config: Config

    def test(self, pairs: Pairs) -> Finding:
        chosen, margin = self.config.test, self.config.amount("margin", pairs.metric)
        if pairs.bounded and margin >= 1:
            raise Unfit(_whole(pairs.metric, margin))
        if chosen == "auto":
            chosen = "score" if pairs.bounded else "bootstrap"
        if chosen == "score" and not pairs.bounded:
            raise Unfit(
                f"the score test takes figures between 0 and 1, {pairs.metric} has others; take test: bootstrap"
            )
        return Finding(
            test=chosen,
            p=getattr(paired_tests, chosen)(pairs.gains, margin),
            enough=True,
            asked=f"at worst {pairs.show(-margin)}",
            effect=margin if pairs.gains.mean() > -margin else 0.0,
        )


def _whole(metric: str, margin: float) -> str:
    return f"{metric} lies between 0 and 1, so a loss of {margin:g} refuses nothing; 5 points are 0.05"
