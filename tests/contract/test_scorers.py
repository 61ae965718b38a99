"""What every scorer promises."""

from __future__ import annotations

from typing import Any

import pytest

from components.core.kinds import registry
from tests.contract.common import check_component, named

ODD = ("", " ", "{", "null", "NaN", "[1]", "x = 1", "def f(:", "56", "-", "\ud83d", "\x00", "1e999", "[" * 5000)
"""Answers that a model can give: nothing, halves of things, code that is none, too much of it."""
RIGHT: dict[str, str] = {
    "contains": "Paris",
    "equals": "Paris, of course",
    "json": '{"a": 1}',
    "number": "56",
    "python_syntax": "x = 1",
    "regex": "anything",
}
"""An expected answer for each, that is right itself."""


def score(scorer: str, answer: str, expected: str | None = None, **config: Any) -> float:
    return float(registry.create("scorer", scorer, **config).score(answer, expected))


def test_all_scorers_are_covered() -> None:
    """A new scorer has to be added to this file's table."""
    assert set(RIGHT) == set(registry.names("scorer"))


@named("scorer")
def test_component(name: str) -> None:
    """Every scorer is described and strictly configured (A27)."""
    check_component("scorer", name)


@named("scorer")
def test_a_score_is_a_share(name: str) -> None:
    """Whatever the model says, the score lies between 0 and 1, the same one every time, and no warning is given."""
    for expected in (RIGHT[name], None):
        found = [score(name, answer, expected) for answer in ODD]
        assert all(0 <= value <= 1 for value in found)
        assert found == [score(name, answer, expected) for answer in ODD]


@named("scorer")
def test_the_expected_answer_is_right(name: str) -> None:
    """The expected answer has the full score, and nothing said has none."""
    assert score(name, RIGHT[name], RIGHT[name]) == 1.0
    assert score(name, "", RIGHT[name]) == 0.0


@named("scorer")
def test_without_an_expected_answer(name: str) -> None:
    """A scorer that needs an expected answer gives nothing without one; another judges the answer alone."""
    needs = registry.get("scorer", name).needs_answer
    assert score(name, RIGHT[name], None) == (0.0 if needs else 1.0)


@pytest.mark.parametrize(
    ("answer", "right"),
    [("It is Paris.", 1), ("paris", 1), ("Parisian", 0), ("New\nYork", 0), ("", 0)],
)
def test_contains_whole_words(answer: str, right: int) -> None:
    """The text must stand there as words of its own."""
    assert score("contains", answer, "Paris") == right


def test_contains_over_line_breaks() -> None:
    """Spacing between the expected words does not matter, and signs in them are meant literally."""
    assert score("contains", "in New\n York", "New York") == 1
    assert score("contains", "use a+b", "a+b") == 1
    assert score("contains", "use aab", "a+b") == 0
    assert score("contains", "PARIS", "Paris", ignore_case=False) == 0


def test_equals() -> None:
    """The same words, whatever the spacing; capitals count unless they are said not to."""
    assert score("equals", " Paris,\nof course", "Paris, of  course") == 1
    assert score("equals", "paris, of course", "Paris, of course") == 0
    assert score("equals", "paris, of course", "Paris, of course", ignore_case=True) == 1


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("7 times 8 is 56.", "56", 1),
        ("56 and not 57", "56", 0),
        ("1,250.50 euros", "1250.5", 1),
        ("1,2", "2", 1),
        ("x=-3", "-3", 1),
        ("10-3", "3", 1),
        ("#### 18", "9 * 2 = 18", 1),
        ("v56", "56", 0),
        ("fifty-six", "56", 0),
        ("56", "none", 0),
    ],
)
def test_number(answer: str, expected: str, right: int) -> None:
    """The last number counts, with commas between thousands, a sign, and no letter before it."""
    assert score("number", answer, expected) == right


def test_number_near_enough() -> None:
    """The first number may be asked for, and how far it may be off."""
    assert score("number", "56 or 57", "56", take="first") == 1
    assert (score("number", "3.14", "3.14159"), score("number", "3.14", "3.14159", tolerance=0.01)) == (0, 1)


def test_regex() -> None:
    """Anywhere in the answer, or the whole of it without the space around."""
    assert score("regex", "so B.", pattern="[A-D]") == 1
    assert (
        score("regex", "so B.", pattern="[A-D]", whole=True),
        score("regex", " B\n", pattern="[A-D]", whole=True),
    ) == (0, 1)
    with pytest.raises(ValueError, match=r"pattern '\(' is no regular expression"):
        score("regex", "x", pattern="(")


def test_json() -> None:
    """JSON and nothing else; equal by value and type, or with exactly the keys that are named."""
    assert [score("json", answer) for answer in ("[1]", "null", "Sure: {}", "NaN")] == [1, 1, 0, 0]
    answers = ('{ "a": 1.0 }', '{"a": true}', '{"a": 1, "b": 2}')
    assert [score("json", answer, '{"a": 1}') for answer in answers] == [1, 0, 0]
    assert [score("json", answer, keys=["a"]) for answer in ('{"a": 9}', '{"a": 1, "b": 2}', "[]")] == [1, 0, 0]


def test_python_is_parsed_and_never_executed(tmp_path: Any) -> None:
    """Code that would write a file is judged by its syntax, and the file is not there afterwards."""
    trap = tmp_path / "trap"
    assert score("python_syntax", f"open({str(trap)!r}, 'w').write('x')") == 1
    assert not trap.exists()
    assert [score("python_syntax", text) for text in ("return = 1", "# nothing", "a b", "'\\d'")] == [0, 0, 0, 1]


def test_python_in_a_fence() -> None:
    """A fenced block counts without what is said around it, also one that was cut off."""
    code = "def add(a, b):\n    return a + b"
    for answer in (code, f"Here:\n```python\n{code}\n```\nDone.", f"```\n{code}"):
        assert score("python_syntax", answer, defines=["add"]) == 1
    assert score("python_syntax", code, defines=["sub"]) == 0


def test_python_of_the_same_tree() -> None:
    """Spacing, comments and quotes do not matter; names do."""
    assert score("python_syntax", 'print( "hi" )  # said', "print('hi')", same=True) == 1
    assert score("python_syntax", "print('ho')", "print('hi')", same=True) == 0
