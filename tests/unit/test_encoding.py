"""Rows as tokens: every shape, the same as one conversation at a time, and what the facts say."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from trl import chat_template_utils

from components.core.chat import Template, encode_chat
from components.core.encoding import Encoder, turn_ends
from components.core.errors import DataError
from tests import tiny

PIECES = (" ", "\n", "a", "🙂", "é", "x y", "漢字", "😀😀", "\u2003", "ﬁ", "e\u0301", "\u200d", "👩‍🚀")
QWEN = chat_template_utils.qwen2_5_chat_template


def subword_tokenizer() -> Any:
    """A tokenizer that merges: tokens of several characters, characters of several tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = ["a x y hello there é " * 20, "assistant user system\n\n" * 20]
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=list(tiny.SPECIAL), initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=tiny.SPECIAL[2], chat_template=tiny.CHAT_TEMPLATE)


@pytest.fixture(params=[tiny.tokenizer, subword_tokenizer], ids=["bytes", "subwords"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.param()


def encoder(tokenizer: Any) -> Encoder:
    return Encoder(tokenizer, frozenset({tokenizer.convert_tokens_to_ids("<|im_end|>")}))


def trained(tokenizer: Any, sequence: Any) -> str:
    return tokenizer.decode([token for token, on in zip(sequence.ids, sequence.mask, strict=True) if on])


def test_many_rows_are_as_one(tokenizer: Any) -> None:
    """A batch gives token for token what one conversation at a time gives, whatever its characters (training.md 2)."""
    draw = random.Random(3)
    rows = []
    for _ in range(300):
        roles = ("user", "assistant") * draw.randint(1, 3)
        texts = ["".join(draw.choice(PIECES) for _ in range(draw.randrange(7))) for _ in roles]
        rows.append({"messages": [{"role": r, "content": c} for r, c in zip(roles, texts, strict=True)]})
    for row, found in zip(rows, encoder(tokenizer).encode(rows), strict=True):
        assert found.sequences == (encode_chat(tokenizer, row["messages"]),)


def test_every_shape(tokenizer: Any) -> None:
    """Trained on is what the model has to say: answers of a conversation, the completion only, all of a text (B22)."""
    said = [{"role": "user", "content": "hello"}]
    yes, no = [{"role": "assistant", "content": "a"}], [{"role": "assistant", "content": "x y"}]
    earlier = [*said, {"role": "assistant", "content": "é"}, {"role": "user", "content": "x"}]
    rows = [
        {"messages": [*said, *yes]},
        {"text": "hello there"},
        {"prompt": earlier, "chosen": yes, "rejected": no},
        {"prompt": earlier, "completion": no, "label": False},
        {"prompt": earlier},
    ]
    found = encoder(tokenizer).encode(rows)
    says = [[trained(tokenizer, sequence) for sequence in row.sequences] for row in found]
    end = "<|im_end|>"
    assert says == [[f"a{end}"], [f"hello there{end}"], [f"a{end}", f"x y{end}"], [f"x y{end}"], [""]]
    assert tokenizer.decode(found[4].sequences[0].ids).endswith("<|im_start|>assistant\n")
    facts = encoder(tokenizer).facts(found)
    assert facts["ends"].tolist() == [True, True, True, True, False]
    assert facts["longest"].tolist() == [max(len(s.ids) for s in row.sequences) for row in found]
    assert facts["trained"].tolist() == [sum(sum(s.mask) for s in row.sequences) for row in found]


def test_rows_that_the_template_refuses(tokenizer: Any) -> None:
    """A row that the chat template refuses says so in the template's words; the others are encoded (B22)."""
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ m.role + m.content + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}"
    )
    good = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "x"}]
    rows = [{"messages": good}, {"messages": [{"role": "system", "content": "y"}, *good]}, {"messages": good}]
    first, refused, last = encoder(tokenizer).encode(rows)
    assert first == last
    assert first.sequences
    assert refused.sequences == ()
    assert "no system role" in str(refused.error)


@pytest.mark.parametrize(
    ("template", "source"),
    [
        (tiny.CHAT_TEMPLATE, "difference"),
        (QWEN, "trl"),
        (chat_template_utils.qwen2_5_training_chat_template, "own"),
    ],
)
def test_where_the_mask_comes_from(template: str, source: str) -> None:
    """The model's own tags tell; else TRL's training template, where it knows one; else what is appended (B22)."""
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    made = encoder(tokenizer)
    conversation = [
        {"role": "system", "content": "s"},
        *[{"role": r, "content": f"{r}!"} for r in ("user", "assistant") * 2],
    ]
    (row,) = made.encode([{"messages": conversation}])
    assert made.template.source == source
    assert trained(tokenizer, row.sequences[0]) == "assistant!<|im_end|>assistant!<|im_end|>"
    facts = made.template_facts()
    assert facts is not None
    assert facts["sha256"] == Template(tokenizer).sha256


def test_a_template_that_rewrites_is_refused() -> None:
    """Without tags, a template that changes earlier turns has no span to train on, and says so."""
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{{ messages | length }}" + tiny.CHAT_TEMPLATE
    (row,) = encoder(tokenizer).encode([{"messages": tiny.conversation(1)}])
    assert "rewrites earlier turns" in str(row.error)
    with pytest.raises(DataError, match="rewrites earlier turns"):
        encode_chat(tokenizer, tiny.conversation(1))


def test_no_template(tokenizer: Any) -> None:
    """A tokenizer without a chat template is one clear error for conversations, and none for plain text."""
    tokenizer.chat_template = None
    made = encoder(tokenizer)
    assert made.encode([{"text": "a"}])[0].sequences
    (row,) = made.encode([{"messages": tiny.conversation(1)}])
    assert "no chat template; choose an instruct model" in str(row.error)


def test_tokens_that_end_a_turn(tmp_path: Path) -> None:
    """Generation stops at the tokenizer's end token and at those that the model's own files name (gemma: two)."""
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 106]}))
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 1}))
    assert turn_ends(tiny.tokenizer(), tmp_path) == {2, 1, 106}


@pytest.mark.parametrize("setting", ["truncation", "padding"])
def test_settings_of_the_tokenizer_file_do_not_touch_rows(tokenizer: Any, setting: str) -> None:
    """A `tokenizer.json` that asks for truncation or padding cuts no row and fills none (B22)."""
    rows = [{"messages": tiny.conversation(n)} for n in range(5)]
    expected = encoder(tokenizer).encode(rows)
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(max_length=9) if setting == "truncation" else backend.enable_padding(length=300)
    assert encoder(tokenizer).encode(rows) == expected
    assert (encode_chat(tokenizer, tiny.conversation(0)),) == expected[0].sequences
