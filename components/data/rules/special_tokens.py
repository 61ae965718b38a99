"""Special tokens that stand in the text as text.

A tokenizer turns "<|im_end|>" inside a message into the token that ends the turn: a row could forge a system message,
or teach the model to stop half way. The tokens of common chat templates are always refused; once the model is known,
its own special tokens too, letter by letter. A text about XML is not meant: "<b>" passes.

Try it: `data: {contract: {rules: {special_tokens: fail}}}` in a recipe; `ignore` for text that was rendered already.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.core.kinds import register
from components.interfaces import ColumnRule, ModelFacts

COMMON = r"<\|[A-Za-z0-9_]{2,40}\|>|<｜[^<>｜\s]{2,40}｜>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"


@register("rule", "special_tokens")
class SpecialTokens(ColumnRule):
    """No message holds a special token of the model or of a common chat template."""

    reason = "a special token of a chat template or of the model stands in the text; it would end or open a turn"
    _own: tuple[str, ...] = ()

    def prepare(self, model: ModelFacts | None, scratch: Path) -> None:
        self._own = _special(model.tokenizer) if model else ()

    def broken(self) -> Any:
        import polars as pl

        common = pl.col("content").str.contains(COMMON)
        return common | pl.col("content").str.contains_any(list(self._own)) if self._own else common


def _special(tokenizer: Any) -> tuple[str, ...]:
    """Its special tokens that nobody writes by chance: some models pad with "!" or a word."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    named = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
    return tuple(sorted(text for text in named if len(text.strip()) > 2 and not text.strip().isalnum()))
