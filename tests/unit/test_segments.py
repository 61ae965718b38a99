"""Conversations cut at their special tokens have the tokens of the whole, for every template, or are not cut."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from tokenizers import AddedToken, normalizers, pre_tokenizers

from components.core.chat import Template, encode_chat
from components.core.encoding import Encoder
from components.core.errors import DataError
from components.core.frames import make_frame
from components.core.segments import Cutter
from tests import tiny
from tests.unit.test_encoding import PIECES, subword_tokenizer
from tests.unit.test_frames import ROLES, TEMPLATES

SPECIAL = re.compile(r"<\|[a-zA-Z0-9_]+\|>|<[｜|][^<>\s']+[｜|]>|<(?:start|end)_of_turn>|</?s>|<eos>|<bos>|\[/?INST\]")


def tokenizer(template: str, **options: bool) -> Any:
    """A tokenizer that merges, with the special tokens of the template."""
    made = subword_tokenizer()
    made.chat_template = template
    found = sorted(set(SPECIAL.findall(template)))
    tokens = [AddedToken(text, special=True, normalized=False, **options) for text in found]
    made.add_tokens(tokens, special_tokens=True)
    return made


def cut_of(made: Any, roles: tuple[str, ...] = ("user", "assistant")) -> Any:
    frame = make_frame(Template(made), roles)
    return frame and Cutter(made.backend_tokenizer).cut(frame)


def conversations(name: str, count: int) -> list[Any]:
    draw = random.Random(name)
    rows = []
    for _ in range(count):
        roles = draw.choice(ROLES)
        texts = ["".join(draw.choice([*PIECES, "\n", "<", "<|im_"]) for _ in range(draw.randrange(8))) for _ in roles]
        rows.append([{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)])
    return rows


def alone(made: Any, messages: Any) -> tuple[Any, str | None]:
    """One conversation, encoded by itself."""
    try:
        return (encode_chat(made, messages),), None
    except DataError as error:
        return (), str(error)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_cut_is_whole(name: str) -> None:
    """Whatever the messages say, a batch has the tokens and spans of one conversation at a time (training.md 2)."""
    made = tokenizer(TEMPLATES[name])
    rows = conversations(name, 60)
    encoder = Encoder(made, frozenset({made.eos_token_id}))
    for messages, found in zip(rows, encoder.encode([{"messages": m} for m in rows]), strict=True):
        assert (found.sequences, found.error) == alone(made, messages)


@pytest.mark.parametrize("name", ["qwen2_5", "llama3", "phi3", "qwen3_instruct_2507", "llama3_2"])
def test_common_templates_are_cut(name: str) -> None:
    """The fast way is taken for templates that mark turns with special tokens."""
    assert cut_of(tokenizer(TEMPLATES[name])) is not None


def test_the_quickstarts_template_is_cut() -> None:
    """Messages are encoded between their special tokens, and only what differs from row to row."""
    cut = cut_of(subword_tokenizer(), ("system", "user", "assistant"))
    assert [piece.text for piece in cut.pieces if piece.slot >= 0] == ["system\n", "user\n", "assistant\n"]
    assert [piece.opens for piece in cut.pieces if piece.slot >= 0] == [False, False, True]


@pytest.mark.parametrize("option", ["lstrip", "rstrip", "single_word"])
def test_special_tokens_that_reach_out(option: str) -> None:
    """Special tokens that swallow the space beside them, or hang on their neighbours, are no place to cut."""
    assert cut_of(tokenizer(TEMPLATES["qwen2_5"] + "<|more|>", **{option: True})) is None


def test_special_tokens_that_run_into_each_other() -> None:
    """If a message could end in the first half of a special token, rows are encoded whole."""
    made = tokenizer(TEMPLATES["qwen2_5"])
    made.add_tokens([AddedToken("#<|im_", special=True, normalized=False)], special_tokens=True)
    assert cut_of(made) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda core: setattr(core, "pre_tokenizer", pre_tokenizers.Metaspace()),
        lambda core: setattr(core, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda core: setattr(core, "normalizer", normalizers.Prepend("_")),
        lambda core: setattr(core, "normalizer", normalizers.Strip()),
    ],
    ids=["metaspace", "prefix", "prepend", "strip"],
)
def test_tokenizers_that_look_at_the_place(change: Any) -> None:
    """A tokenizer that treats the beginning of a text in its own way encodes rows whole."""
    made = tokenizer(TEMPLATES["qwen2_5"])
    change(made.backend_tokenizer)
    assert Cutter(made.backend_tokenizer).cut(make_frame(Template(made), ("user", "assistant"))) is None  # type: ignore[arg-type]


def test_two_messages_between_special_tokens() -> None:
    """A template without special tokens between turns is encoded whole, and rightly so."""
    made = subword_tokenizer()
    made.chat_template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    assert cut_of(made) is None
    (row,) = Encoder(made, frozenset({2})).encode([{"messages": tiny.conversation(1)}])
    assert row.sequences == (encode_chat(made, tiny.conversation(1)),)
