"""Preference rows whose two answers say the same.

There is nothing to prefer, and the gradient of such a row is noise; usually a sign that columns were mixed up.

Try it: `data: {contract: {rules: {same_answer: fail}}}` in a recipe with preference rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from components.core.kinds import register
from components.core.rows import normalised
from components.interfaces import Batch, Rule


@register("rule", "same_answer")
class SameAnswer(Rule):
    """The chosen answer says something else than the rejected one."""

    shapes = ("preference",)

    def check(self, batch: Batch) -> Mapping[int, str]:
        return {
            position: "the chosen and the rejected answer are the same, letter case and spacing aside"
            for position, row in enumerate(batch.rows)
            if row["chosen"] == row["rejected"] or _said(row["chosen"]) == _said(row["rejected"])
        }


def _said(messages: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    return [(m["role"], normalised(m.get("content") or ""), m.get("tool_calls") or None) for m in messages]
