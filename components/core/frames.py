"""Fast rendering: most chat templates only put each message between fixed texts, so those are found once.

Rendering a row with Jinja takes about as long as a third of its tokenisation. A `Frame` is what a template writes
around the messages for one sequence of roles; filling it in is a join. It exists only if the template provably does
nothing with a message but write it down, whole or stripped: it is rendered with contents that refuse to be looked at,
and that any rewriting would damage. For every other template there is no frame, and Jinja renders row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from components.core.chat import Message, Span, Template
from components.core.errors import DataError

# stripping, escaping, folding or splitting any of this leaves a trace
_WHOLE = " \n\t<{n}&\"'\\{{{{é\u2003Aa§ \r\n "
_STRIPPED = "§<{n}'\"&\\}}}}éZz§"


class _Inspected(Exception):
    """The template looked at a message instead of writing it down."""


class _Content(str):
    """A message that can be concatenated, stripped of white space at its ends, and written down. Nothing else."""

    stripped: str | None = None

    def __add__(self, other: str) -> _Content:
        return _Content(str.__add__(self, other))

    def __radd__(self, other: str) -> _Content:
        return _Content(str.__add__(other, self))

    def __str__(self) -> str:
        return self

    def strip(self, chars: str | None = None) -> _Content:
        if chars is not None or self.stripped is None:
            raise _Inspected
        content = _Content(self.stripped)
        content.stripped = self.stripped
        return content


def _refuse(*_: Any, **__: Any) -> Any:
    raise _Inspected


_ALLOWED = {*vars(_Content), "__new__", "__init__", "__class__", "__getattribute__", "__setattr__", "__delattr__"}
for _name in {*dir(str), "__bool__", "__html__"} - _ALLOWED - {"__init_subclass__", "__subclasshook__", "__doc__"}:
    setattr(_Content, _name, _refuse)


@dataclass(frozen=True, eq=False)
class Frame:
    """The fixed texts around the messages, and where among them the assistant's parts begin and end."""

    pieces: tuple[str, ...]
    stripped: tuple[bool, ...]
    edges: tuple[tuple[int, int], ...]
    """Ends of the trained parts, two a part: (messages before it, characters of fixed text before it)."""

    def fill(self, contents: Sequence[str]) -> tuple[str, list[Span]]:
        """Text of a conversation and the characters that are trained on."""
        parts = [self.pieces[0]]
        written = [0]
        total = 0
        for content, strip, piece in zip(contents, self.stripped, self.pieces[1:], strict=True):
            content = content.strip() if strip else content
            total += len(content)
            written.append(total)
            parts.append(content)
            parts.append(piece)
        places = [written[before] + fixed for before, fixed in self.edges]
        return "".join(parts), list(zip(places[::2], places[1::2], strict=True))


class Frames:
    """Frames of one template, made when a sequence of roles is first seen."""

    def __init__(self, template: Template) -> None:
        self.template = template
        self.usable = keeps_track(template.text)
        self._known: dict[tuple[str, ...], Frame | None] = {}

    def spans(self, messages: Sequence[Message], tools: Any = None) -> tuple[str, list[Span]]:
        """As `Template.spans`, the same result faster."""
        frame = self.find(messages, tools)
        if frame is None:
            return self.template.spans(messages, tools)
        return frame.fill([message["content"] for message in messages])

    def find(self, messages: Sequence[Message], tools: Any = None) -> Frame | None:
        """The frame for these messages, if there is one."""
        if not self.usable or tools or not all([len(message) == 2 for message in messages]):
            return None
        roles = tuple([message["role"] for message in messages])
        return self._known[roles] if roles in self._known else self._learn(roles)

    def _learn(self, roles: tuple[str, ...]) -> Frame | None:
        if len(self._known) > 4096:  # conversations of any length: forget rather than grow
            self._known.clear()
        self._known[roles] = frame = make_frame(self.template, roles)
        return frame


