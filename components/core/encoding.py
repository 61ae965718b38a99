"""Rows -> token ids, what of them is trained on, and the facts that token rules look at, many rows at once.

`Encoder(tokenizer, ends).encode(rows)`; `encode_chat` in `components.core.chat` does the same for one conversation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from components.core.chat import Encoded, Message, Span, Template, token_spans, whole_backend
from components.core.errors import DataError
from components.core.frames import Frame, Frames
from components.core.segments import Cut, Cutter, Unplaced

PAIR = ("chosen", "rejected")
KEPT = 4096
PLACED: list[int] = []
PLAIN: list[int] = []
"""Marks of what is still to be tokenised: with the places of its tokens, or without, which is faster."""


class EncodedRow(NamedTuple):
    """The sequences of one row: one, or of a preference pair the chosen and the rejected one; or why there are none."""

    sequences: tuple[Encoded, ...]
    error: str | None = None


class _Job(NamedTuple):
    """One sequence on its way: whole, or in pieces whose ids are given, or to come (`PLACED`, `PLAIN`)."""

    cut: Cut | None
    spans: list[Span]
    given: list[list[int]]
    messages: Sequence[Message]
    earlier: int


class _Work:
    """Texts of many rows, tokenised in two calls."""

    def __init__(self, backend: Any, known: dict[str, list[int]]) -> None:
        self.backend, self.known = backend, known
        self.placed: list[str] = []
        self.plain: list[str] = []

    def whole(self, text: str, spans: list[Span]) -> _Job:
        self.placed.append(text)
        return _Job(None, spans, [], (), 0)

    def pieces(self, cut: Cut, messages: Sequence[Message], earlier: int) -> _Job:
        given = []
        for piece, text in cut.texts([message["content"] for message in messages]):
            if piece.opens:
                self.placed.append(text)
                given.append(PLACED)
            elif messages[piece.slot]["role"] == "system":
                given.append(self._remembered(text))
            else:
                self.plain.append(text)
                given.append(PLAIN)
        return _Job(cut, [], given, messages, earlier)

    def _remembered(self, text: str) -> list[int]:
        """Many rows have the same system message."""
        if text not in self.known:
            if len(self.known) > KEPT:
                self.known.clear()
            self.known[text] = self.backend.encode(text, add_special_tokens=False).ids
        return self.known[text]

    def done(self) -> tuple[Iterator[Any], Iterator[Any]]:
        placed = self.backend.encode_batch(self.placed, add_special_tokens=False) if self.placed else []
        plain = self.backend.encode_batch_fast(self.plain, add_special_tokens=False) if self.plain else []
        return iter(placed), iter(plain)


class Encoder:
    """Encodes rows of any shape with one tokenizer. `ends`: ids of the tokens that end a turn."""

    def __init__(self, tokenizer: Any, ends: frozenset[int]) -> None:
        self.tokenizer, self.ends = tokenizer, ends
        self.backend = whole_backend(tokenizer)
        self._cuts: dict[Frame, Cut | None] = {}
        self._systems: dict[str, list[int]] = {}

    @cached_property
    def template(self) -> Template:
        return Template(self.tokenizer)

    def template_facts(self) -> dict[str, str] | None:
        """Which chat template the rows went through, if they went through one."""
        return self.template.facts() if "template" in vars(self) else None

    @cached_property
    def _frames(self) -> Frames:
        return Frames(self.template)

    @cached_property
    def _cutter(self) -> Cutter:
        return Cutter(self.backend)

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> list[EncodedRow]:
        """One result a row, in order."""
        work = _Work(self.backend, self._systems)
        jobs: list[list[_Job] | str] = []
        for row in rows:
            try:
                jobs.append([self._job(row, name, work) for name in _sequences(row)])
            except DataError as error:
                jobs.append(str(error))
        placed, plain = work.done()
        return [EncodedRow((), job) if isinstance(job, str) else self._row(job, placed, plain) for job in jobs]

    def _job(self, row: Mapping[str, Any], name: str, work: _Work) -> _Job:
        """What has to be tokenised for one sequence of a row."""
        if name == "text":
            # a document ends where the next one may begin; the model has to learn that as well
            text = row["text"] + (self.tokenizer.eos_token or "")
            return work.whole(text, [(0, len(text))])
        tools = row.get("tools")
        if name == "prompt":
            return work.whole(self.template.render(row["prompt"], reply=True, tools=tools), [])
        prompt: list[Message] = [] if name == "messages" else row["prompt"]
        messages = [*prompt, *row[name]]
        earlier = sum([message["role"] == "assistant" for message in prompt])
        frame = self._frames.find(messages, tools)
        cut = self._cut(frame) if frame else None
        if cut is None:
            text, spans = self._frames.spans(messages, tools)
            return work.whole(text, spans[earlier:])
        return work.pieces(cut, messages, earlier)

    def _cut(self, frame: Frame) -> Cut | None:
        if frame not in self._cuts:
            if len(self._cuts) > KEPT:  # conversations of any length: forget rather than grow
                self._cuts.clear()
            self._cuts[frame] = self._cutter.cut(frame)
        return self._cuts[frame]

    def _row(self, jobs: Sequence[_Job], placed: Iterator[Any], plain: Iterator[Any]) -> EncodedRow:
        return EncodedRow(tuple([self._result(job, placed, plain) for job in jobs]))

    def _result(self, job: _Job, placed: Iterator[Any], plain: Iterator[Any]) -> Encoded:
        if job.cut is None:
            encoding = next(placed)
            return Encoded(encoding.ids, _inside(encoding, job.spans))
        pieces = [next(placed) if ids is PLACED else next(plain).ids if ids is PLAIN else ids for ids in job.given]
        try:
            encoded = job.cut.assemble(iter(pieces))
        except Unplaced:
            text, spans = self._frames.spans(job.messages)
            encoding = self.backend.encode(text, add_special_tokens=False)
            encoded = Encoded(encoding.ids, _inside(encoding, spans))
        return Encoded(encoded.ids, encoded.spans[job.earlier :]) if job.earlier else encoded

    def facts(self, encoded: Sequence[EncodedRow]) -> dict[str, Any]:
        """By row: `tokens` and `trained` of all its sequences, `longest` of them, whether each `ends`, and is `silent`
        (nothing of it trained), and `unknown` tokens. Numpy arrays."""
        import numpy as np

        sequences = [sequence for row in encoded for sequence in row.sequences]
        counts = np.array([len(row.sequences) for row in encoded], dtype=np.int64)
        some = counts > 0
        first = (np.cumsum(counts) - counts)[some]

        def by_row(values: list[int], combined: Any) -> Any:
            found = np.zeros(len(encoded), dtype=np.int64)
            if values:
                found[some] = combined.reduceat(np.array(values, dtype=np.int64), first)
            return found

        lengths, trained = [len(sequence.ids) for sequence in sequences], [_trained(s) for s in sequences]
        return {
            "tokens": by_row(lengths, np.add),
            "longest": by_row(lengths, np.maximum),
            "trained": by_row(trained, np.add),
            "silent": by_row(trained, np.minimum) == 0,
            "unknown": by_row([self._unknown(sequence) for sequence in sequences], np.add),
            "ends": by_row([self._ends(sequence) for sequence in sequences], np.minimum) == 1,
        }

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
