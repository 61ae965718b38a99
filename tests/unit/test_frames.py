"""Fast rendering gives what Jinja gives, for every template that TRL knows, or stands back."""

from __future__ import annotations

import random
from typing import Any

import pytest
from trl import chat_template_utils

from components.core.chat import Template
from components.core.errors import DataError
from components.core.frames import Frames, keeps_track, make_frame
from tests import tiny

TEMPLATES = {
    name.removesuffix("_chat_template"): value
    for name, value in vars(chat_template_utils).items()
    if name.endswith("_chat_template") and isinstance(value, str)
}
ROLES = (
    ("user", "assistant"),
    ("system", "user", "assistant"),
    ("user", "assistant", "user", "assistant"),
    ("system", "user", "assistant", "user", "assistant", "user", "assistant"),
)
PIECES = (
    " ",
    "\n",
    "a",
    "<think>",
    "</think>",
    "x\n\ny",
    "é",
    "{{",
    "{%",
    "<tool_response>",
    "</tool_call>",
    "<|im_end|>",
    "'",
    '"',
    "\\",
    "Z z",
    "\u2003",
    "\t",
    "🙂",
    "<|channel|>",
    "final",
    "\r\n",
    "&amp;",
)


def tokenizer(template: str) -> Any:
    made = tiny.tokenizer()
    made.chat_template = template
    return made


def outcome(call: Any, messages: Any) -> Any:
    try:
        return call(messages)
    except DataError:
        return "refused"


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_same_as_jinja(name: str) -> None:
    """Whatever the messages say, text and trained spans are those that Jinja gives, or both refuse (training.md 2)."""
    draw = random.Random(name)
    template = Template(tokenizer(TEMPLATES[name]))
    frames = Frames(template)
    for roles in ROLES:
        for _ in range(25):
            texts = ["".join(draw.choice(PIECES) for _ in range(draw.randrange(9))) for _ in roles]
            messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
            assert outcome(frames.spans, messages) == outcome(template.spans, messages)


@pytest.mark.parametrize("name", ["qwen2_5", "llama3", "phi3", "qwen3_instruct_2507", "llama3_2"])
def test_common_templates_are_fast(name: str) -> None:
    """Templates that only write messages down, whole or stripped, have a frame: the fast way is taken at all."""
    template = Template(tokenizer(TEMPLATES[name]))
    assert keeps_track(template.text)
    assert make_frame(template, ("user", "assistant")) is not None


INSPECTING = {
    "a condition": "{% if messages[0].content %}x{% endif %}{{ messages[0].content }}",
    "a comparison": "{{ messages[0].content if messages[0].content != 'a' else 'b' }}",
    "a search": "{{ messages[0].content }}{{ 'x' if 'a' in messages[0].content }}",
    "a slice": "{{ messages[0].content[1:] }}",
    "a filter": "{{ messages[0].content | upper }}",
    "escaping": "{{ messages[0].content | tojson }}",
    "a length": "{{ messages[0].content }}{{ messages[0].content | length }}",
    "stripping one side": "{{ messages[0].content.lstrip() }}",
    "stripping other characters": "{{ messages[0].content.strip('a') }}",
    "stripping what was joined": "{{ ('x' + messages[0].content) | trim }}",
    "twice": "{{ messages[0].content }}{{ messages[0].content }}",
    "never": "{{ messages[0].role }}",
    "replacing": "{{ messages[0].content.replace('q', '') }}",
    "splitting": "{{ messages[0].content.split('</think>')[-1] }}",
}


@pytest.mark.parametrize("how", INSPECTING)
def test_a_template_that_looks_has_no_frame(how: str) -> None:
    """A template that does anything but write a message down is rendered by Jinja, row by row."""
    text = INSPECTING[how] + "{% generation %}{{ messages[1].content }}{% endgeneration %}"
    assert make_frame(Template(tokenizer(text)), ("user", "assistant")) is None


@pytest.mark.parametrize(
    "text",
    ["{{ (messages[0].content ~ 'a') | replace('q', '') }}", "{% set x %}{{ messages[0].content }}{% endset %}{{ x }}",
     "{% macro m(c) %}{{ c }}{% endmacro %}{{ m(messages[0].content) }}", "{{ '%s' % messages[0].content }}",
     "{{ [messages[0].content] | join('') }}", "{{ 'a'.join([messages[0].content]) }}"],
)  # fmt: skip
def test_what_hides_a_message_is_not_trusted(text: str) -> None:
    """A template that joins texts where a message cannot be followed gets no frames at all."""
    assert not keeps_track(text)


def test_messages_with_more_than_text() -> None:
    """A conversation with tool calls goes through Jinja."""
    template = Template(tokenizer(TEMPLATES["qwen2_5"]))
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    text, _ = Frames(template).spans(messages)
    assert '{"name": "f", "arguments": {"a": 1}}' in text
