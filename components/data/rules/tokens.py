"""Rules on what the tokenizer makes of a row: something to learn, an end, no unknown tokens, and room in the model.

All four come from training runs that went wrong quietly: rows without a trained token give no gradient, rows without
an end of turn teach a model to go on for ever, and rows that are too long lose their end, which is the answer.

Try it: `data: {contract: {rules: {too_many_tokens: {max_tokens: 2048}, unknown_tokens: {max_fraction: 0}}}}`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from components.core.kinds import register
from components.interfaces import ColumnRule, ModelFacts, RuleConfig


@register("rule", "no_trained_tokens")
class NoTrainedTokens(ColumnRule):
    """Every row has at least one token that training learns from."""

    column = "silent"
    on_tokens = True
    shapes = ("conversation", "text", "preference", "unpaired")
    reason = "no token of this row is trained on, so nothing can be learned from it"

    def broken(self) -> Any:
        import polars as pl

        return pl.col("silent")


@register("rule", "end_of_turn")
class EndOfTurn(ColumnRule):
    """The token that ends the assistant's turn is trained on."""

    column = "ends"
    on_tokens = True
    shapes = ("conversation",)
    reason = "the token that ends the assistant's turn is not trained on; the model would not learn to stop"

    def broken(self) -> Any:
        import polars as pl

        return ~pl.col("ends")


@register("rule", "too_many_tokens")
class TooManyTokens(ColumnRule):
    """No row has more tokens than `max_tokens`, by default what fits into the model."""

    class Config(RuleConfig):
        max_tokens: PositiveInt | None = Field(None, description="the model's context by default")

    config: Config
    column = "longest"
    on_tokens = True
    _context = sys.maxsize

    def prepare(self, model: ModelFacts | None, scratch: Path) -> None:
        self._context = model.context if model else sys.maxsize

    @property
    def limit(self) -> int:
        """Tokens that a row may have."""
        return self.config.max_tokens or self._context

    def broken(self) -> Any:
        import polars as pl

        return pl.col("longest") > self.limit

    @property
    def reason(self) -> str:
        return f"more than {self.limit:,} tokens; the end would be cut off, and with it the answer"


@register("rule", "unknown_tokens")
class UnknownTokens(ColumnRule):
    """Hardly any text is unknown to the tokenizer."""

    class Config(RuleConfig):
        max_fraction: float = Field(0.01, ge=0, le=1, description="of the row's tokens")

    config: Config
    column = "unknown"
    on_tokens = True

    def broken(self) -> Any:
        import polars as pl

        return pl.col("unknown") > pl.col("tokens") * self.config.max_fraction

    @property
    def reason(self) -> str:
        share = self.config.max_fraction
        return f"more than {share:.1%} of the tokens are unknown to the tokenizer; the model cannot see that text"
