"""Base of the rules that look for things with a telling form. One expression finds suspects, Python looks closer.

A reason names what was found and never repeats it: reports are kept, printed and sent around.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import ClassVar

from components.interfaces import Batch, Rule


class PatternRule(Rule):
    """Rows that hold one of `config.kinds`."""

    patterns: ClassVar[Mapping[str, str]]
    """Kind -> regular expression that Python and Rust both know (no look-around)."""
    names: ClassVar[Mapping[str, str]] = {}
    """Kind -> what it is called in a reason, where not by its key."""
    meaning: ClassVar[str]
    """Begin of the reason."""

    hidden: ClassVar[Mapping[str, str]] = {}
    """Kind -> all that is taken out of what is shown, where that is more than its pattern."""

    def shown(self, text: str) -> str:
        for kind in self.config.kinds:
            pattern = self.hidden.get(kind, self.patterns[kind])
            mark = f"[{self.names.get(kind, kind)} left out]"
            text = re.sub(pattern, partial(self._hide, kind, mark), text, flags=re.ASCII)
        return text

    def _hide(self, kind: str, mark: str, form: re.Match[str]) -> str:
        return mark if self.is_real(kind, form[0]) else form[0]

    def is_real(self, kind: str, text: str) -> bool:
        """Whether a suspect is what it looks like."""
        return True

    def check(self, batch: Batch) -> Mapping[int, str]:
        import polars as pl

        kinds = [kind for kind in self.patterns if kind in self.config.kinds]
        # Rust's regex is fast on all texts only where a word ends at ASCII letters
        either = "|".join(self.patterns[kind] for kind in kinds).replace(r"\b", r"(?-u:\b)")
        suspects = batch.messages.filter(pl.col("content").str.contains(either))
        found: dict[int, dict[str, None]] = {}
        for row, _, content in suspects.iter_rows():
            for kind in kinds:
                forms = re.finditer(self.patterns[kind], content, re.ASCII)
                if any(self.is_real(kind, form[0]) for form in forms):
                    found.setdefault(row, {})[self.names.get(kind, kind)] = None
        return {row: f"{self.meaning}: {', '.join(kinds)}" for row, kinds in found.items()}


def digits(text: str) -> list[int]:
    """The ASCII digits of a text."""
    return [int(sign) for sign in text if sign in "0123456789"]