def make_frame(template: Template, roles: tuple[str, ...]) -> Frame | None:
    """The frame of a template for these roles, or None if it does more than write the messages down."""
    marks = [(_WHOLE.format(n=f"{i:04d}"), _STRIPPED.format(n=f"{i:04d}")) for i in range(len(roles))]
    messages = [{"role": role, "content": _content(*mark)} for role, mark in zip(roles, marks, strict=True)]
    try:
        text, spans = _Untouched(template).spans(messages)
    except (_Inspected, DataError):
        return None
    slots = [slot for mark in marks if (slot := _find(text, *mark))]
    if len(slots) < len(roles) or any(a.end > b.first for a, b in pairwise(slots)):
        return None
    edges = [edge for span in spans for place in span if (edge := _edge(place, slots))]
    if len(edges) < 2 * len(spans):
        return None
    ends, firsts = [0, *(slot.end for slot in slots)], [*(slot.first for slot in slots), len(text)]
    pieces = tuple(text[end:first] for end, first in zip(ends, firsts, strict=True))
    return Frame(pieces, tuple(slot.stripped for slot in slots), tuple(edges))


def keeps_track(template: str) -> bool:
    """Whether a `_Content` stays one until it is written down: what joins texts behind its back would hide a change."""
    from jinja2 import nodes
    from transformers.utils.chat_template_utils import _compile_jinja_template

    tree = _compile_jinja_template(template).environment.parse(template)
    if tree.find((nodes.Concat, nodes.Mod, nodes.FilterBlock, nodes.AssignBlock, nodes.Macro)):
        return False
    names = [found.name for found in tree.find_all(nodes.Filter)]
    names += [found.attr for found in tree.find_all(nodes.Getattr)]
    return not {"join", "format", "format_map"} & set(names)


@dataclass(frozen=True)
class _Slot:
    """Where in a rendered text a message stands."""

    first: int
    end: int
    stripped: bool


def _content(whole: str, stripped: str) -> _Content:
    content = _Content(whole)
    content.stripped = stripped
    return content


def _find(text: str, whole: str, stripped: str) -> _Slot | None:
    """Where the message was written, once, whole or stripped."""
    if text.count(whole) + text.count(stripped) != 1:
        return None
    wanted = whole if whole in text else stripped
    first = text.index(wanted)
    return _Slot(first, first + len(wanted), stripped=wanted == stripped)


def _edge(place: int, slots: Sequence[_Slot]) -> tuple[int, int] | None:
    """A place in the text as (messages before it, fixed characters before it); None inside a message."""
    if any(slot.first < place < slot.end for slot in slots):
        return None
    before = [slot for slot in slots if slot.end <= place]
    return len(before), place - sum(slot.end - slot.first for slot in before)


class _Untouched(Template):
    """The template as it is, without transformers' copying of the messages, which would turn them into plain text."""

    def __init__(self, template: Template) -> None:
        self.tokenizer, self.own = template.tokenizer, template.own
        self.text, self.source, self.opening = template.text, template.source, template.opening

    def _apply(self, messages: Sequence[Message], tools: Any, **options: Any) -> Any:
        from jinja2 import TemplateError

        try:
            return self._compiled().render(messages=list(messages), **self._names(), **options)
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise DataError(str(error)) from error

    def _marked(self, messages: Sequence[Message], tools: Any) -> tuple[str, list[Span]]:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import _render_with_assistant_indices

        try:
            text, marks = _render_with_assistant_indices(
                compiled_template=self._compiled(),
                messages=list(messages),
                add_generation_prompt=False,
                **self._names(),
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise DataError(str(error)) from error
        return text, [self.generated(text, first, end) for first, end in marks]

    def generated(self, text: str, first: int, end: int) -> Span:
        start, end = super().generated(text, first, end)
        if not text.startswith(self.opening, start - len(self.opening)):
            raise _Inspected  # a message may go on where the opening leaves off, so the span hangs on what it says
        return start, end

    def _names(self) -> dict[str, Any]:
        return {"tools": None, "documents": None, **self.tokenizer.special_tokens_map}

    def _compiled(self) -> Any:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        return _compile_jinja_template(self.text)
