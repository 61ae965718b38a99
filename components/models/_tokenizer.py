"""Tokenizers of new models: byte-level BPE trained on text files, or one that a directory holds.

The same text gives the same tokenizer, byte for byte. No text is unknown to it: every byte is a token.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from components.core.artifacts import hash_file
from components.core.component import StrictConfig
from components.core.errors import DataError, ModelLoadError

PAD, TURN, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
"""Padding; the beginning of a turn; the end of a turn, which is that of a text as well."""
SMALLEST = 256 + 3
BLOCK = 1 << 20
"""Characters that are read at once."""
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
GIVEN = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


class NewTokenizer(StrictConfig):
    """A byte-level BPE tokenizer, trained on text, with the ChatML template."""

    train_on: list[str] = Field(
        min_length=1, description="files or patterns of UTF-8 text; of .jsonl every text in a row"
    )
    vocab_size: int = Field(4096, ge=SMALLEST, description="tokens, with the 256 bytes and 3 special ones")


class TokenIds(NamedTuple):
    """What a network has to know of its tokenizer."""

    size: int
    bos: int | None
    eos: int
    pad: int


def ids_of(tokenizer: Any) -> TokenIds:
    """Size of the vocabulary and ids of the special tokens."""
    size = max(tokenizer.get_vocab().values()) + 1
    return TokenIds(size, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)


# ---------------------------------------------------------------- trained


def text_files(config: NewTokenizer) -> list[Path]:
    """The files to train on, each once; a DataError for a pattern that matches none."""
    found: dict[Path, None] = {}
    for pattern in config.train_on:
        files = sorted(file for name in glob.glob(pattern, recursive=True) if (file := Path(name)).is_file())
        if not files:
            raise DataError(f"model.tokenizer.train_on: no file matches '{pattern}'")
        found |= dict.fromkeys(files)
    return list(found)


def train(config: NewTokenizer) -> Any:
    """A tokenizer of exactly `vocab_size` tokens; a DataError where the text does not give so many."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[PAD, TURN, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # in the order of their content, so that names and places do not matter
    core.train_from_iterator(_texts(sorted(text_files(config), key=hash_file)), trainer)
    if core.get_vocab_size() < config.vocab_size:
        raise DataError(
            f"model.tokenizer: the text gives only {core.get_vocab_size():,} tokens, vocab_size={config.vocab_size}; "
            "lower it, or train on more text"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=TURN,
        eos_token=END,
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )


def _texts(files: list[Path]) -> Iterator[str]:
    for file in files:
        try:
            with file.open(encoding="utf-8", newline="") as handle:
                while lines := handle.readlines(BLOCK):
                    yield from _spoken(lines) if file.suffix == ".jsonl" else ["".join(lines)]
        except ValueError as error:
            kind = "JSON Lines" if file.suffix == ".jsonl" else "UTF-8 text"
            raise DataError(f"model.tokenizer.train_on: '{file}' is not {kind}: {error}") from error


def _spoken(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if line.strip():
            yield from _strings(json.loads(line))


def _strings(value: Any) -> Iterator[str]:
    """Every text inside a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


# ---------------------------------------------------------------- given


def given_tokenizer(directory: Path) -> Any:
    """The tokenizer of a directory, read from its JSON alone: no loader that could run the directory's code."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    try:
        core = Tokenizer.from_file(str(directory / GIVEN[0]))
    except Exception as error:  # the binding raises bare Exception
        raise ModelLoadError(f"'{directory}' has no usable tokenizer.json: {error}") from error
    settings = {**_json(directory / GIVEN[2]), **_json(directory / GIVEN[1])}
    special = {
        name: _content(settings[name])
        for name in ("bos_token", "eos_token", "pad_token", "unk_token")
        if settings.get(name)
    }
    if "eos_token" not in special:
        raise ModelLoadError(f"the tokenizer in '{directory}' names no eos_token, so no text would ever end")
    template = directory / GIVEN[3]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        **special,
        chat_template=template.read_text(encoding="utf-8") if template.is_file() else settings.get("chat_template"),
        clean_up_tokenization_spaces=False,
    )
    if special.get("pad_token") in (None, special["eos_token"]):
        # padding with the end of a text makes a runtime mask real ends away
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    return tokenizer


def _json(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise ModelLoadError(f"'{file}' is not JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _content(token: Any) -> str:
    """`"</s>"`, or `{"content": "</s>", ...}` as older files write it."""
    return str(token["content"] if isinstance(token, dict) else token)
