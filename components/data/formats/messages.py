"""The chat format of OpenAI and ChatML, tool calls included.

{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}], "tools": [...]}

`tools` is optional, and may be JSON text. The order of roles: see `_messages.py`. Try it:
format: {type: messages, columns: {messages: conversation}}
"""

from __future__ import annotations

from typing import Any

from components.core.kinds import register
from components.data.formats._columns import Columns, Mapped, holds
from components.data.formats._forms import looks_like
from components.data.formats._messages import ordered, read_messages, with_tools
from components.interfaces import Row


@register("format", "messages")
class MessagesFormat(Mapped):
    """Conversations as lists of role and content."""

    class Config(Columns):
        names = ("messages", "tools")

    shape = "conversation"

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._messages, self._tools = self.at["messages"], self.at["tools"]

    @classmethod
    def fits(cls, value: Any) -> bool:
        return looks_like(value, "messages")

    def convert(self, value: Any) -> Row:
        side = read_messages(self.need(value, "messages"), self._messages)
        row: Row = {"messages": ordered(side, self._messages)}
        tools = value.get(self._tools)
        return with_tools(row, tools, self._tools) if tools is not None else row

    def restore(self, row: Row) -> Any:
        holds(row, "messages", "tools")
        return {self.at[name]: content for name, content in row.items()}
