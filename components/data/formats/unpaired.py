"""Answers that are each good or bad by themselves (KTO).

{"prompt": "...", "completion": "...", "label": true}                     text or lists of messages; 1 and 0 will do
{"conversations": [{"from": "human", ...}, {"from": "gpt", ...}], "kto_tag": true}   the last turn is the completion

`system` is optional. Try it: format: {type: unpaired, columns: {prompt: question, completion: answer, label: good}}
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from components.core.kinds import register
from components.data.formats._columns import Columns, Mapped, holds, kind_of
from components.data.formats._forms import is_label, looks_like
from components.data.formats._messages import Side, ordered, said, unsaid, with_system
from components.data.formats._sharegpt import Tags, Turns
from components.interfaces import BadRow, Row


@register("format", "unpaired")
class UnpairedFormat(Mapped):
    """A prompt and one answer, labelled good or bad."""

    class Config(Columns):
        names = ("prompt", "completion", "label", "conversations", "system")
        tags: Tags = Field(Tags(), description="how ShareGPT's turns are written")

    shape = "unpaired"

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._turns = Turns(self.config.tags)

    @classmethod
    def fits(cls, value: Any) -> bool:
        return looks_like(value, "unpaired")

    def convert(self, value: Any) -> Row:
        whole = isinstance(value, dict) and value.get(self.at["conversations"]) is not None
        prompt, completion = self._split(value) if whole else self._sides(value)
        return {"prompt": prompt, "completion": completion, "label": self._label(value)}

    def _sides(self, value: Any) -> tuple[list[Any], list[Any]]:
        asked, answered, either = self.at["prompt"], self.at["completion"], self._turns.either
        prompt = self._with_system(value, said(self.need(value, "prompt"), "user", asked, either), asked)
        completion = said(self.need(value, "completion"), "assistant", answered, either)
        return ordered(prompt, asked, end="prompt"), ordered(completion, answered, before=prompt[1][-1])

    def _split(self, value: Any) -> tuple[list[Any], list[Any]]:
        where = self.at["conversations"]
        messages = ordered(self._with_system(value, self._turns.either(value[where], where), where), where)
        return messages[:-1], messages[-1:]

    def _with_system(self, value: Any, side: Side, where: str) -> Side:
        return with_system(side, self.optional_text(value, "system"), where)

    def _label(self, value: Any) -> bool:
        label = value.get("kto_tag") if self.at["label"] not in value else self.need(value, "label")
        if not is_label(label):
            raise BadRow(f"'{self.at['label']}' must be true or false (or 1 or 0), found {kind_of(label)}")
        return bool(label)

    def restore(self, row: Row) -> Any:
        holds(row, "prompt", "completion", "label")
        sides = {"prompt": unsaid(row["prompt"], "user"), "completion": unsaid(row["completion"], "assistant")}
        return {self.at[name]: content for name, content in {**sides, "label": row["label"]}.items()}
