"""Rows -> token ids, what of them is trained on, and the facts that token rules look at, many rows at once.

`Encoder(tokenizer, ends).encode(rows)`; `encode_chat` in `components.core.chat` does the same for one conversation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from components.core.chat import Encoded, Message, Span, Template, token_spans
from components.core.errors import DataError
from components.core.frames import Frames

PAIR = ("chosen", "rejected")


@dataclass(frozen=True)
class EncodedRow:
    """The sequences of one row: one, or of a preference pair the chosen and the rejected one; or why there are none."""

    sequences: tuple[Encoded, ...]
    error: str | None = None


class Encoder:
    """Encodes rows of any shape with one tokenizer. `ends`: ids of the tokens that end a turn."""

    def __init__(self, tokenizer: Any, ends: frozenset[int]) -> None:
        self.tokenizer, self.ends = tokenizer, ends

    @cached_property
    def template(self) -> Template:
        return Template(self.tokenizer)

    def template_facts(self) -> dict[str, str] | None:
        """Which chat template the rows went through, if they went through one."""
        return self.template.facts() if "template" in vars(self) else None

    @cached_property
    def _frames(self) -> Frames:
        return Frames(self.template)

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> list[EncodedRow]:
        """One result a row, in order."""
        texts: list[str] = []
        spans: list[list[Span]] = []
        outcomes: list[int | str] = []
        for row in rows:
            try:
                found = [self._text(row, name) for name in _sequences(row)]
            except DataError as error:
                outcomes.append(str(error))
                continue
            outcomes.append(len(found))
            for text, marks in found:
                texts.append(text)
                spans.append(marks)
        encoded = iter(self._tokenised(texts, spans))
        return [
            EncodedRow((), outcome)
            if isinstance(outcome, str)
            else EncodedRow(tuple(next(encoded) for _ in range(outcome)))
            for outcome in outcomes
        ]

    def facts(self, encoded: Sequence[EncodedRow]) -> dict[str, Any]:
        """By row: `tokens` and `trained` of all its sequences, `longest` of them, whether each `ends`, and is `silent`
        (nothing of it trained), and `unknown` tokens. Numpy arrays."""
        import numpy as np

        sequences = [row.sequences for row in encoded]
        lengths = [[len(sequence.ids) for sequence in row] for row in sequences]
        trained = [[_trained(sequence) for sequence in row] for row in sequences]
        return {
            "tokens": np.array([sum(row) for row in lengths], dtype=np.int64),
            "longest": np.array([max(row, default=0) for row in lengths], dtype=np.int64),
            "trained": np.array([sum(row) for row in trained], dtype=np.int64),
            "silent": np.array([not all(row) for row in trained], dtype=bool),
            "unknown": np.array([sum(map(self._unknown, row)) for row in sequences], dtype=np.int64),
            "ends": np.array([all(map(self._ends, row)) for row in sequences], dtype=bool),
        }

    def _text(self, row: Mapping[str, Any], name: str) -> tuple[str, list[Span]]:
        """The text of one sequence, and the characters of it that are trained on."""
        if name == "text":
            # a document ends where the next one may begin; the model has to learn that as well
            text = row["text"] + (self.tokenizer.eos_token or "")
            return text, [(0, len(text))]
        if name == "messages":
            return self._frames.spans(row["messages"], row.get("tools"))
        prompt: list[Message] = row["prompt"]
        if name == "prompt":
            return self.template.render(prompt, reply=True, tools=row.get("tools")), []
        text, spans = self._frames.spans([*prompt, *row[name]], row.get("tools"))
        earlier = sum(message["role"] == "assistant" for message in prompt)
        return text, spans[earlier:]

    def _tokenised(self, texts: list[str], spans: list[list[Span]]) -> list[Encoded]:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise DataError("the model's tokenizer has no fast form (tokenizer.json), which the loss mask needs")
        found = backend.encode_batch(texts, add_special_tokens=False) if texts else []
        return [Encoded(one.ids, _inside(one, marks)) for one, marks in zip(found, spans, strict=True)]

    def _unknown(self, sequence: Encoded) -> int:
        return 0 if self._unknown_id is None else sequence.ids.count(self._unknown_id)

    @cached_property
    def _unknown_id(self) -> int | None:
        # a tokenizer may use its end of text as the unknown token, which then says nothing
        unknown: int | None = self.tokenizer.unk_token_id
        return None if unknown in self.ends else unknown

    def _ends(self, sequence: Encoded) -> bool:
        return bool(sequence.spans) and sequence.ids[sequence.spans[-1][1] - 1] in self.ends


def turn_ends(tokenizer: Any, model: Path) -> frozenset[int]:
    """Ids that end a turn: the tokenizer's end token, and those that generation stops at."""
    ends = {tokenizer.eos_token_id}
    for name in ("generation_config.json", "config.json"):
        if (model / name).is_file():
            found = json.loads((model / name).read_text(encoding="utf-8")).get("eos_token_id")
            ends |= set(found) if isinstance(found, list) else {found}
    return frozenset(ends - {None})


def _sequences(row: Mapping[str, Any]) -> tuple[str, ...]:
    for name in ("messages", "text", "completion"):
        if name in row:
            return (name,)
    return PAIR if "chosen" in row else ("prompt",)


def _trained(sequence: Encoded) -> int:
    return sum(end - first for first, end in sequence.spans)


def _inside(encoded: Any, spans: Sequence[Span]) -> list[Span]:
    """As `token_spans`, without listing the offsets of every token, which takes a third as long as tokenising."""
    found: list[Span] = []
    for a, b in spans:
        span = _span(encoded, a, b) if a < b else None
        if span is None:
            return token_spans(encoded.offsets, spans)
        if found and found[-1][1] == span[0]:
            return token_spans(encoded.offsets, spans)
        found.append(span)
    return found


def _span(encoded: Any, a: int, b: int) -> Span | None:
    """Tokens of the characters from a to b if it begins and ends with a token, else None."""
    first, last = encoded.char_to_token(a), encoded.char_to_token(b - 1)
    if first is None or last is None:
        return None
    begins, ends = encoded.token_to_chars(first), encoded.token_to_chars(last)
    whole = begins[0] == a and ends[0] < ends[1] == b
    return (first, last + 1) if whole and _alone(encoded, last) else None


def _alone(encoded: Any, token: int) -> bool:
    """Whether no later token stands for the same character, as the bytes of a rare one do."""
    return token + 1 >= len(encoded) or encoded.token_to_chars(token + 1) != encoded.token_to_chars(token)
