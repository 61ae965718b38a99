"""Pairs of answers, one preferred to the other (DPO).

{"prompt": "...", "chosen": "...", "rejected": "..."}                 each as text, a message or a list of messages
{"chosen": [...], "rejected": [...]}                                  whole conversations: the prompt is what they share
{"conversations": [{"from": ...}], "chosen": {...}, "rejected": {...}}   ShareGPT's turns, wherever messages may stand

Beside whole conversations a `prompt` of text only repeats what they say, and is not read. `system` is optional.
Try it: format: {type: preference, columns: {prompt: question, chosen: better, rejected: worse}}
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from components.core.kinds import register
from components.data.formats._columns import Columns, Mapped, holds
from components.data.formats._forms import looks_like
from components.data.formats._messages import ANSWERS, Side, ordered, said, unsaid, with_system
from components.data.formats._sharegpt import Tags, Turns
from components.interfaces import BadRow, Row


@register("format", "preference")
class PreferenceFormat(Mapped):
    """A prompt with a chosen and a rejected answer."""

    class Config(Columns):
        names = ("prompt", "chosen", "rejected", "conversations", "system")
        tags: Tags = Field(Tags(), description="how ShareGPT's turns are written")

    shape = "preference"

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._turns = Turns(self.config.tags)

    @classmethod
    def fits(cls, value: Any) -> bool:
        return looks_like(value, "preference")

    def convert(self, value: Any) -> Row:
        chosen, rejected = self._said(value, "chosen"), self._said(value, "rejected")
        asked = "prompt" if value.get(self.at["conversations"]) is None else "conversations"
        if asked == "prompt" and chosen[1][0] not in ANSWERS:
            prompt, chosen, rejected = self._parted(value, chosen, rejected)
        else:
            prompt = self._said(value, asked)
        prompt = with_system(prompt, self.optional_text(value, "system"), self.at[asked])
        return {
            "prompt": ordered(prompt, self.at[asked], end="prompt"),
            "chosen": ordered(chosen, self.at["chosen"], before=prompt[1][-1]),
            "rejected": ordered(rejected, self.at["rejected"], before=prompt[1][-1]),
        }

    def _said(self, value: Any, name: str) -> Side:
        role = "assistant" if name in ("chosen", "rejected") else "user"
        return said(self.need(value, name), role, self.at[name], self._turns.either)

    def _parted(self, value: Any, chosen: Side, rejected: Side) -> tuple[Side, Side, Side]:
        """Prompt, chosen and rejected of two whole conversations."""
        names = self.at["chosen"], self.at["rejected"]
        left, right = ordered(chosen, names[0]), ordered(rejected, names[1])
        # both keep their last answer, also where one goes on after the other, or they are the same
        shared, most = 0, min(len(left), len(right)) - 1
        while shared < most and left[shared] == right[shared]:
            shared += 1
        for side, name in zip((chosen, rejected), names, strict=True):
            if side[1][shared] not in ANSWERS:
                raise BadRow(
                    f"'{names[0]}' and '{names[1]}' must be the same up to an answer, but message {shared + 1} of "
                    f"'{name}' is of '{side[1][shared]}'"
                )
        prompt = value.get(self.at["prompt"])
        if isinstance(prompt, list) and left[: len(prompt)] != self._said(value, "prompt")[0]:
            raise BadRow(f"'{names[0]}' is a whole conversation, but does not begin with '{self.at['prompt']}'")
        cut = [(messages[shared:], roles[shared:]) for messages, roles in (chosen, rejected)]
        return (left[:shared], chosen[1][:shared]), cut[0], cut[1]

    def restore(self, row: Row) -> Any:
        holds(row, "prompt", "chosen", "rejected")
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        return {self.at[name]: unsaid(row[name], role) for name, role in roles.items()}
