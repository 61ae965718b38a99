"""Tokenising only what differs from row to row: a frame is cut at its special tokens, what is fixed is encoded once.

A tokenizer takes special tokens out of a text before it does anything else, so what stands between two of them has the
same tokens whatever surrounds it. A third of a short chat row is the template's own text, and the system message is
often the same in every row; neither is encoded again. `Cutter.cut` gives None where this does not hold (special tokens
that swallow spaces, tokenizers that look at what stands before), and rows are encoded whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from components.core.chat import Encoded, Span
from components.core.frames import Frame

Place = tuple[int, int]
"""Messages before it, characters of fixed text before it."""


class Unplaced(Exception):
    """Where training begins falls into a character that the tokenizer dropped; the row is encoded whole."""


@dataclass(frozen=True)
class Piece:
    """What stands between two special tokens (or one itself): fixed tokens, or a message between fixed texts."""

    text: str
    start: Place
    end: Place
    slot: int = -1
    after: str = ""
    ids: tuple[int, ...] = ()
    opens: bool = False
    """Training begins here: at the message if there is one, else at the start."""
    closes: bool = False
    """Training ends with it."""


@dataclass(frozen=True)
class Cut:
    """How conversations with one sequence of roles are encoded, piece by piece."""

    pieces: tuple[Piece, ...]
    stripped: tuple[bool, ...]

    def texts(self, contents: Sequence[str]) -> Iterator[tuple[Piece, str]]:
        """What has to be tokenised, in order: the pieces with a message, and their text."""
        for piece in self.pieces:
            if piece.slot >= 0:
                content = contents[piece.slot]
                content = content.strip() if self.stripped[piece.slot] else content
                yield piece, piece.text + content + piece.after

    def assemble(self, found: Iterator[Any]) -> Encoded:
        """The whole conversation from what became of its texts, in order: ids, or an encoding where training begins."""
        ids: list[int] = []
        spans: list[Span] = []
        begun = 0
        for piece in self.pieces:
            if piece.slot < 0:
                begun = len(ids) if piece.opens else begun
                ids += piece.ids
            elif piece.opens:
                encoding = next(found)
                begun = len(ids) + _first(encoding, len(piece.text))
                ids += encoding.ids
            else:
                ids += next(found)
            if piece.closes and begun < len(ids):
                spans.append((begun, len(ids)))
        return Encoded(ids, spans)


def _first(encoding: Any, place: int) -> int:
    """The first token that begins at this character or after it."""
    if place == 0 or not len(encoding):
        return 0
    token: int | None = encoding.char_to_token(place)
    if token is None:
        if encoding.token_to_chars(len(encoding) - 1)[1] <= place:
            return len(encoding)
        raise Unplaced
    return token if encoding.token_to_chars(token)[0] >= place else token + 1


class Cutter:
    """Knows where one tokenizer's special tokens stand, and whether text may be cut there."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        core = json.loads(self.backend.to_str())
        self._tokens = [token["content"] for token in core["added_tokens"]]
        options = ("lstrip", "rstrip", "single_word", "normalized")
        plain = not any(token[option] for token in core["added_tokens"] for option in options)
        self._usable = bool(self._tokens) and plain and _forgets(core)
        self._pattern = re.compile("|".join(map(re.escape, sorted(self._tokens, key=len, reverse=True))))

    def cut(self, frame: Frame) -> Cut | None:
        """The frame in pieces, or None if it has to be encoded whole."""
        pieces = list(self._pieces(frame)) if self._usable else []
        marked = _mark(pieces, frame.edges) if pieces and all(piece.slot != MANY for piece in pieces) else None
        specials = [piece.text for piece in pieces if piece.text in self._tokens]
        if marked is None or self._entangled(specials):
            return None
        return Cut(tuple(self._encoded(piece) for piece in marked), frame.stripped)

    def _pieces(self, frame: Frame) -> Iterator[Piece]:
        """The frame's text between its special tokens, and the special tokens themselves, in order."""
        fixed, texts, slots = 0, [""], list[int]()
        start: Place = (0, 0)
        for message, text in enumerate(frame.pieces):
            last = 0
            for special in self._pattern.finditer(text):
                texts[-1] += text[last : special.start()]
                middle = (message, fixed + special.start())
                yield from _run(texts, slots, start, middle)
                start = (message, fixed + special.end())
                yield Piece(special.group(), middle, start)
                last, texts, slots = special.end(), [""], []
            texts[-1] += text[last:]
            fixed += len(text)
            if message < len(frame.pieces) - 1:
                slots.append(message)
                texts.append("")
        yield from _run(texts, slots, start, (len(frame.pieces) - 1, fixed))

    def _entangled(self, specials: Sequence[str]) -> bool:
        """Whether a special token of the frame may be read otherwise, with characters of a message beside it."""
        return any(
            (token != special and token.startswith(special))
            or any(token[k:].startswith(special) or special.startswith(token[k:]) for k in range(1, len(token)))
            for special in set(specials)
            for token in self._tokens
        )

    def _encoded(self, piece: Piece) -> Piece:
        if piece.slot >= 0:
            return piece
        return replace(piece, ids=tuple(self.backend.encode(piece.text, add_special_tokens=False).ids))


MANY = 1 << 30


def _run(texts: Sequence[str], slots: Sequence[int], start: Place, end: Place) -> Iterator[Piece]:
    """What stands between two special tokens, if anything does."""
    if len(slots) > 1:
        yield Piece("", start, end, slot=MANY)
    elif slots:
        yield Piece(texts[0], start, end, slot=slots[0], after=texts[1])
    elif texts[0]:
        yield Piece(texts[0], start, end)


def _mark(pieces: Sequence[Piece], edges: Sequence[Place]) -> list[Piece] | None:
    """The pieces with where training begins and ends; None if that is inside one."""
    opens, closes = set(edges[::2]), set(edges[1::2])
    marked = []
    for piece in pieces:
        # with a message in it, training may begin at the message, right after the fixed text before it
        begins = (piece.start[0], piece.start[1] + len(piece.text)) if piece.slot >= 0 else piece.start
        marked.append(replace(piece, opens=begins in opens, closes=piece.end in closes))
    whole = sum(piece.opens for piece in marked) == len(opens) and sum(piece.closes for piece in marked) == len(closes)
    return marked if whole else None


def _forgets(core: dict[str, Any]) -> bool:
    """Whether what becomes of a text does not hang on what stands before it: byte-level BPE without a prefix."""
    step = core["pre_tokenizer"] or {}
    steps = step.get("pretokenizers", [step])
    known = all(step.get("type") in ("ByteLevel", "Split", "Digits") for step in steps)
    prefix = any(step.get("add_prefix_space") for step in steps)
    normalizer = (core["normalizer"] or {"type": "NFC"})["type"]
    return core["model"]["type"] == "BPE" and known and not prefix and normalizer == "NFC"
