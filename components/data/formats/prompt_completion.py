"""A prompt and its completion, as text or as lists of messages (TRL's form).

{"prompt": "...", "completion": "..."}
{"prompt": [{"role": "user", "content": "..."}], "completion": [{"role": "assistant", "content": "..."}]}

Some other pairs of columns are understood without a column map: prompt/response, question/answer, query/response,
instruction/response and input/output, as long as no other `input` or `context` is beside them. Beside a `label` or
`kto_tag` no pair is read without a column map: the answer may be a bad one. `system` and `tools` are optional. Try it:
format: {type: prompt_completion, columns: {prompt: problem, completion: solution}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.core.kinds import register
from components.data.formats._columns import Columns, Mapped, holds, kind_of, shown
from components.data.formats._forms import PAIRS, looks_like, pair_in
from components.data.formats._messages import ordered, said, unsaid, with_system, with_tools
from components.interfaces import BadRow, Row


@register("format", "prompt_completion")
class PromptCompletionFormat(Mapped):
    """A prompt and its completion, also as question and answer."""

    class Config(Columns):
        names = ("prompt", "completion", "system", "tools")

    shape = "conversation"

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        mapped = not {"prompt", "completion"}.isdisjoint(self.config.columns)
        self._pair = (self.at["prompt"], self.at["completion"]) if mapped else None

    @classmethod
    def fits(cls, value: Any) -> bool:
        return looks_like(value, "prompt_completion")

    def convert(self, value: Any) -> Row:
        asked, answered = self._columns(value)
        prompt = said(value[asked], "user", asked)
        completion = said(value[answered], "assistant", answered)
        prompt = with_system(prompt, self.optional_text(value, "system"), asked)
        before = ordered(prompt, asked, end="prompt")
        messages = before + ordered(completion, answered, before=prompt[1][-1])
        return with_tools({"messages": messages}, value.get(self.at["tools"]), self.at["tools"])

    def reads(self, value: Mapping[str, Any]) -> set[str]:
        pair = self._pair or pair_in(dict(value)) or ()
        return {*pair, self.at["system"], self.at["tools"]}

    def _columns(self, value: Any) -> tuple[str, str]:
        """Where prompt and completion stand: as mapped, else the first pair of known names."""
        if self._pair:
            self.need(value, "prompt")
            self.need(value, "completion")
            return self._pair
        pair = pair_in(value) if isinstance(value, dict) else None
        if pair is None:
            known = ", ".join("/".join(names) for names in PAIRS)
            found = shown(value) if isinstance(value, dict) else kind_of(value)
            raise BadRow(
                f"expected a pair of columns ({known}, without input, context or label beside it), found: {found}"
            )
        return pair

    def restore(self, row: Row) -> Any:
        holds(row, "messages", "tools")
        *prompt, last = row["messages"]
        own = {"prompt": unsaid(prompt, "user"), "completion": unsaid([last], "assistant")}
        own |= {"tools": row["tools"]} if "tools" in row else {}
        return {self.at[name]: content for name, content in own.items()}
