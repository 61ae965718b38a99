"""The chat format of ShareGPT and Vicuna, also with tool calls.

{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}], "system": "...", "tools": "[]"}

`system` and `tools` are optional. Names of keys and speakers can be given where a data set has its own. Try it:
format: {type: sharegpt, columns: {conversations: chat}, tags: {role: speaker, content: text, user: customer}}
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from components.core.kinds import register
from components.data.formats._columns import Columns, Mapped, holds
from components.data.formats._forms import looks_like
from components.data.formats._messages import ordered, with_system, with_tools
from components.data.formats._sharegpt import Tags, Turns
from components.interfaces import Row


@register("format", "sharegpt")
class ShareGptFormat(Mapped):
    """Conversations as lists of from and value."""

    class Config(Columns):
        names = ("conversations", "system", "tools")
        tags: Tags = Field(Tags(), description="how its turns are written")

    shape = "conversation"

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._turns = Turns(self.config.tags)

    @classmethod
    def fits(cls, value: Any) -> bool:
        return looks_like(value, "sharegpt")

    def convert(self, value: Any) -> Row:
        where = self.at["conversations"]
        side = self._turns.read(self.need(value, "conversations"), where)
        messages = ordered(with_system(side, self.optional_text(value, "system"), where), where)
        return with_tools({"messages": messages}, value.get(self.at["tools"]), self.at["tools"])

    def restore(self, row: Row) -> Any:
        holds(row, "messages", "tools")
        tools = {self.at["tools"]: row["tools"]} if "tools" in row else {}
        return {self.at["conversations"]: self._turns.write(row["messages"]), **tools}
