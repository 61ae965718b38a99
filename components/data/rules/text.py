"""Rules on the text of messages: it says something, is not endless, and holds nothing invisible that does harm.

Empty answers teach a model to be silent, endless ones are cut somewhere, and control characters are left-overs of
broken exports. Each rule is one polars expression over all messages at once, under a microsecond a row.

Try it: `data: {contract: {rules: {too_long: {max_chars: 8000}, control_characters: fail}}}` in a recipe.
"""

from __future__ import annotations

from typing import Any

from pydantic import PositiveInt

from components.core.kinds import register
from components.interfaces import ColumnRule, RuleConfig

VISIBLE = r"[^\s\p{Default_Ignorable_Code_Point}\p{Cf}\x{2800}]"
"""What leaves a mark: no white space, no zero-width character, no fillers; 2800 is Braille's blank."""
CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x{9f}\x{202d}\x{202e}]"
"""C0 without tab and line ends, DEL, C1; and the two marks that make text run backwards, which hide what it says.

The gentler marks of Arabic and Hebrew text stay allowed.
"""


@register("rule", "empty_text")
class EmptyText(ColumnRule):
    """No message is empty or only white space, invisible characters included."""

    reason = "a message is empty or only white space"

    def broken(self) -> Any:
        import polars as pl

        return ~pl.col("content").str.contains(VISIBLE)


@register("rule", "too_long")
class TooLong(ColumnRule):
    """No message is longer than `max_chars` characters."""

    class Config(RuleConfig):
        max_chars: PositiveInt = 20_000

    config: Config

    def broken(self) -> Any:
        import polars as pl

        return pl.col("content").str.len_chars() > self.config.max_chars

    @property
    def reason(self) -> str:
        return f"a message exceeds {self.config.max_chars:,} characters"


@register("rule", "control_characters")
class ControlCharacters(ColumnRule):
    """No message holds control characters, or marks that turn the direction of writing."""

    reason = "control characters, or marks that make text run backwards: the text was damaged on its way"

    def broken(self) -> Any:
        import polars as pl

        return pl.col("content").str.contains(CONTROL)
