"""What every reward promises."""

from __future__ import annotations

import math
from typing import Any

import pytest

from components.core.errors import ConfigError
from components.core.kinds import registry
from components.interfaces import RewardConfig
from tests import tiny
from tests.contract.common import check_component, config_of, named

WANTED = '{"category":"damage","priority":"low"}'
ODD = ("", " ", "{", "null", "NaN", "[1]", '"{}"', WANTED, WANTED * 50, "\ud83d", "[" * 5000, "\x00", "1e999")
"""Answers that a model can give: nothing, halves of JSON, JSON that is no object, too much of it."""


def rows(answer: str, count: int) -> list[dict[str, Any]]:
    """The same conversation for each answer."""
    return [{"messages": [*tiny.conversation(0)[:2], {"role": "assistant", "content": answer}]}] * count


def scores(name: str, *answers: str, wanted: str = WANTED, **config: Any) -> list[float]:
    reward = registry.create("reward", name, **config)
    return list(reward.score([tiny.conversation(0)[:2]] * len(answers), list(answers), rows(wanted, len(answers))))


@named("reward")
def test_component(name: str) -> None:
    """Every reward is described and strictly configured, with a weight (A27)."""
    check_component("reward", name)
    assert issubclass(registry.get("reward", name).Config, RewardConfig)
    assert config_of("reward", name).weight == 1.0


@named("reward")
def test_one_finite_number_an_answer(name: str) -> None:
    """Whatever the model says, each answer gets one finite number, the same one every time."""
    found = scores(name, *ODD)
    assert len(found) == len(ODD)
    assert all(isinstance(score, float) and math.isfinite(score) for score in found)
    assert scores(name, *ODD) == found


@named("reward")
def test_each_answer_counts_alone(name: str) -> None:
    """An answer's number does not depend on the others."""
    assert [scores(name, answer)[0] for answer in ODD] == scores(name, *ODD)


@named("reward")
def test_the_expected_answer_is_not_beaten(name: str) -> None:
    """No answer scores higher than the expected one."""
    assert max(scores(name, *ODD)) <= scores(name, WANTED)[0]


@named("reward")
def test_nothing_to_score(name: str) -> None:
    """No answers, no numbers."""
    assert scores(name) == []


@named("reward")
def test_shapes(name: str) -> None:
    """A reward says which rows it can judge, and judges them."""
    shapes = registry.get("reward", name).shapes
    assert set(shapes) <= {"conversation", "prompt"}
    if "prompt" in shapes:
        prompt = tiny.conversation(0)[:2]
        assert len(registry.create("reward", name).score([prompt], ["x"], [{"prompt": prompt}])) == 1


def test_exact_match_counts_fields() -> None:
    """Fields count one by one; a missing, wrong or extra one costs its share; layout does not matter."""
    half, spaced = '{"category":"damage","priority":"high"}', '{ "priority": "low",\n "category": "damage" }'
    extra = '{"category":"damage","priority":"low","more":1,"most":2}'
    assert scores("exact_match", WANTED, spaced, half, extra, "{}", "no") == [1.0, 1.0, 0.5, 0.5, 0.0, 0.0]
    assert scores("exact_match", WANTED, half, partial=False) == [1.0, 0.0]


@pytest.mark.parametrize(("found", "right"), [("49.90", 1.0), ("true", 0.0), ('"49.9"', 0.0), ("null", 0.0)])
def test_exact_match_compares_as_json(found: str, right: float) -> None:
    """Numbers are equal by value, and nothing equals a value of another type."""
    assert scores("exact_match", f'{{"amount": {found}}}', wanted='{"amount": 49.9}') == [right]


def test_exact_match_of_nested_values() -> None:
    """Objects and lists inside fields are compared in the same way."""
    wanted = '{"items": [{"count": 1}, {"count": true}]}'
    answers = ('{"items": [{"count": 1.0}, {"count": true}]}', '{"items": [{"count": 1}, {"count": 1}]}')
    assert scores("exact_match", *answers, wanted=wanted) == [1.0, 0.0]


def test_exact_match_of_text() -> None:
    """Text that is no JSON object is right when its words are."""
    assert scores("exact_match", "Yes,  it is.\n", "yes, it is.", wanted="Yes, it is.") == [1.0, 0.0]


def test_json_valid() -> None:
    """JSON and nothing else; with keys, an object that has them."""
    assert scores("json_valid", "{}", "[1, null]", "null", "Sure: {}", "{'a': 1}", "NaN", "") == [1, 1, 1, 0, 0, 0, 0]
    keys = ["category", "priority"]
    assert scores("json_valid", WANTED, '{"category": 1}', "[]", "{", keys=keys) == [1.0, 0.5, 0.0, 0.0]


def test_length() -> None:
    """Nothing within the budget, down to -1 at twice its length."""
    answers = ("", "x" * 10, "x" * 15, "x" * 20, "x" * 500)
    assert scores("length", *answers, budget=10) == [0.0, 0.0, -0.5, -1.0, -1.0]


def test_regex() -> None:
    """Anywhere in the answer, or the whole of it; over line breaks."""
    answers = ("<a>x\ny</a>", "so <a>x</a>", "none")
    assert scores("regex", *answers, pattern="<a>.*</a>") == [1.0, 1.0, 0.0]
    assert scores("regex", *answers, pattern="<a>.*</a>", whole=True) == [1.0, 0.0, 0.0]
    with pytest.raises(ConfigError, match=r"pattern '\(' is no regular expression"):
        scores("regex", "x", pattern="(")


def test_similarity_grows_with_what_is_right() -> None:
    """The nearer the answer to the expected one, the higher."""
    found = scores("similarity", "", "damage", '{"category":"refund"}', '{"category":"damage"}', WANTED)
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0.0, 1.0)


def test_expected_answer_is_the_last_one() -> None:
    """Of several assistant turns the last one is expected."""
    row = {"messages": [*tiny.conversation(0), {"role": "user", "content": "?"}, *rows("B", 1)[0]["messages"][-1:]]}
    assert registry.create("reward", "exact_match").score([[]] * 2, ["A", "B"], [row, row]) == [0.0, 1.0]
