"""Exact match: what counts as the expected JSON."""

from __future__ import annotations

from typing import Any

import pytest

from components.benchmarks.exact_match import _means, _score, same
from components.core.errors import ConfigError
from components.interfaces import EvalRows, Generation
from components.runtime import backend_for, choose_rows

EXPECTED = '{"category":"damage","amount":49.9,"order":null,"urgent":true}'


def score(answer: str) -> dict[str, Any]:
    """The score of an answer against the expected JSON."""
    return _score("r1", EXPECTED, Generation(answer, 5, True))


@pytest.mark.parametrize(
    "answer",
    [
        EXPECTED,
        '{"urgent":true,"order":null,"amount":49.90,"category":"damage"}',
        ' { "category" : "damage",\n "amount": 4.99e1, "order": null, "urgent": true }\n',
    ],
)
def test_layout_does_not_matter(answer: str) -> None:
    """Key order, spacing and how a number is written do not matter."""
    assert score(answer)["exact_match"] == 1
    assert score(answer)["field_accuracy"] == 1


@pytest.mark.parametrize(
    ("answer", "fields"),
    [
        ('{"category":"damage","amount":49.9,"order":null,"urgent":1}', 0.75),
        ('{"category":"damage","amount":"49.9","order":null,"urgent":true}', 0.75),
        ('{"category":"damage","amount":49.9,"order":"","urgent":true}', 0.75),
        ('{"category":"damage","amount":49.9,"order":false,"urgent":true}', 0.75),
        ('{"category":"Damage","amount":49.9,"order":null,"urgent":true}', 0.75),
        ('{"category":"damage","amount":49.9,"urgent":true}', 0.75),
        ('{"category":"damage","amount":49.9,"order":null,"urgent":true,"more":1}', 1.0),
    ],
)
def test_wrong_values(answer: str, fields: float) -> None:
    """A wrong type, a missing or an extra key is a wrong answer, though valid JSON; fields count one by one."""
    found = score(answer)
    assert (found["exact_match"], found["json_valid"], found["field_accuracy"]) == (0, 1, fields)


@pytest.mark.parametrize(
    "answer",
    [f"Sure! {EXPECTED}", f"{EXPECTED} Anything else?", f"```json\n{EXPECTED}\n```", EXPECTED[:-1], "", "[]", "null",
     "42", EXPECTED * 2, "[" * 100_000],
)  # fmt: skip
def test_not_the_json(answer: str) -> None:
    """Text around the JSON, cut JSON and JSON that is no object are wrong and not valid."""
    found = score(answer)
    assert (found["exact_match"], found["json_valid"], found["field_accuracy"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("found", "expected", "equal"),
    [(1, 1.0, True), (True, 1, False), (0, False, False), (False, False, True), ("1", 1, False), (None, None, True),
     (None, "", False), (float("nan"), float("nan"), False), ([1], [1], True), ({}, [], False)],
)  # fmt: skip
def test_same(found: Any, expected: Any, equal: bool) -> None:
    """Values are equal as JSON, not as Python."""
    assert same(found, expected) is equal


def test_repeated_key_in_the_answer() -> None:
    """A key given twice counts with its last value, as JSON parsers read it."""
    assert score('{"category":"x",' + EXPECTED[1:])["exact_match"] == 1


def test_means() -> None:
    """Figures are means over the rows."""
    means = _means([score(EXPECTED), score("no")])
    assert means == {"exact_match": 0.5, "json_valid": 0.5, "field_accuracy": 0.5}


def rows(count: int) -> EvalRows:
    return EvalRows([[{"role": "user", "content": str(i)}] for i in range(count)], [f"id{i}" for i in range(count)])


def test_rows_are_chosen_by_hash() -> None:
    """The same seed chooses the same rows, another seed others, and asking for too many gives all."""
    chosen = choose_rows(rows(50), 10, 17)
    assert chosen == choose_rows(rows(50), 10, 17)
    assert chosen.ids != choose_rows(rows(50), 10, 18).ids
    assert len(set(chosen.ids)) == 10
    assert choose_rows(rows(5), 10, 17) == rows(5)


def test_choice_is_stable_when_rows_are_added() -> None:
    """New rows displace at most as many as they are chosen themselves."""
    before, after = set(choose_rows(rows(50), 10, 17).ids), set(choose_rows(rows(55), 10, 17).ids)
    assert before - after <= before
    assert len(before & after) == 10 - len(after - set(rows(50).ids))


def test_backend_by_kind() -> None:
    """A kind of artifact is opened by the backend that serves it; an unknown kind is refused (E32)."""
    assert "onnx" in backend_for("onnx").serves
    assert "adapter" in backend_for("adapter").serves
    with pytest.raises(ConfigError, match="no backend runs artifacts of kind 'dataset'"):
        backend_for("dataset")
