"""Lists of messages: read strictly, in the one order of roles that chat templates take.

A conversation is an optional system message, then user and assistant in turn. Between them the assistant may call
tools, and every call is answered: user, assistant (tool calls), tool, assistant. `developer` is OpenAI's newer word
for `system` and becomes that, because most chat templates drop a role they do not know without a word.

Of a message these keys are kept: role, content, tool_calls, name, tool_call_id. A tool call is kept in OpenAI's form
with its arguments as an object, also where they came as JSON text: chat templates expect objects. The content of a
message that only calls tools is null.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from components.data.formats._columns import LEVELS, as_text, kind_of, loaded
from components.interfaces import BadRow, Row

Message = dict[str, Any]
Side = tuple[list[Message], tuple[str, ...]]
"""Messages, and for each of them its role; `CALL` for an assistant that calls tools."""
Read = Callable[[Any, str], Side]

CALL = "assistant with tool calls"
ROLES = frozenset(("system", "user", "assistant", "tool"))
ANSWERS = ("assistant", CALL)
_ENDS = {"answer": ANSWERS, "prompt": ("user", "tool")}
_FOLLOWS = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ANSWERS,
    "assistant": ("user",),
    CALL: ("tool",),
    "tool": ("tool", *ANSWERS),
}


def read_messages(value: Any, where: str) -> Side:
    """Messages in OpenAI's form, each checked by itself. `where` is the column, for the reason of a BadRow."""
    kept: list[Message] = []
    roles: list[str] = []
    for message in listed(value, where):
        # the plain message of nearly every row; all others take the long way
        if type(message) is dict and len(message) == 2:
            role, content = message.get("role"), message.get("content")
            if type(content) is str and type(role) is str and role in ROLES:
                kept.append({"role": role, "content": content})
                roles.append(role)
                continue
        role, message = _message(message, f"message {len(kept) + 1} of '{where}'")
        kept.append(message)
        roles.append(role)
    return kept, tuple(roles)


def listed(value: Any, where: str) -> list[Any]:
    """The value, if it is a list with something in it."""
    if not isinstance(value, list) or not value:
        raise BadRow(f"'{where}' must be a list of messages, found {kind_of(value)}")
    return value


def _message(message: Any, at: str) -> tuple[str, Message]:
    if not isinstance(message, dict):
        raise BadRow(f"{at} must be an object with 'role' and 'content', found {kind_of(message)}")
    role = as_text(message.get("role"), f"the role of {at}")
    role = "system" if role == "developer" else role
    if role not in ROLES:
        raise BadRow(f"the role of {at} must be system, developer, user, assistant or tool, found {role[:40]!r}")
    kept: Message = {"role": role, "content": message.get("content")}
    for key in ("name", "tool_call_id"):
        if message.get(key) is not None:
            kept[key] = as_text(message[key], f"the {key} of {at}")
    calls = message.get("tool_calls")
    # around the arguments of a call there are a list and two objects
    calls = loaded(calls, f"'tool_calls' of {at}", LEVELS + 3) if calls else None
    if not calls:
        as_text(kept["content"], f"the content of {at}")
        return role, kept
    if role != "assistant":
        raise BadRow(f"{at} has tool calls, which only the assistant makes; its role is '{role}'")
    return CALL, with_calls(kept, calls, at)


def with_calls(message: Message, calls: Any, at: str) -> Message:
    """The assistant's message, with the tool calls it makes. Empty content becomes null: nothing is missing there."""
    content = message["content"]
    if not isinstance(calls, list) or not calls:
        raise BadRow(f"the tool calls of {at} must be a list, found {kind_of(calls)}")
    if content is not None:
        as_text(content, f"the content of {at}")
    return {**message, "content": content or None, "tool_calls": [_call(call, at) for call in calls]}


def _call(call: Any, at: str) -> dict[str, Any]:
    """A tool call in OpenAI's form; `{"name": ..., "arguments": ...}` alone will do."""
    function = call.get("function", call) if isinstance(call, dict) else call
    if not isinstance(function, dict):
        raise BadRow(f"a tool call of {at} must be an object with a function, found {kind_of(function)}")
    name = as_text(function.get("name"), f"the function's name in a tool call of {at}")
    where = f"the arguments of {name[:40]!r} in {at}"
    given = function.get("arguments")
    arguments = {} if given is None else loaded(given, where)
    if not isinstance(arguments, dict):
        raise BadRow(f"{where} must be an object, found {kind_of(arguments)}")
    known: dict[str, Any] = (
        {} if call.get("id") is None else {"id": as_text(call["id"], f"the id of a tool call of {at}")}
    )
    return {**known, "type": "function", "function": {"name": name, "arguments": arguments}}


def with_tools(row: Row, value: Any, where: str) -> Row:
    """The row with the tools on offer, which are a list or its JSON text; unchanged if there are none."""
    tools = [] if value is None or value == "" else loaded(value, f"'{where}'")
    if not isinstance(tools, (list, type(None))):
        raise BadRow(f"'{where}' must be a list of tools, found {kind_of(tools)}")
    for position, tool in enumerate(tools or (), start=1):
        if not isinstance(tool, dict):
            raise BadRow(f"tool {position} of '{where}' must be an object, found {kind_of(tool)}")
    return row | {"tools": tools} if tools else row


@lru_cache(maxsize=1024)
def disorder(roles: tuple[str, ...], end: str = "answer", before: str = "") -> str | None:
    """What is wrong with the order of roles, or None. `before`: the role that came before; `end`: answer or prompt."""
    for position, role in enumerate(roles, start=1):
        if role not in _FOLLOWS[before]:
            return f"message {position} is of '{role}', expected {_either(_FOLLOWS[before])}"
        before = role
    return None if before in _ENDS[end] else f"the last message is of '{before}', expected {_either(_ENDS[end])}"


def _either(roles: tuple[str, ...]) -> str:
    return " or ".join(f"'{role}'" for role in roles)


def ordered(side: Side, where: str, end: str = "answer", before: str = "") -> list[Message]:
    """The messages, if their roles come in order."""
    problem = disorder(side[1], end, before)
    if problem:
        raise BadRow(f"in '{where}', {problem}")
    return side[0]


def said(value: Any, role: str, where: str, read: Read = read_messages) -> Side:
    """One side of a row: text that `role` says, a message, or a list of messages."""
    if isinstance(value, str):
        return [{"role": role, "content": value}], (role,)
    if not isinstance(value, (list, dict)):
        raise BadRow(f"'{where}' must be text or a list of messages, found {kind_of(value)}")
    return read([value] if isinstance(value, dict) else value, where)


def with_system(side: Side, system: str, where: str) -> Side:
    """The messages with a system message in front, if there is one to add."""
    if not system:
        return side
    if side[1][0] == "system":
        raise BadRow(f"there is a system message in '{where}', and another one in a column of its own")
    return [{"role": "system", "content": system}, *side[0]], ("system", *side[1])


def unsaid(messages: list[Message], role: str) -> str | list[Message]:
    """The other way round from `said`: the text, where it is nothing but one plain message of `role`."""
    first = messages[0]
    return first["content"] if messages == [{"role": role, "content": first["content"]}] else messages
