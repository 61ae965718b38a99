"""Messages -> token ids and a loss mask, through the model's own chat template.

The mask covers exactly what the assistant says, its end-of-turn token included: the text that the template adds when
an assistant turn is appended. This needs no generation tags in the template; a template whose output for a
conversation does not begin with its output for the conversation's beginning is refused, because then there is no
such span.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.core.errors import DataError

Message = dict[str, str]


@dataclass(frozen=True)
class Encoded:
    """Token ids of a conversation, and for each token whether it is trained on."""

    ids: list[int]
    mask: list[bool]

    def labels(self, ignore: int = -100) -> list[int]:
        return [token if trained else ignore for token, trained in zip(self.ids, self.mask, strict=True)]


def render(tokenizer: Any, messages: Sequence[Message], reply: bool = False) -> str:
    """The conversation as text; `reply` appends the opening of the assistant's next turn."""
    if not getattr(tokenizer, "chat_template", None):
        raise DataError("the model's tokenizer has no chat template; choose an instruct model")
    text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=reply)
    return text


def encode_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of everything before the last assistant turn, ready to be answered."""
    prompt = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    ids: list[int] = tokenizer(render(tokenizer, prompt, reply=True), add_special_tokens=False)["input_ids"]
    return ids


def encode_chat(tokenizer: Any, messages: Sequence[Message]) -> Encoded:
    """Token ids and loss mask of a whole conversation."""
    text = render(tokenizer, messages)
    spans = [_span(tokenizer, messages, i, text) for i, m in enumerate(messages) if m["role"] == "assistant"]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    mask = [any(start >= a and end <= b for a, b in spans) for start, end in encoded["offset_mapping"]]
    return Encoded(list(encoded["input_ids"]), mask)


def _span(tokenizer: Any, messages: Sequence[Message], turn: int, text: str) -> tuple[int, int]:
    """Characters of `text` that assistant turn number `turn` adds, up to its end-of-turn token."""
    before = render(tokenizer, messages[:turn], reply=True)
    through = text if turn == len(messages) - 1 else render(tokenizer, messages[: turn + 1])
    if not (text.startswith(before) and through.startswith(before)):
        raise DataError(
            "the chat template rewrites earlier turns, so the assistant's tokens cannot be told from the others; "
            "use a template that only appends"
        )
    # what follows the end-of-turn token (often a newline) is never generated, so it is not trained on
    return len(before), len(through.rstrip())
