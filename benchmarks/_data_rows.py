"""Generated rows for the data benchmark: seeded, of real words, no two alike unless that was planted.

Words come from the tokenizer's own vocabulary, which byte pair encoding leaves in order of frequency, and are drawn by
Zipf's law. One word in eight is none that the tokenizer knows whole: a compound, a name with an accent, a number. So
most words are found in its cache, and about as many as in real text are not.

    words = Words(Path("tokenizer.json")); write_chats(Path("rows.jsonl"), words, SHORT, 1000, seed=1)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

SYSTEM = "Triage as JSON: category, priority, product, order, amount, currency, language."
PORTION = 20_000
PLANTED_EVERY = 100
"""Where near-duplicates are planted: one row in so many."""
LITTLE = frozenset(
    {"a", "I", "an", "as", "at", "be", "by", "do", "he", "if", "in", "is", "it", "me", "my", "of", "on", "to", "we"}
)
ENDINGS = ("ware", "ville", "ström", "ology", "berg", "ée", "wright", "ista", "ñez", "stan", "worth", "ová")


@dataclass(frozen=True)
class Kind:
    """How long the rows are: words of a question and of an answer, at least and at most."""

    question: tuple[int, int]
    answer: tuple[int, int]
    system: str | None = None


SHORT = Kind((7, 11), (6, 10))
MEDIUM = Kind((34, 50), (10, 18), SYSTEM)


class Words:
    """Texts of words as frequent as in real text, rare ones included."""

    def __init__(self, tokenizer: Path) -> None:
        vocabulary: dict[str, int] = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
        by_rank = [token for token, _ in sorted(vocabulary.items(), key=lambda item: item[1])]
        # Ġ stands for the space before a word
        found = [token[1:] for token in by_rank if token[0] == "Ġ"]
        # shorter ones are mostly pieces of words
        self.known = [word for word in found if word in LITTLE or (len(word) > 2 and word.isascii() and word.isalpha())]
        weights = 1 / (np.arange(len(self.known)) + 2.7)
        self._cumulative = np.cumsum(weights / weights.sum())

    def stream(self, random: np.random.Generator, count: int) -> list[str]:
        """So many words; the rare ones stand anywhere."""
        places = np.searchsorted(self._cumulative, random.random(count)).clip(max=len(self.known) - 1)
        words = [self.known[place] for place in places.tolist()]
        rare = np.flatnonzero(random.random(count) < 1 / 8)
        forms, numbers = random.integers(0, 3, len(rare)).tolist(), random.integers(0, 10**6, len(rare)).tolist()
        for place, form, number in zip(rare.tolist(), forms, numbers, strict=True):
            words[place] = self._rare(form, number)
        return words

    def _rare(self, form: int, number: int) -> str:
        if form == 0:
            return str(number % 5000)
        name = self.known[number % len(self.known)] + ENDINGS[number % len(ENDINGS)]
        return name.capitalize() if form == 1 else name


def pairs(words: Words, kind: Kind, seed: int) -> Iterator[tuple[str, str]]:
    """Questions and answers without end."""
    random = np.random.default_rng(seed)
    while True:
        asked = random.integers(*kind.question, PORTION, endpoint=True)
        said = random.integers(*kind.answer, PORTION, endpoint=True)
        stream, at = words.stream(random, int(asked.sum() + said.sum())), 0
        for a, b in zip(asked.tolist(), said.tolist(), strict=True):
            question, answer = " ".join(stream[at : at + a]), " ".join(stream[at + a : at + a + b])
            yield question[:1].upper() + question[1:] + "?", answer[:1].upper() + answer[1:] + "."
            at += a + b


def write_chats(path: Path, words: Words, kind: Kind, rows: int, seed: int, planted: bool = False) -> None:
    """A JSONL file of chat rows. `planted`: one row in a hundred repeats the row before it and adds a word."""
    with path.open("w", encoding="utf-8") as out:
        before = ("", "")
        for number, pair in enumerate(islice(pairs(words, kind, seed), rows)):
            if planted and number % PLANTED_EVERY == PLANTED_EVERY - 1:
                pair = (before[0], f"{before[1]} {words.known[number % 997]}")
            out.write(chat(*pair, kind.system))
            before = pair


def chat(question: str, answer: str, system: str | None = None) -> str:
    """One line; the words hold nothing that JSON escapes."""
    first = f'{{"role": "system", "content": "{system}"}}, ' if system else ""
    return (
        f'{{"messages": [{first}{{"role": "user", "content": "{question}"}}, '
        f'{{"role": "assistant", "content": "{answer}"}}]}}\n'
    )
