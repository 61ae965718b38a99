"""The writing systems that are wanted, for example Latin and Cyrillic.

Quicker and surer than guessing the language: a Chinese answer among English ones is seen at once. Not asked by
default, because only you know what your rows should look like.

Try it: `data: {contract: {rules: {script: {action: quarantine, scripts: [Latin, Greek]}}}}` in a recipe.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from components.core.errors import did_you_mean
from components.core.kinds import register
from components.interfaces import Action, ColumnRule, RuleConfig

_NAMES = (
    "Arabic Armenian Bengali Bopomofo Cherokee Cyrillic Devanagari Ethiopic Georgian Greek Gujarati Gurmukhi Han "
    "Hangul Hebrew Hiragana Kannada Katakana Khmer Lao Latin Malayalam Mongolian Myanmar Oriya Sinhala Syriac Tamil "
    "Telugu Thaana Thai Tibetan Tifinagh"
)
SCRIPTS = tuple(_NAMES.split())
"""Names as Unicode and regular expressions know them."""


@register("rule", "script")
class Script(ColumnRule):
    """Letters are of the wanted writing systems (Latin, Cyrillic, Han); not asked by default."""

    class Config(RuleConfig):
        action: Action = "ignore"
        scripts: list[str] = Field(["Latin"], min_length=1, description="Unicode's names; Japanese takes three")
        min_fraction: float = Field(0.8, gt=0, le=1, description="of a message's letters")

        @field_validator("scripts")
        @classmethod
        def _known(cls, scripts: list[str]) -> list[str]:
            for name in scripts:
                if name not in SCRIPTS:
                    raise ValueError(
                        f"unknown script '{name}'{did_you_mean(name, SCRIPTS)}; known: {', '.join(SCRIPTS)}"
                    )
            return scripts

    config: Config

    def broken(self) -> Any:
        import polars as pl

        wanted = "".join(rf"\p{{{name}}}" for name in self.config.scripts)
        letters = pl.col("content").str.count_matches(r"\p{L}")
        others = pl.col("content").str.count_matches(rf"[\p{{L}}--[{wanted}]]")
        return others > letters * (1 - self.config.min_fraction)

    @property
    def reason(self) -> str:
        share, names = self.config.min_fraction, " or ".join(self.config.scripts)
        return f"less than {share:.0%} of a message's letters are {names}"
