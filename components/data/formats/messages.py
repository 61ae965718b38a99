"""The chat format of OpenAI and ChatML: `{"messages": [{"role": "user", "content": "..."}, ...]}`.

A conversation is an optional system message, then user and assistant in turn, ending with the assistant.
"""

from __future__ import annotations

from typing import Any

from components.core.chat import Message
from components.core.component import StrictConfig
from components.core.kinds import register
from components.interfaces import Format


@register("format", "messages")
class MessagesFormat(Format):
    """Conversations as lists of role and content."""

    class Config(StrictConfig):
        column: str = "messages"

    config: Config

    def problem(self, value: Any) -> str | None:
        if not isinstance(value, dict) or not isinstance(value.get(self.config.column), list):
            return f"expected an object with a list under '{self.config.column}'"
        messages = value[self.config.column]
        for position, message in enumerate(messages):
            if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
                return f"message {position} needs text under 'role' and 'content'"
        roles = [message["role"] for message in messages]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        if not turns or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
            found = ", ".join(roles) or "none"
            return f"roles must be [system,] user, assistant, ... and end with assistant, found {found}"
        return None

    def messages(self, value: Any) -> list[Message]:
        return [{"role": m["role"], "content": m["content"]} for m in value[self.config.column]]
