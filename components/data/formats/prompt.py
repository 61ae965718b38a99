"""Prompts without an answer, for methods that make their own (GRPO, distillation).

{"prompt": "..."}   or   {"prompt": [{"role": "user", "content": "..."}], "tools": [...]}

`system` and `tools` are optional. Try it: format: {type: prompt, columns: {prompt: question}}
"""

from __future__ import annotations

from typing import Any

from components.core.kinds import register
from components.data.formats._columns import Columns, Mapped, holds
from components.data.formats._forms import looks_like
from components.data.formats._messages import ordered, said, unsaid, with_system, with_tools
from components.interfaces import Row


@register("format", "prompt")
class PromptFormat(Mapped):
    """Prompts alone."""

    class Config(Columns):
        names = ("prompt", "system", "tools")

    shape = "prompt"

    @classmethod
    def fits(cls, value: Any) -> bool:
        return looks_like(value, "prompt")

    def convert(self, value: Any) -> Row:
        where = self.at["prompt"]
        side = said(self.need(value, "prompt"), "user", where)
        prompt = ordered(with_system(side, self.optional_text(value, "system"), where), where, end="prompt")
        return with_tools({"prompt": prompt}, value.get(self.at["tools"]), self.at["tools"])

    def restore(self, row: Row) -> Any:
        holds(row, "prompt", "tools")
        tools = {self.at["tools"]: row["tools"]} if "tools" in row else {}
        return {self.at["prompt"]: unsaid(row["prompt"], "user"), **tools}
