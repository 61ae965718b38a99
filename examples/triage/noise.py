"""Human sloppiness: typos, lower case, lost punctuation.

Values the record copies are protected and key words stay readable, so noise never
changes a label.  Try::

    python -c "from random import Random; from examples.triage.noise import roughen; \
print(roughen('Good morning, where is my parcel?', [], Random(3)))"
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

from .anchors import WORDS

WORD = re.compile(r"(?<![\w'@-])[a-z]{5,}(?![\w'@-])")


def roughen(text: str, protected: list[str], rng: Random) -> str:
    """Apply one or two small accidents to the text between protected values."""
    pieces = _split(text, protected)
    accidents = rng.choices((_swap, _drop, _double, _lower, _no_apostrophe), (5, 4, 2, 3, 2), k=2)
    for accident in accidents[: rng.choice((1, 1, 2))]:
        accident(pieces, rng)
    joined = "".join(pieces)
    return joined[:-1] if joined.endswith(".") and rng.random() < 0.4 else joined


def _split(text: str, protected: list[str]) -> list[str]:
    """Cut into free text (even positions) and protected values (odd positions)."""
    if not protected:
        return [text]
    longest_first = sorted(dict.fromkeys(protected), key=lambda value: (-len(value), value))
    return re.split(f"({'|'.join(map(re.escape, longest_first))})", text, flags=re.IGNORECASE)


def _edit_word(pieces: list[str], rng: Random, edit: Callable[[str, int], str]) -> None:
    """Change one random long word; its first letter stays, as it does in real typos."""
    spots = [
        (index, match)
        for index in range(0, len(pieces), 2)
        for match in WORD.finditer(pieces[index])
        if not WORDS.fullmatch(match.group())
    ]
    if not spots:
        return
    index, match = rng.choice(spots)
    word = edit(match.group(), rng.randint(1, len(match.group()) - 2))
    pieces[index] = pieces[index][: match.start()] + word + pieces[index][match.end() :]


def _swap(pieces: list[str], rng: Random) -> None:
    _edit_word(pieces, rng, lambda word, at: word[:at] + word[at + 1] + word[at] + word[at + 2 :])


def _drop(pieces: list[str], rng: Random) -> None:
    _edit_word(pieces, rng, lambda word, at: word[:at] + word[at + 1 :])


def _double(pieces: list[str], rng: Random) -> None:
    _edit_word(pieces, rng, lambda word, at: word[:at] + word[at] + word[at:])


def _lower(pieces: list[str], rng: Random) -> None:
    pieces[::2] = [piece.lower() for piece in pieces[::2]]


def _no_apostrophe(pieces: list[str], rng: Random) -> None:
    pieces[::2] = [piece.replace("'", "") for piece in pieces[::2]]
