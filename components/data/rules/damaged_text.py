"""Text that was read in the wrong encoding: replacement marks (U+FFFD), and "cafÃ©" where "café" was meant.

A model that is trained on such text writes such text. Each pattern stands for something that no language writes, so
"IRMÃ", "ÂGE" and a quoted «NÃO» pass; a text that is only about such damage has to be let through by hand.

Try it: `data: {contract: {rules: {damaged_text: fail}}}` in a recipe.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from components.core.kinds import register
from components.interfaces import ColumnRule


def _tails(encoding: str) -> str:
    """What the later bytes of a UTF-8 character (80 to BF) become in a one-byte encoding, without spaces."""
    shown = "".join(bytes([byte]).decode(encoding, "ignore") for byte in range(0x80, 0xC0))
    return "\x80-\x9f\xa1-\xbf" + shown.replace("\xa0", "")


@lru_cache(maxsize=1)
def damage() -> str:
    """The pattern, for polars."""
    western, cyrillic = f"[{_tails('cp1252')}]", f"[{_tails('cp1251')}]"
    any_western = f"[\xa0{_tails('cp1252')}]"
    # neither quotes, dashes nor spaces: they may follow a word that ends in a capital
    symbols = "[\xa1-\xaa\xac-\xba\xbc-\xbf]"
    return "|".join(
        (
            "\ufffd",
            f"[ÂÃ]{symbols}",  # é, ñ, ü, £, °
            f"[a-zß-öø-ÿ][ÂÃÄÅ]{any_western}",  # the same within a word: à, ł, ą, š
            f"Ã{western}[a-z]",  # capitals: Österreich, École
            "Ã[Ÿœ‰‡ŠŽžƒ]",  # ß, Ü, É, Ç; and damaged twice
            "â€|â\x80",  # typographic quotes and dashes
            f"â[‚„ˆ†œ]{western}",  # €, ™, arrows, ticks
            f"(?:[ÐÑ]{any_western}){{3}}",  # Cyrillic
            f"(?:[РС][\xa0{cyrillic[1:]}){{3}}",  # Cyrillic, read as Windows-1251
            f"(?:[ÎÏ]{any_western}){{3}}",  # Greek
            f"(?:[×ØÙÚÛ]{any_western}){{3}}",  # Hebrew, Arabic
            f"(?:[à-ï]{any_western}{any_western}){{2}}",  # Asian scripts
            "ðŸ|ï»¿|ï¿½",  # emoji, the mark at the beginning of a file, U+FFFD itself
        )
    )


@register("rule", "damaged_text")
class DamagedText(ColumnRule):
    """No message was read in the wrong encoding."""

    reason = "replacement marks or letters such as 'Ã©' and 'â€™': the text was once read in the wrong encoding"

    def broken(self) -> Any:
        import polars as pl

        content = pl.col("content")
        # plain ASCII, the most of most data, cannot be damaged this way; null is skipped
        beyond_ascii = pl.when(content.str.len_bytes() != content.str.len_chars()).then(content)
        return beyond_ascii.str.contains(damage()).fill_null(False)
