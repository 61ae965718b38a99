"""Writes the questions of the suite `maths`: `python -m benchmarks.suite_questions`. Always the same ones.

Sums as they are said in words and as they are written, with the right answer among four: both a model that answers
(`number`) and one that only says which answer it finds likelier can be measured on them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / "configs" / "suites" / "maths.jsonl"
SEED = 20260301
OF_EACH = 6
THINGS = ("apples", "boxes", "tickets", "pages", "bottles", "stamps")
Made = tuple[str, int]


def _add(draw: random.Random) -> Made:
    a, b = draw.randint(12, 89), draw.randint(12, 89)
    return f"What is {a} + {b}?", a + b


def _take(draw: random.Random) -> Made:
    a, b = sorted((draw.randint(12, 99), draw.randint(12, 99)), reverse=True)
    return f"What is {a} - {b}?", a - b


def _times(draw: random.Random) -> Made:
    a, b = draw.randint(3, 12), draw.randint(3, 12)
    return f"What is {a} * {b}?", a * b


def _share(draw: random.Random) -> Made:
    each, people = draw.randint(3, 12), draw.randint(3, 9)
    what = draw.choice(THINGS)
    return f"{each * people} {what} are shared equally by {people} people. How many {what} does each of them get?", each


def _shop(draw: random.Random) -> Made:
    count, price, what = draw.randint(3, 9), draw.randint(2, 12), draw.choice(THINGS)
    paid = (count * price // 10 + 1) * 10
    return (
        f"{count} {what} cost {price} euros each. What is the change, in euros, from {paid} euros?",
        paid - count * price,
    )


def _percent(draw: random.Random) -> Made:
    percent, whole = draw.choice((10, 20, 25, 50, 75)), draw.randint(2, 20) * 20
    return f"What is {percent}% of {whole}?", percent * whole // 100


def _order(draw: random.Random) -> Made:
    a, b, c = draw.randint(2, 20), draw.randint(2, 9), draw.randint(2, 9)
    return f"What is {a} + {b} * {c}?", a + b * c


def _clock(draw: random.Random) -> Made:
    hours, minutes = draw.randint(2, 4), draw.choice((5, 10, 15, 20, 40, 45))
    return f"How many minutes are {hours} hours and {minutes} minutes?", 60 * hours + minutes


KINDS: tuple[Callable[[random.Random], Made], ...] = (_add, _take, _times, _share, _shop, _percent, _order, _clock)


def questions() -> Iterator[dict[str, object]]:
    """Every question once, with four choices in a seeded order."""
    draw, seen = random.Random(SEED), set[str]()
    for kind in KINDS:
        kept = 0
        while kept < OF_EACH:
            asked, answer = kind(draw)
            if asked in seen:
                continue
            seen.add(asked)
            kept += 1
            wrong = draw.sample([answer + off for off in (-10, -2, -1, 1, 2, 10) if answer + off >= 0], 3)
            choices = draw.sample([str(value) for value in (answer, *wrong)], 4)
            yield {"id": f"maths-{len(seen)}", "question": asked, "choices": choices, "answer": str(answer)}


def text() -> str:
    return "".join(json.dumps(question) + "\n" for question in questions())


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
