"""Turns as ShareGPT writes them (`{"from": "human", "value": "..."}`) to messages, and back.

Tool calls are turns of `function_call`, whose value is JSON: `{"name": ..., "arguments": {...}}` or a list of them.
The other names in use are all understood; `tags` says so where a data set has its own.
"""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from pydantic import BeforeValidator, Field, model_validator

from components.core.component import StrictConfig
from components.core.errors import ConfigError
from components.data.formats._columns import as_text, kind_of
from components.data.formats._messages import CALL, Message, Side, listed, read_messages, with_calls
from components.interfaces import BadRow

Names = Annotated[
    tuple[str, ...],
    BeforeValidator(
        lambda value: (value,) if isinstance(value, str) else value, json_schema_input_type=str | list[str]
    ),
    Field(min_length=1),
]


class Tags(StrictConfig):
    """How turns are written: `role` and `content` are keys, the others names of speakers, the first preferred."""

    role: str = "from"
    content: str = "value"
    system: Names = ("system",)
    user: Names = ("human", "user")
    assistant: Names = ("gpt", "assistant", "model", "chatgpt", "bard")
    tool_call: Names = Field(("function_call",), description="speaker of a turn that calls tools")
    tool: Names = ("observation", "tool")

    @model_validator(mode="after")
    def _told_apart(self) -> Tags:
        names = [name for group in self.speakers().values() for name in group]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"the tags name a speaker twice: {', '.join(twice)}")
        return self

    def speakers(self) -> dict[str, tuple[str, ...]]:
        """Role -> the names it goes by."""
        return {
            "system": self.system,
            "user": self.user,
            "assistant": self.assistant,
            CALL: self.tool_call,
            "tool": self.tool,
        }


class Turns:
    """Reads and writes turns under some tags."""

    def __init__(self, tags: Tags) -> None:
        self.tags = tags
        self.roles = {name: role for role, names in tags.speakers().items() for name in names}
        self.names = {role: names[0] for role, names in tags.speakers().items()}

    def either(self, value: Any, where: str) -> Side:
        """Turns or, where the first one has a `role`, messages in OpenAI's form."""
        first = listed(value, where)[0]
        theirs = isinstance(first, dict) and "role" in first and self.tags.role not in first
        return read_messages(value, where) if theirs else self.read(value, where)

    def read(self, value: Any, where: str) -> Side:
        """Messages, each checked by itself. `where` is the column, for the reason of a BadRow."""
        kept: list[Message] = []
        roles: list[str] = []
        for turn in listed(value, where):
            if not isinstance(turn, dict):
                raise BadRow(f"{self._place(kept, where)} must be an object, found {kind_of(turn)}")
            name, content = turn.get(self.tags.role), turn.get(self.tags.content)
            role = self.roles.get(name) if isinstance(name, str) else None
            if role is None or role == CALL or not isinstance(content, str):
                role, message = self._unusual(role, name, content, self._place(kept, where))
                kept.append(message)
            else:
                kept.append({"role": role, "content": content})
            roles.append(role)
        return kept, tuple(roles)

    def _place(self, kept: list[Message], where: str) -> str:
        return f"message {len(kept) + 1} of '{where}'"

    def _unusual(self, role: str | None, name: Any, content: Any, at: str) -> tuple[str, Message]:
        if role is None:
            found = repr(name[:40]) if isinstance(name, str) else kind_of(name)
            raise BadRow(f"'{self.tags.role}' of {at} must be one of {', '.join(self.roles)}, found {found}")
        text = as_text(content, f"'{self.tags.content}' of {at}")
        try:
            calls = orjson.loads(text)
        except ValueError as error:
            raise BadRow(f"the tool call in {at} is not JSON: {error}") from error
        calls = [calls] if isinstance(calls, dict) else calls
        return role, with_calls({"role": "assistant", "content": None}, calls, at)

    def write(self, messages: list[Message]) -> list[dict[str, str]]:
        """The messages as turns; BadRow where they hold more than a turn can."""
        return [self._turn(message) for message in messages]

    def _turn(self, message: Message) -> dict[str, str]:
        role, content = message["role"], message["content"]
        if "tool_calls" in message:
            calls = message["tool_calls"]
            functions = [call["function"] for call in calls]
            if content is not None or any("id" in call for call in calls):
                raise BadRow("a turn of tool calls has no place for text beside them, nor for their ids")
            role, content = CALL, orjson.dumps(functions[0] if len(functions) == 1 else functions).decode()
        if "name" in message or "tool_call_id" in message:
            raise BadRow("a turn has no place for the name or the tool_call_id of a message")
        return {self.tags.role: self.names[role], self.tags.content: content}
