"""Plain text, for training on documents: `{"text": "..."}`, or the text itself.

Try it: format: {type: text, columns: {text: content}}
"""

from __future__ import annotations

from typing import Any

from components.core.kinds import register
from components.data.formats._columns import Columns, Mapped, holds
from components.data.formats._forms import looks_like
from components.interfaces import Row


@register("format", "text")
class TextFormat(Mapped):
    """Plain text, without roles."""

    class Config(Columns):
        names = ("text",)

    shape = "text"

    @classmethod
    def fits(cls, value: Any) -> bool:
        return looks_like(value, "text")

    def convert(self, value: Any) -> Row:
        return {"text": value if isinstance(value, str) else self.text(value, "text")}

    def restore(self, row: Row) -> Any:
        holds(row, "text")
        return {self.at["text"]: row["text"]}
