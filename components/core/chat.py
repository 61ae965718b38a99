"""Messages -> text and the parts of it that the assistant says, through the model's own chat template.

Trained on is exactly what the model has to generate: the assistant's text and its end-of-turn token. Where the
template marks it with `{% generation %}` tags, they tell. Where it does not and TRL has a training template for it,
that one does. Else it is the text that the template adds when an assistant turn is appended; a template whose output
for a conversation does not begin with its output for the conversation's beginning is refused, because then there is
no such span.

`components.core.encoding` does the same for many rows at once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

from components.core.errors import DataError

Message = dict[str, Any]
Span = tuple[int, int]
TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Encoded(NamedTuple):
    """Token ids of a conversation, and the stretches of them that are trained on: (first, one past the last)."""

    ids: list[int]
    spans: list[Span]

    @property
    def mask(self) -> list[bool]:
        """For each token whether it is trained on."""
        mask = [False] * len(self.ids)
        for first, end in self.spans:
            mask[first:end] = [True] * (end - first)
        return mask

    def labels(self, ignore: int = -100) -> list[int]:
        return [token if trained else ignore for token, trained in zip(self.ids, self.mask, strict=True)]


class Template:
    """The template that a tokenizer is trained with: renders conversations and finds the assistant's text in them."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.own = _own_template(tokenizer)
        self.text, self.source = _training_template(tokenizer, self.own)

    @property
    def sha256(self) -> str:
        """Of the model's own template: what a server that answers with this model has to render with."""
        return hashlib.sha256(self.own.encode()).hexdigest()

    def facts(self) -> dict[str, str]:
        """What goes into an artifact, so that training and serving can be held to the same template."""
        return {"sha256": self.sha256, "training": self.source, "training_sha256": _sha256(self.text)}

    def render(self, messages: Sequence[Message], reply: bool = False, tools: Any = None) -> str:
        """The conversation as text; a DataError with the template's own words if it refuses it."""
        text: str = self._apply(messages, tools, add_generation_prompt=reply)
        return text

    def spans(self, messages: Sequence[Message], tools: Any = None) -> tuple[str, list[Span]]:
        """The conversation as text, and the characters of each assistant turn up to its end-of-turn token."""
        return self._marked(messages, tools) if self.source != "difference" else self._appended(messages, tools)

    def _apply(self, messages: Sequence[Message], tools: Any, **options: Any) -> Any:
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(
                list(messages), chat_template=self.text, tools=tools, tokenize=False, **options
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise DataError(f"the chat template refuses the conversation: {error}") from error

    def _marked(self, messages: Sequence[Message], tools: Any) -> tuple[str, list[Span]]:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        special = self.tokenizer.special_tokens_map
        try:
            texts, marks = render_jinja_template(
                [list(messages)], tools=tools, chat_template=self.text, return_assistant_tokens_mask=True, **special
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise DataError(f"the chat template refuses the conversation: {error}") from error
        return texts[0], [self.generated(texts[0], first, end) for first, end in marks[0]]

    def generated(self, text: str, first: int, end: int) -> Span:
        """A marked span without what the model never generates: the rest of the turn's opening, a last line break."""
        opening = self.opening
        ends = (first + skip for skip in range(len(opening) + 1))
        first = next((place for place in ends if text.startswith(opening, place - len(opening))), first)
        return first, len(text[:end].rstrip())

    @cached_property
    def opening(self) -> str:
        """What a request for an answer adds to a conversation, for example `<|im_start|>assistant` and a line break."""
        question = [{"role": "user", "content": "?"}]
        asked, plain = self.render(question, reply=True), self.render(question)
        return asked[len(plain) :] if asked.startswith(plain) else ""

    def _appended(self, messages: Sequence[Message], tools: Any) -> tuple[str, list[Span]]:
        text = self.render(messages, tools=tools)
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        return text, [self._added(messages, turn, text, tools) for turn in turns]

    def _added(self, messages: Sequence[Message], turn: int, text: str, tools: Any) -> Span:
        before = self.render(messages[:turn], reply=True, tools=tools)
        through = text if turn == len(messages) - 1 else self.render(messages[: turn + 1], tools=tools)
        if not (text.startswith(before) and through.startswith(before)):
            raise DataError(
                "the chat template rewrites earlier turns, so the assistant's tokens cannot be told from the others; "
                "use a template that only appends, or one with {% generation %} tags"
            )
        # what follows the end-of-turn token (often a newline) is never generated, so it is not trained on
        return len(before), len(through.rstrip())


def _own_template(tokenizer: Any) -> str:
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise DataError("the model's tokenizer has no chat template; choose an instruct model")
    return str(template)


def _training_template(tokenizer: Any, own: str) -> tuple[str, Literal["own", "trl", "difference"]]:
    """The template whose tags say what is trained on, and where it comes from."""
    if TAG.search(own):
        return own, "own"
    from trl.chat_template_utils import get_training_chat_template

    try:
        known = get_training_chat_template(tokenizer)
    except ValueError:  # TRL's word for a template that it has no training variant of
        known = None
    return (known, "trl") if known else (own, "difference")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def render(tokenizer: Any, messages: Sequence[Message], reply: bool = False) -> str:
    """The conversation as text, as a server renders it; `reply` appends the opening of the assistant's next turn."""
    _own_template(tokenizer)
    text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=reply)
    return text


def encode_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of everything before the last assistant turn, ready to be answered."""
    prompt = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    ids: list[int] = tokenizer(render(tokenizer, prompt, reply=True), add_special_tokens=False)["input_ids"]
    return ids


def encode_chat(tokenizer: Any, messages: Sequence[Message], tools: Any = None) -> Encoded:
    """Token ids of a whole conversation, and which of them are trained on."""
    text, spans = Template(tokenizer).spans(messages, tools)
    encoding = whole_backend(tokenizer).encode(text, add_special_tokens=False)
    return Encoded(encoding.ids, token_spans(encoding.offsets, spans))


def whole_backend(tokenizer: Any) -> Any:
    """The tokenizer's fast core, without the truncation and padding that a `tokenizer.json` may ask for."""
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise DataError("the model's tokenizer has no fast form (tokenizer.json), which the loss mask needs")
    if backend.truncation is None and backend.padding is None:
        return backend
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def token_spans(offsets: Sequence[Span], spans: Sequence[Span]) -> list[Span]:
    """Stretches of characters -> stretches of tokens that lie wholly inside them."""
    inside = [any(start >= a and end <= b for a, b in spans) for start, end in offsets]
    edges = [i for i in range(len(inside) + 1) if (i > 0 and inside[i - 1]) != (i < len(inside) and inside[i])]
    return list(zip(edges[::2], edges[1::2], strict=True))
