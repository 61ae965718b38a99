"""A byte-level BPE tokenizer in GGUF's terms, written and read back.

llama.cpp splits text with expressions of its own, which it knows by a name (`tokenizer.ggml.pre`). A tokenizer whose
splitting has no such name would give other tokens there, so it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from components.compression.closeness import TEXTS
from components.core.errors import ArtifactError, ModelLoadError

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Types of token, as GGUF numbers them."""
Part = tuple[str, Any]
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITTINGS: Mapping[str, tuple[Part, ...]] = {
    "gpt-2": (("ByteLevel", True),),
    "smollm": (("Digits", True), ("ByteLevel", True)),
    "qwen2": (("Split", _WORDS + r"\p{N}" + _REST), ("ByteLevel", False)),
    "llama-bpe": (("Split", _WORDS + r"\p{N}{1,3}" + _REST), ("ByteLevel", False)),
}
"""Splitting by llama.cpp's name for it (src/llama-vocab.cpp), in the terms of the `tokenizers` library."""
WHOLE_WORDS = ("llama-bpe",)
"""Those that take a word that is a token as it is, without merging up to it."""


def description_of(tokenizer: Any) -> dict[str, Any]:
    """The tokenizer's own JSON; a ModelLoadError if it is not one that GGUF has as "gpt2"."""
    core: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = core["model"]["type"]
    if kind != "BPE" or core["model"].get("byte_fallback") or "ByteLevel" not in dict(_parts(core["pre_tokenizer"])):
        raise ModelLoadError(f"the tokenizer ({kind}) is no byte-level BPE, the only kind that the gguf pass writes")
    normalizer = (core.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):  # llama.cpp leaves NFC out for every model that has it
        raise ModelLoadError(f"the tokenizer normalizes text ({normalizer}), which llama.cpp would not do")
    return core


def _parts(splitter: Mapping[str, Any] | None) -> Iterator[Part]:
    if splitter is None:
        return
    kind = splitter["type"]
    if kind == "Sequence":
        for part in splitter["pretokenizers"]:
            yield from _parts(part)
    elif kind == "ByteLevel":
        yield kind, "with a space in front" if splitter["add_prefix_space"] else splitter["use_regex"]
    elif kind == "Split":
        yield kind, splitter["pattern"].get("Regex")
    else:
        yield kind, splitter.get("individual_digits")


def splitting_name(core: Mapping[str, Any]) -> str:
    """llama.cpp's name for how the tokenizer splits text; a ModelLoadError if it has none."""
    found = tuple(_parts(core["pre_tokenizer"]))
    if not core["model"]["merges"]:
        return "gpt-2"  # every byte stays alone, however the text is split
    for name, parts in SPLITTINGS.items():
        if parts == found:
            return name
    raise ModelLoadError(
        f"llama.cpp has no name that we know for how the tokenizer splits text ({found}); "
        f"known: {', '.join(SPLITTINGS)}"
    )


def write_tokenizer(writer: Any, tokenizer: Any, size: int) -> None:
    """Tokens, merges and special tokens; `size`: rows of the embedding, of which some may belong to no token."""
    core = description_of(tokenizer)
    tokens, types = _tokens(core, size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting_name(core))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in core["model"]["merges"]])
    for name in ("bos", "eos", "pad", "unk"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(begins_with_bos(tokenizer))
    writer.add_add_space_prefix(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def begins_with_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its first token before every text."""
    return tokenizer.bos_token_id is not None and tokenizer("a").input_ids[0] == tokenizer.bos_token_id


def _tokens(core: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    tokens, types = [f"[PAD{number}]" for number in range(size)], [UNUSED] * size
    for text, number in core["model"]["vocab"].items():
        tokens[number], types[number] = text, NORMAL
    for added in core["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    return tokens, types


def read_tokenizer(reader: Any) -> Any:
    """A `tokenizers.Tokenizer` from the fields of an open file alone, splitting as llama.cpp does under that name."""
    from tokenizers import AddedToken, Tokenizer, decoders, models

    fields = {name: field.contents() for name, field in reader.fields.items() if name.startswith("tokenizer.")}
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    name = fields["tokenizer.ggml.pre"]
    vocab = {text: number for number, text in enumerate(tokens) if types[number] != UNUSED}
    merges = [tuple(pair.split(" ")) for pair in fields.get("tokenizer.ggml.merges", [])]
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=name in WHOLE_WORDS))
    core.pre_tokenizer = _splitter(SPLITTINGS[name])
    core.decoder = decoders.ByteLevel()
    added = [number for number, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED)]
    core.add_tokens([AddedToken(tokens[n], special=types[n] == CONTROL, normalized=False) for n in added])
    return core


def _splitter(parts: tuple[Part, ...]) -> Any:
    from tokenizers import Regex, pre_tokenizers

    made: dict[str, Any] = {
        "ByteLevel": lambda regex: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex),
        "Digits": lambda individual: pre_tokenizers.Digits(individual_digits=individual),
        "Split": lambda regex: pre_tokenizers.Split(Regex(regex), behavior="isolated"),
    }
    return pre_tokenizers.Sequence([made[kind](argument) for kind, argument in parts])


def check_tokenizer(reader: Any, tokenizer: Any) -> int:
    """Compare the written tokenizer with its source on fixed texts, every special token among them; returns tokens."""
    written, own = read_tokenizer(reader), tokenizer.backend_tokenizer
    special = " ".join(token.content for token in tokenizer.added_tokens_decoder.values())
    compared = 0
    for text in (*TEXTS, special):
        expected = own.encode(text, add_special_tokens=False).ids
        found = written.encode(text, add_special_tokens=False).ids
        if found != expected:
            raise ArtifactError(f"the tokenizer in the GGUF file reads {text!r} as {found}, its source as {expected}")
        compared += len(expected)
    return compared
