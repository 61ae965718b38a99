"""Answers that are each good or bad by themselves (KTO).

{"prompt": "...", "completion": "...", "label": true}                     text or lists of messages
{"conversations": [{"from": "human", ...}, {"from": "gpt", ...}], "kto_tag": true}   the last turn is the completion

A label is true or false, or 1 or 0, also as text. Prompt and completion may have the other names that
`prompt_completion` knows, and `conversations` may be called `messages`. `system` is optional. Try it:
format: {type: unpaired, columns: {prompt: question, completion: answer, label: good}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from components.core.kinds import register
from components.data.formats._columns import Columns, Mapped, holds, kind_of, shown
from components.data.formats._forms import label_of, labelled_pair_in, looks_like
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
        whole = self._whole(value) if isinstance(value, dict) else None
        prompt, completion = self._split(value, whole) if whole else self._sides(value)
        return {"prompt": prompt, "completion": completion, "label": self._label(value)}

    def reads(self, value: Mapping[str, Any]) -> set[str]:
        whole = self._whole(value)
        return {*([whole] if whole else self._pair(value)), self.at["system"], self._label_column(value)}

    def _whole(self, value: Mapping[str, Any]) -> str | None:
        """The column of a whole conversation, if there is one."""
        if value.get(self.at["conversations"]) is not None:
            return self.at["conversations"]
        other = not self.config.columns and labelled_pair_in(dict(value)) is None
        return "messages" if other and isinstance(value.get("messages"), list) else None

    def _pair(self, value: Mapping[str, Any]) -> tuple[str, str]:
        """Where prompt and completion stand: as mapped, else the first pair of known names."""
        mapped = not {"prompt", "completion"}.isdisjoint(self.config.columns)
        guessed = None if mapped else labelled_pair_in(dict(value))
        return guessed or (self.at["prompt"], self.at["completion"])

    def _sides(self, value: Any) -> tuple[list[Any], list[Any]]:
        if not isinstance(value, dict):
            self.need(value, "prompt")
        (asked, answered), either = self._pair(value), self._turns.either
        for name in (asked, answered):
            if name not in value:
                raise BadRow(f"there is no column '{name}', found: {shown(value)}")
        prompt = self._with_system(value, said(value[asked], "user", asked, either), asked)
        completion = said(value[answered], "assistant", answered, either)
        return ordered(prompt, asked, end="prompt"), ordered(completion, answered, before=prompt[1][-1])

    def _split(self, value: Any, where: str) -> tuple[list[Any], list[Any]]:
        messages = ordered(self._with_system(value, self._turns.either(value[where], where), where), where)
        return messages[:-1], messages[-1:]

    def _with_system(self, value: Any, side: Side, where: str) -> Side:
        return with_system(side, self.optional_text(value, "system"), where)

    def _label(self, value: Any) -> bool:
        column = self._label_column(value)
        label = label_of(value.get(column))
        if label is None:
            raise BadRow(
                f"'{column}' must be true or false (or 1 or 0), found {kind_of(value.get(column))}; if every answer is "
                "good, say so: format: {type: prompt_completion, columns: {prompt: ..., completion: ...}}"
            )
        return label

    def _label_column(self, value: Mapping[str, Any]) -> str:
        return "kto_tag" if self.at["label"] not in value and "kto_tag" in value else self.at["label"]

    def restore(self, row: Row) -> Any:
        holds(row, "prompt", "completion", "label")
        sides = {"prompt": unsaid(row["prompt"], "user"), "completion": unsaid(row["completion"], "assistant")}
        return {self.at[name]: content for name, content in {**sides, "label": row["label"]}.items()}
