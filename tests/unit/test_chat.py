"""Chat templates: token ids, and the mask that says which tokens carry loss."""

from __future__ import annotations

from typing import Any

import pytest

from components.core.chat import encode_chat, encode_prompt, render
from components.core.errors import DataError
from tests import tiny

LONG = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Où est ma commande n° 5 ? 🚚"},
    {"role": "assistant", "content": "Là-bas."},
    {"role": "user", "content": "Danke"},
    {"role": "assistant", "content": "  Bitte! 👍"},
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.tokenizer()


def trained_text(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """The text of all tokens that carry loss."""
    encoded = encode_chat(tokenizer, messages)
    return tokenizer.decode([token for token, on in zip(encoded.ids, encoded.mask, strict=True) if on])


def test_mask_covers_the_answer_and_its_end(tokenizer: Any) -> None:
    """Exactly the assistant's text and its end-of-turn token carry loss, nothing of the prompt or the newline (E14)."""
    messages = tiny.conversation(3)
    assert trained_text(tokenizer, messages) == messages[-1]["content"] + "<|im_end|>"


def test_every_turn_of_the_assistant(tokenizer: Any) -> None:
    """In a longer conversation every assistant turn carries loss, characters of several bytes included."""
    assert trained_text(tokenizer, LONG) == "Là-bas.<|im_end|>  Bitte! 👍<|im_end|>"


def test_no_assistant_no_loss(tokenizer: Any) -> None:
    """Without an assistant turn no token carries loss."""
    assert not any(encode_chat(tokenizer, LONG[:2]).mask)


def test_labels(tokenizer: Any) -> None:
    """Labels are the ids where the mask is on, and -100 elsewhere."""
    encoded = encode_chat(tokenizer, tiny.conversation(1))
    assert [label != -100 for label in encoded.labels()] == encoded.mask
    assert all(label in (-100, token) for label, token in zip(encoded.labels(), encoded.ids, strict=True))


def test_ids_are_those_of_the_text(tokenizer: Any) -> None:
    """Encoding adds nothing to the template's text: decoding gives it back."""
    assert tokenizer.decode(encode_chat(tokenizer, LONG).ids) == render(tokenizer, LONG)


def test_prompt_ends_where_the_answer_begins(tokenizer: Any) -> None:
    """The prompt for generation is the beginning of the training text, up to the first trained token."""
    messages = tiny.conversation(2)
    encoded, prompt = encode_chat(tokenizer, messages), encode_prompt(tokenizer, messages)
    assert prompt == encoded.ids[: encoded.mask.index(True)]
    assert encode_prompt(tokenizer, messages[:-1]) == prompt


def test_template_that_rewrites_is_refused(tokenizer: Any) -> None:
    """A template that changes earlier turns when one is added is refused: its spans cannot be told."""
    rewriting = tiny.tokenizer()
    rewriting.chat_template = (
        "{% for m in messages %}{% if loop.last or m['role'] != 'assistant' %}<|im_start|>{{ m['role'] }}\n"
        "{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(DataError, match="rewrites earlier turns"):
        encode_chat(rewriting, LONG)


def test_template_with_another_opening_is_refused() -> None:
    """A template whose opening for an answer is not how it writes answers is refused."""
    odd = tiny.tokenizer()
    odd.chat_template = tiny.CHAT_TEMPLATE.replace("assistant\\n' }}{% endif %}", "assistant\\n<think>' }}{% endif %}")
    with pytest.raises(DataError, match="rewrites earlier turns"):
        encode_chat(odd, LONG)


def test_no_template() -> None:
    """A tokenizer without a chat template is refused with a remedy."""
    plain = tiny.tokenizer()
    plain.chat_template = None
    with pytest.raises(DataError, match="no chat template; choose an instruct model"):
        encode_prompt(plain, tiny.conversation(0))
