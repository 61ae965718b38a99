"""Stanford Alpaca's instructions.

{"instruction": "...", "input": "", "output": "...", "system": "...", "history": [["question", "answer"], ...]}

All but `instruction` and `output` is optional. `input` follows the instruction after a blank line; `history` are the
turns before. Try it: format: {type: alpaca, columns: {instruction: task, input: context, output: response}}
"""

from __future__ import annotations

from typing import Any

from components.core.kinds import register
from components.data.formats._columns import Columns, Mapped, holds, kind_of
from components.data.formats._forms import looks_like
from components.data.formats._messages import Message
from components.interfaces import BadRow, Row


@register("format", "alpaca")
class AlpacaFormat(Mapped):
    """Instruction, input and output in columns of their own."""

    class Config(Columns):
        names = ("instruction", "input", "output", "system", "history")

    shape = "conversation"

    @classmethod
    def fits(cls, value: Any) -> bool:
        return looks_like(value, "alpaca")

    def convert(self, value: Any) -> Row:
        instruction, output = self.text(value, "instruction"), self.text(value, "output")
        extra, system = self.optional_text(value, "input"), self.optional_text(value, "system")
        messages = [{"role": "system", "content": system}] if system else []
        if value.get(self.at["history"]) is not None:
            messages += self._history(value[self.at["history"]])
        messages.append(
            {"role": "user", "content": f"{instruction}\n\n{extra}" if instruction and extra else instruction + extra}
        )
        messages.append({"role": "assistant", "content": output})
        return {"messages": messages}

    def _history(self, turns: Any) -> list[Message]:
        column = self.at["history"]
        if not isinstance(turns, list):
            raise BadRow(f"'{column}' must be a list of [question, answer], found {kind_of(turns)}")
        messages: list[Message] = []
        for position, turn in enumerate(turns, start=1):
            if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
                raise BadRow(f"turn {position} of '{column}' must be a list of two texts, [question, answer]")
            messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
        return messages

    def restore(self, row: Row) -> Any:
        holds(row, "messages")
        messages = row["messages"]
        system = messages[0]["content"] if messages[0]["role"] == "system" else None
        turns = messages[1:] if system is not None else messages
        if [message["role"] for message in turns] != ["user", "assistant"] or system == "":
            raise BadRow("alpaca holds one question and one answer, and a system message that says something")
        if any(set(message) != {"role", "content"} for message in messages):
            raise BadRow("alpaca has no place for names and tool calls")
        own = {"instruction": turns[0]["content"], "input": "", "output": turns[1]["content"]}
        own |= {"system": system} if system else {}
        return {self.at[name]: text for name, text in own.items()}
