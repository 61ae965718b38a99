"""What every format promises: rows of the shape it declares, BadRow for anything else, and a form of its own (E9)."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from components.core.kinds import registry
from components.data.formats._detect import detect, ignored_columns
from components.interfaces import SHAPES, BadRow
from tests.contract.common import check_component, named

ASKED = {"role": "user", "content": "2 + 2?"}
SAID = {"role": "assistant", "content": "4"}
WRONG = {"role": "assistant", "content": "5"}
SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}}
CALLING = [
    ASKED,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "name": "add", "tool_call_id": "c1", "content": "4"},
    SAID,
]

EXAMPLES: dict[str, list[Any]] = {
    "messages": [
        {"messages": [SYSTEM, ASKED, SAID, ASKED, SAID]},
        {"messages": CALLING, "tools": TOOLS},
        {"messages": CALLING, "tools": orjson.dumps(TOOLS).decode()},
        {"messages": [ASKED, SAID], "prompt": "2 + 2?", "prompt_id": "x"},
    ],
    "sharegpt": [
        {"conversations": TURNS, "system": "Be brief.", "tools": "[]"},
        {
            "conversations": [
                TURNS[0],
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
                {"from": "observation", "value": "4"},
                TURNS[1],
            ],
            "tools": orjson.dumps(TOOLS).decode(),
        },
    ],
    "alpaca": [
        {"instruction": "Add.", "input": "2 + 2", "output": "4", "text": "Below is an instruction"},
        {"instruction": "2 + 2?", "input": None, "output": "4", "system": "Be brief.", "history": []},
        {"instruction": "And 3 + 3?", "output": "6", "history": [["2 + 2?", "4"]]},
    ],
    "prompt_completion": [
        {"prompt": "2 + 2?", "completion": "4"},
        {"prompt": [SYSTEM, ASKED], "completion": [SAID]},
        {"prompt": "2 + 2?", "response": "4"},
        {"question": "2 + 2?", "answer": "4", "id": 7},
        {"query": "2 + 2?", "response": "4"},
        {"instruction": "2 + 2?", "response": "4"},
        {"input": "2 + 2?", "output": "4"},
    ],
    "text": ["Ducks swim.", {"text": "Ducks swim.", "title": "Ducks"}],
    "preference": [
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
        {"prompt": [ASKED], "chosen": SAID, "rejected": [WRONG], "messages": [ASKED, SAID]},
        {"prompt": "2 + 2?", "chosen": [ASKED, SAID], "rejected": [ASKED, WRONG]},
        {"chosen": [ASKED, SAID], "rejected": [ASKED, SAID]},
        {"conversations": TURNS[:1], "chosen": TURNS[1], "rejected": {"from": "gpt", "value": "5"}},
    ],
    "unpaired": [
        {"prompt": "2 + 2?", "completion": "4", "label": True},
        {"prompt": [ASKED], "completion": [WRONG], "label": 0},
        {"conversations": TURNS, "kto_tag": False},
        {"messages": [ASKED, SAID], "label": "True"},
        {"question": "2 + 2?", "answer": "4", "label": 0.0},
    ],
    "prompt": [{"prompt": "2 + 2?", "answer_key": "4"}, {"prompt": [SYSTEM, ASKED], "tools": TOOLS}],
}
JUNK: list[Any] = [
    None, True, 0, 7, -1.5, 10**30, float("nan"), b"x", [], {}, [[]], [None], [{}], {"": None}, {1: 2}, [1, "a"],
    {"role": 1}, [{"role": []}], [{"role": "user"}], [{"role": "user", "content": {}}], [SAID], [ASKED, ASKED],
    [ASKED, SAID, SAID], [{"role": "call\n", "content": "x"}], [{"from": "human"}],
    [{"from": {}, "value": "x"}], [["a"]], [["a", 1]], object(),
]  # fmt: skip
CASES = [(name, value) for name, values in EXAMPLES.items() for value in values]
KEYS = {
    "conversation": {"messages", "tools"},
    "text": {"text"},
    "preference": {"prompt", "chosen", "rejected"},
    "unpaired": {"prompt", "completion", "label"},
    "prompt": {"prompt", "tools"},
}


def examples(name: str) -> list[Any]:
    """Values of the format; copies, so that a test may break them."""
    assert name in EXAMPLES, f"format '{name}' is new: give it an example in EXAMPLES of {__file__}"
    return copy.deepcopy(EXAMPLES[name])


def check_row(row: Any, shape: str) -> None:
    """The row is of the shape as `interfaces.Row` describes it, and JSON can hold it."""
    assert orjson.loads(orjson.dumps(row)) == row
    assert set(row) - {"tools"} == KEYS[shape] - {"tools"}
    assert set(row) <= KEYS[shape]
    assert row.get("tools", [{}]), "no tools: no column"
    assert isinstance(row.get("text", ""), str)
    assert isinstance(row.get("label", True), bool)
    for name in row.keys() - {"tools", "text", "label"}:
        assert row[name], "a list of messages is never empty"
        for message in row[name]:
            check_message(message)


def check_message(message: Any) -> None:
    """Role and content, and nothing that chat templates do not know."""
    assert message["role"] in ("system", "user", "assistant", "tool")
    assert isinstance(message["content"], str) or "tool_calls" in message
    assert {"role", "content"} <= set(message) <= {"role", "content", "tool_calls", "name", "tool_call_id"}
    for call in message.get("tool_calls", []):
        assert isinstance(call["function"]["arguments"], dict)


def mutants(value: Any, seed: int) -> Iterator[Any]:
    """The value with something in it replaced by junk, or taken away."""
    dice = random.Random(seed)
    for _ in range(400):
        whole = copy.deepcopy(value)
        node = whole
        while isinstance(node, (dict, list)) and node:
            key = dice.choice(list(node) if isinstance(node, dict) else range(len(node)))
            if dice.random() < 0.4 or not isinstance(node[key], (dict, list)):
                if dice.random() < 0.3:
                    del node[key]
                else:
                    node[key] = copy.copy(dice.choice(JUNK))
                break
            node = node[key]
        yield whole


def is_row_or_refused(form: Any, value: Any) -> bool:
    """Whether it is a row, which is checked; False for a BadRow with one clear sentence."""
    reason = None
    try:
        row = form.convert(value)
    except BadRow as error:
        reason = str(error)
    if reason is None:
        check_row(row, form.shape)
        return True
    assert reason
    assert "\n" not in reason
    assert len(reason) < 500
    return False


@named("format")
def test_component(name: str) -> None:
    """Every format is described, strictly configured, and declares one of the internal shapes (E9)."""
    check_component("format", name)
    assert registry.get("format", name).shape in SHAPES


@named("format")
def test_converts_its_examples(name: str) -> None:
    """A format turns a value of its form into a row of the shape it declares, and leaves the value alone (E9)."""
    for value in examples(name):
        before = copy.deepcopy(value)
        check_row(registry.create("format", name).convert(value), registry.get("format", name).shape)
        assert value == before


@named("format")
def test_extra_columns_are_ignored(name: str) -> None:
    """Columns that the format does not know change nothing (E9)."""
    form = registry.create("format", name)
    for value in examples(name):
        if isinstance(value, dict):
            assert form.convert(value | {"source": ["web"], "score": None}) == form.convert(value)


@named("format")
def test_names_what_it_ignores(name: str) -> None:
    """A column without which the row is the same is named as ignored, and one that the row needs is not (E9)."""
    form = registry.create("format", name)
    for value in examples(name):
        if isinstance(value, dict):
            ignored = ignored_columns(form, [value | {"source": "web"}])
            assert "source" in ignored
            kept = {column: cell for column, cell in value.items() if column not in ignored}
            assert form.convert(kept) == form.convert(value)


@named("format")
def test_refuses_junk(name: str) -> None:
    """What is not of its form is a BadRow with a reason, and never another exception (B22)."""
    form = registry.create("format", name)
    for value in JUNK:
        assert not is_row_or_refused(form, value), value
        assert not registry.get("format", name).fits(value)


@named("format")
def test_survives_mutation(name: str) -> None:
    """A value broken anywhere inside is either still a whole row or a BadRow, and detection never raises (B22)."""
    form = registry.create("format", name)
    results = []
    for number, value in enumerate(examples(name)):
        for mutant in mutants(value, seed=number):
            results.append(is_row_or_refused(form, mutant))
            form.fits(mutant)
    assert True in results
    assert False in results or name == "text"


@pytest.mark.parametrize(("name", "value"), CASES)
def test_forms_exclude_each_other(name: str, value: Any) -> None:
    """A value fits its own format and no other one, so detection is never a guess (E9)."""
    assert [other for other in registry.names("format") if registry.get("format", other).fits(value)] == [name]


@named("format")
def test_detected(name: str) -> None:
    """Detection finds each format from its rows, alone and all together (E9)."""
    assert detect(examples(name)) == name
    for value in examples(name):
        assert detect([value]) == name


@named("format")
def test_restore(name: str) -> None:
    """A row written back in the format's own form reads as the same row (E9)."""
    form = registry.create("format", name)
    restored = 0
    for value in examples(name):
        row = form.convert(value)
        try:
            plain = form.restore(row)
        except BadRow:
            continue
        restored += 1
        assert form.fits(plain)
        assert form.convert(orjson.loads(orjson.dumps(plain))) == row
    assert restored


@named("format")
def test_restore_refuses_other_shapes(name: str) -> None:
    """A row of another shape is a BadRow, not a loss (E9)."""
    form = registry.create("format", name)
    for other, value in CASES:
        if registry.get("format", other).shape != form.shape:
            with pytest.raises(BadRow):
                form.restore(registry.create("format", other).convert(value))
