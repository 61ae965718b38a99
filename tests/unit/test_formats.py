"""Each format in detail: what its columns mean, and the sentence for what is wrong with them."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest

from components.core.errors import ConfigError, DataError
from components.core.kinds import registry
from components.core.rows import prompt_text, row_digest, spoken
from components.data.formats._detect import detect, ignored_columns, missing_columns
from components.interfaces import BadRow

USER = {"role": "user", "content": "2 + 2?"}
SAID = {"role": "assistant", "content": "4"}
WRONG = {"role": "assistant", "content": "5"}
SYSTEM = {"role": "system", "content": "Be brief."}
HUMAN, GPT = {"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}
RESULT = {"role": "tool", "content": "4"}
LESS = {"role": "user", "content": "less?"}


def calling(arguments: Any = None, **more: Any) -> dict[str, Any]:
    """An assistant that calls a tool."""
    call = {"type": "function", "function": {"name": "add", "arguments": arguments or {"a": 2}}}
    return {"role": "assistant", "content": None, "tool_calls": [call], **more}


def form(name: str, **config: Any) -> Any:
    return registry.create("format", name, **config)


def convert(name: str, value: Any, **config: Any) -> Any:
    return form(name, **config).convert(value)


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize(
    "messages",
    [
        [USER, SAID],
        [SYSTEM, USER, SAID, USER, SAID],
        [USER, calling(), RESULT, SAID],
        [USER, calling(), RESULT, RESULT, calling(), RESULT, SAID, USER, SAID],
        [USER, calling()],
        [USER, {"role": "assistant", "content": ""}],
    ],
)
def test_orders_of_roles(messages: list[Any]) -> None:
    """System first, then user and assistant in turn with tools between, is taken as it stands (E9)."""
    assert convert("messages", {"messages": messages}) == {"messages": messages}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "'messages' must be a list of messages, found an empty list"),
        ([SYSTEM], "the last message is of 'system', expected 'assistant'"),
        ([USER], "the last message is of 'user', expected 'assistant'"),
        ([SAID], "message 1 is of 'assistant', expected 'system' or 'user'"),
        ([USER, USER, SAID], "message 2 is of 'user', expected 'assistant'"),
        ([USER, SYSTEM, SAID], "message 2 is of 'system'"),
        ([USER, RESULT, SAID], "message 2 is of 'tool'"),
        ([USER, calling(), SAID], "message 3 is of 'assistant', expected 'tool'"),
        ([USER, calling(), RESULT], "the last message is of 'tool'"),
        ([USER, {"role": "bot", "content": "4"}], "role of message 2 of 'messages' must be system, .* found 'bot'"),
        ([USER, {"role": "call", "content": "4"}], "found 'call'"),
        ([USER, {"role": "assistant with tool calls", "content": "4"}], "found 'assistant with tool calls'"),
        ([USER, {"role": "assistant", "content": None}], "content of message 2 of 'messages' must be text, found null"),
        ([USER, {"role": "assistant", "content": [{"type": "text"}]}], "must be text, found a list"),
        ([USER, "4"], "message 2 of 'messages' must be an object with 'role' and 'content', found text"),
        ([{**USER, "tool_calls": [1]}, SAID], "has tool calls, which only the assistant makes"),
        ([USER, calling("{broken")], "arguments of 'add' in message 2 of 'messages' cannot be read .*as JSON"),
        ([USER, calling("[1]")], "arguments of 'add' .* must be an object, found a list"),
        ([USER, {**SAID, "tool_calls": {"name": "add"}}], "tool calls of message 2 .* must be a list, found an object"),
        ([USER, {**SAID, "tool_calls": ["add"]}], "a tool call of message 2 .* found text"),
        ([USER, {**SAID, "tool_calls": [{"function": {"arguments": {}}}]}], "function's name in .* found null"),
        ([{**USER, "name": 1}, SAID], "the name of message 1 of 'messages' must be text, found a number"),
    ],
)
def test_bad_messages(messages: list[Any], reason: str) -> None:
    """The reason names the message, what was expected and what was found (B22)."""
    with pytest.raises(BadRow, match=reason):
        convert("messages", {"messages": messages})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "expected an object with the column 'messages', found an empty list"),
        ({"chat": [], "id": 1}, "there is no column 'messages', found: chat, id"),
        ({"messages": None}, "'messages' must be a list of messages, found null"),
        ({"messages": [USER, SAID], "tools": "{broken"}, "'tools' cannot be read"),
        ({"messages": [USER, SAID], "tools": "{}"}, "'tools' must be a list of tools, found an empty object"),
        ({"messages": [USER, SAID], "tools": 0}, "'tools' must be a list of tools, found a number"),
        ({"messages": [USER, SAID], "tools": [1]}, "tool 1 of 'tools' must be an object, found a number"),
    ],
)
def test_bad_columns_of_messages(value: Any, reason: str) -> None:
    """The reason names the column, what was expected and what was found (B22)."""
    with pytest.raises(BadRow, match=reason):
        convert("messages", value)


@pytest.mark.parametrize("arguments", ['{"a": 2}', {"a": 2}])
def test_tool_calls_in_one_form(arguments: Any) -> None:
    """Arguments become an object and a flat call OpenAI's, because chat templates expect that (E9)."""
    full = {"id": "c", "type": "function", "function": {"name": "add", "arguments": arguments}, "index": 0}
    flat = {"name": "add", "arguments": arguments}
    expected = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    value = {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [full, flat]}]}
    message = convert("messages", value)["messages"][1]
    assert message == {"role": "assistant", "content": None, "tool_calls": [{"id": "c", **expected}, expected]}


def test_tool_calls_as_json_text() -> None:
    """Tool calls and tools stored as JSON text, as on the hub, read as what they say (E9)."""
    value = {"messages": [USER, calling()], "tools": [{"name": "add"}]}
    as_text = {"messages": [USER, calling()], "tools": '[{"name": "add"}]'}
    as_text["messages"][1]["tool_calls"] = orjson.dumps(calling()["tool_calls"]).decode()  # type: ignore[index]
    assert convert("messages", as_text) == convert("messages", value) == value


def test_absent_arguments_are_none() -> None:
    """A call of a function without arguments has an empty object for them (E9)."""
    value = {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {"name": "now"}}]}]}
    row = convert("messages", value)
    assert row["messages"][1]["tool_calls"] == [{"type": "function", "function": {"name": "now", "arguments": {}}}]


def test_keys_that_are_null_are_absent() -> None:
    """Keys that a columnar file fills with null in every message are as good as absent (E9)."""
    null = {"tool_calls": None, "name": None, "tool_call_id": None, "weight": None}
    value = {"messages": [{**USER, **null}, {**SAID, **null}], "tools": None}
    assert convert("messages", value) == {"messages": [USER, SAID]}


def test_only_known_keys_stay() -> None:
    """A message keeps what chat templates read, and nothing else (E9)."""
    tool = {**RESULT, "name": "add", "tool_call_id": "c"}
    messages = [USER, calling(), {**tool, "weight": 1, "loss": False}, SAID]
    assert convert("messages", {"messages": messages})["messages"][2] == tool


def test_developer_is_system() -> None:
    """OpenAI's newer word for system is not lost on templates that do not know it (E9)."""
    value = {"messages": [{"role": "developer", "content": "Be brief."}, USER, SAID]}
    assert convert("messages", value) == {"messages": [SYSTEM, USER, SAID]}


def test_deep_json_is_a_bad_row() -> None:
    """What is nested too deeply to be written again does not reach the digest of the row (B22)."""
    deep = '{"a":' * 400 + "1" + "}" * 400
    with pytest.raises(BadRow, match="cannot be read or written as JSON"):
        convert("messages", {"messages": [USER, calling(deep)]})


def nested(levels: int) -> Any:
    return {"a": nested(levels - 1)} if levels else 1


@pytest.mark.parametrize("as_text", [True, False])
def test_depth_of_tool_calls(as_text: bool) -> None:
    """Arguments of 64 levels are written with the row around them, and deeper ones are a bad row (B22)."""
    written = lambda levels: orjson.dumps(nested(levels)).decode() if as_text else nested(levels)  # noqa: E731
    row = convert("messages", {"messages": [USER, calling(written(64))]})
    assert orjson.loads(orjson.dumps(row)) == row
    with pytest.raises(BadRow, match="cannot be read or written as JSON: it is nested too deeply"):
        convert("messages", {"messages": [USER, calling(written(65))]})
    with pytest.raises(BadRow, match="'tools' cannot be read or written as JSON: it is nested too deeply"):
        convert("messages", {"messages": [USER, SAID], "tools": [nested(64)]})


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30])
def test_numbers_beyond_64_bits(number: int) -> None:
    """A whole number that JSON's parser rounds is a bad row in tool calls; the largest that it keeps is kept (B22)."""
    text = f'{{"a": {number}}}'
    turn = f'{{"name": "add", "arguments": {text}}}'
    for form_name, value in (
        ("messages", {"messages": [USER, calling(text)]}),
        ("messages", {"messages": [USER, calling(orjson.loads(text))]}),
        ("messages", {"messages": [USER, SAID], "tools": f"[{text}]"}),
        ("sharegpt", {"conversations": [HUMAN, {"from": "function_call", "value": turn}]}),
    ):
        with pytest.raises(BadRow, match="beyond 64 bits and loses digits; write it as text"):
            convert(form_name, value)
    kept = {"a": 2**64 - 1, "b": -(2**63), "c": 1.5, "d": 1e15}
    row = convert("messages", {"messages": [USER, calling(orjson.dumps(kept).decode())]})
    assert row["messages"][1]["tool_calls"][0]["function"]["arguments"] == kept


def test_rows_serve_the_rules() -> None:
    """What is said, the prompt and the digest are told of a row with tool calls (B22)."""
    row = convert("messages", {"messages": [USER, calling(), RESULT, SAID]})
    assert list(spoken(row)) == [("user", "2 + 2?"), ("tool", "4"), ("assistant", "4")]
    assert prompt_text(row) == "2 + 2?"
    assert row_digest(row)


# ---------------------------------------------------------------- columns


def test_column_map() -> None:
    """A column map finds every column under another name, and writes it back there (E9)."""
    mapped = form("messages", columns={"messages": "chat", "tools": "functions"})
    value = {"chat": [USER, SAID], "functions": [{"name": "add"}]}
    row = {"messages": [USER, SAID], "tools": [{"name": "add"}]}
    assert mapped.convert(value) == row
    assert mapped.restore(row) == value
    with pytest.raises(BadRow, match="there is no column 'chat', found: messages"):
        mapped.convert({"messages": [USER, SAID]})


def test_unknown_name_in_the_map() -> None:
    """A name that the format does not have is refused with the one that was meant, all at once (E9)."""
    with pytest.raises(ConfigError, match="no column 'promt'; did you mean 'prompt'") as caught:
        form("prompt_completion", columns={"promt": "question", "answer": "answer"})
    assert "no column 'answer'" in str(caught.value)
    assert "it has: prompt, completion" in str(caught.value)


def test_missing_columns() -> None:
    """Mapped columns that stand in none of the values are named, others are not (E9)."""
    mapped = form("prompt_completion", columns={"prompt": "question", "completion": "reply"})
    assert missing_columns(mapped, [{"question": "?"}, {"question": "?", "answer": "4"}, None]) == ["reply"]
    assert missing_columns(mapped, [{"question": "?"}, {"reply": "4"}]) == []
    assert missing_columns(form("messages"), [{}]) == []


@pytest.mark.parametrize(
    ("name", "config", "values", "ignored"),
    [
        ("prompt_completion", {}, [{"question": "?", "answer": "4", "prompt": "x", "id": 1}], ["prompt", "id"]),
        ("prompt_completion", {}, [{"prompt": "?", "completion": "4", "system": ""}, {"note": 1}, 7], ["note"]),
        (
            "prompt_completion",
            {"columns": {"prompt": "a", "completion": "b"}},
            [{"a": 1, "b": 2, "question": 3}],
            ["question"],
        ),
        ("unpaired", {}, [{"question": "?", "answer": "4", "kto_tag": 1, "why": ""}], ["why"]),
        ("unpaired", {}, [{"conversations": [HUMAN, GPT], "label": 1, "prompt": "?"}], ["prompt"]),
        ("text", {}, ["Ducks.", {"title": "Ducks", "text": "Ducks."}], ["title"]),
        ("alpaca", {}, [{"instruction": "?", "output": "4", "history": None}], []),
    ],
)
def test_ignored_columns(name: str, config: dict[str, Any], values: list[Any], ignored: list[str]) -> None:
    """Columns that no part of the format reads are named in their order, also those that a guessed pair leaves (E9)."""
    assert ignored_columns(form(name, **config), values) == ignored


# ---------------------------------------------------------------- sharegpt


@pytest.mark.parametrize("user", ["human", "user"])
@pytest.mark.parametrize("assistant", ["gpt", "assistant", "model", "chatgpt", "bard"])
def test_speakers_of_sharegpt(user: str, assistant: str) -> None:
    """Every name in use for user and assistant is understood (E9)."""
    turns = [{"from": user, "value": "2 + 2?"}, {"from": assistant, "value": "4"}]
    assert convert("sharegpt", {"conversations": turns}) == {"messages": [USER, SAID]}


def test_sharegpt_with_tools() -> None:
    """Calls and observations become tool calls and tool messages; `system` and `tools` are read (E9)."""
    calls = '[{"name": "add", "arguments": {"a": 2}}]'
    for value in (calls, calls[1:-1]):
        turns = [HUMAN, {"from": "function_call", "value": value}, {"from": "observation", "value": "4"}, GPT]
        row = convert("sharegpt", {"conversations": turns, "system": "Be brief.", "tools": '[{"name": "add"}]'})
        assert row == {"messages": [SYSTEM, USER, calling(), RESULT, SAID], "tools": [{"name": "add"}]}


def test_tags_of_sharegpt() -> None:
    """Keys and speakers can be named; those that are not keep their names (E9)."""
    tags = {"role": "who", "content": "what", "user": "customer", "assistant": ["agent", "bot"]}
    turns = [{"who": "system", "what": "Be brief."}, {"who": "customer", "what": "2 + 2?"}, {"who": "bot", "what": "4"}]
    named = form("sharegpt", tags=tags)
    assert named.convert({"conversations": turns}) == {"messages": [SYSTEM, USER, SAID]}
    assert named.restore({"messages": [USER, SAID]})["conversations"][1] == {"who": "agent", "what": "4"}
    with pytest.raises(BadRow, match="'who' of message 1 .* must be one of system, customer, agent, .*, found 'human'"):
        named.convert({"conversations": [{"who": "human", "what": "?"}]})


def test_ambiguous_tags() -> None:
    """One name for two speakers is refused, and so is a speaker without a name (E9)."""
    with pytest.raises(ConfigError, match="name a speaker twice: human"):
        form("sharegpt", tags={"assistant": "human"})
    with pytest.raises(ConfigError, match="at least 1"):
        form("sharegpt", tags={"user": []})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"conversations": [HUMAN, {"from": "gpt", "value": None}]}, "'value' of message 2 of 'conversations' must be"),
        ({"conversations": [HUMAN, {"from": "narrator", "value": "x"}]}, "must be one of .*, found 'narrator'"),
        (
            {"conversations": [HUMAN, {"from": "function_call", "value": "add(2)"}]},
            "tool call in message 2 .* not JSON",
        ),
        ({"conversations": [HUMAN, {"from": "function_call", "value": "7"}]}, "must be a list, found a number"),
        ({"conversations": [HUMAN, 1]}, "message 2 of 'conversations' must be an object, found a number"),
        ({"conversations": [HUMAN, HUMAN, GPT]}, "message 2 is of 'user', expected 'assistant'"),
        ({"conversations": [{"from": "system", "value": "a"}, HUMAN, GPT], "system": "b"}, "a system message in"),
        ({"conversations": [HUMAN, GPT], "system": 1}, "'system' must be text, found a number"),
    ],
)
def test_bad_sharegpt(value: Any, reason: str) -> None:
    """The reason names the turn, what was expected and what was found (B22)."""
    with pytest.raises(BadRow, match=reason):
        convert("sharegpt", value)


@pytest.mark.parametrize(
    "messages",
    [
        [USER, calling(content="Adding."), RESULT, SAID],
        [USER, calling(), {**RESULT, "tool_call_id": "c"}, SAID],
        [USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "c", **calling()["tool_calls"][0]}]}],
    ],
)
def test_sharegpt_writes_only_what_it_holds(messages: list[Any]) -> None:
    """Ids, names and text beside calls have no place there, so such a row is not written (E9)."""
    with pytest.raises(BadRow, match="no place"):
        form("sharegpt").restore({"messages": messages})


# ---------------------------------------------------------------- alpaca


def test_alpaca_joins_input_by_a_blank_line() -> None:
    """Input follows the instruction after a blank line, and neither leaves one where the other is empty (E9)."""
    asked = [
        convert("alpaca", {"instruction": i, "input": x, "output": "4"})["messages"][0]["content"]
        for i, x in (("Add.", "2 + 2"), ("Add.", ""), ("Add.", None), ("", "2 + 2"))
    ]
    assert asked == ["Add.\n\n2 + 2", "Add.", "Add.", "2 + 2"]


def test_alpaca_history_and_system() -> None:
    """System comes first, then the turns of the history, then the question (E9)."""
    value = {"instruction": "2 + 2?", "output": "4", "system": "Be brief.", "history": [["2 + 2?", "5"]]}
    assert convert("alpaca", value) == {"messages": [SYSTEM, USER, WRONG, USER, SAID]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"output": None}, "'output' must be text, found null"),
        ({"input": 5}, "'input' must be text, found a number"),
        ({"history": "x"}, r"'history' must be a list of \[question, answer\], found text"),
        ({"history": [["a", "b"], ["a"]]}, "turn 2 of 'history' must be a list of two texts"),
        ({"history": [["a", None]]}, "turn 1 of 'history'"),
    ],
)
def test_bad_alpaca(change: dict[str, Any], reason: str) -> None:
    """The reason names the column, what was expected and what was found (B22)."""
    with pytest.raises(BadRow, match=reason):
        convert("alpaca", {"instruction": "2 + 2?", "output": "4", **change})


@pytest.mark.parametrize(
    "messages",
    [
        [USER, SAID, USER, SAID],
        [USER, calling()],
        [{**USER, "name": "Ann"}, SAID],
        [{**SYSTEM, "content": ""}, USER, SAID],
    ],
)
def test_alpaca_writes_only_what_it_holds(messages: list[Any]) -> None:
    """Alpaca holds one plain question and answer; other rows are not written (E9)."""
    with pytest.raises(BadRow, match="alpaca"):
        form("alpaca").restore({"messages": messages})


# ---------------------------------------------------------------- prompt and completion


def test_pairs_without_a_map() -> None:
    """Well-known pairs of columns are read without a map, the format's own names first (E9)."""
    value = {"question": "2 + 2?", "answer": "4"}
    assert convert("prompt_completion", value) == {"messages": [USER, SAID]}
    assert convert("prompt_completion", {"prompt": "2 + 2?", "completion": "4", "question": 1, "answer": 1})


@pytest.mark.parametrize("aside", ["input", "context"])
def test_no_guess_with_a_third_part(aside: str) -> None:
    """A pair is not guessed where a third column would be dropped; a map may say so (E9)."""
    value = {"instruction": "2 + 2?", aside: "sums", "response": "4"}
    with pytest.raises(BadRow, match="expected a pair of columns .* found: instruction"):
        convert("prompt_completion", value)
    with pytest.raises(DataError, match="no known format"):
        detect([value])
    columns = {"prompt": "instruction", "completion": "response"}
    assert convert("prompt_completion", value, columns=columns) == {"messages": [USER, SAID]}


def test_map_is_not_second_guessed() -> None:
    """With a map only the mapped columns are read, even beside a well-known pair (E9)."""
    mapped = form("prompt_completion", columns={"prompt": "problem", "completion": "solution"})
    assert mapped.convert({"problem": "2 + 2?", "solution": "4", "question": "?"}) == {"messages": [USER, SAID]}
    with pytest.raises(BadRow, match="there is no column 'problem'"):
        mapped.convert({"question": "2 + 2?", "answer": "4"})


def test_prompt_completion_of_messages() -> None:
    """Both sides may be lists of messages, with system and tools in columns of their own (E9)."""
    value = {
        "prompt": [USER, calling(), RESULT],
        "completion": [SAID],
        "system": "Be brief.",
        "tools": [{"name": "add"}],
    }
    expected = {"messages": [SYSTEM, USER, calling(), RESULT, SAID], "tools": [{"name": "add"}]}
    assert convert("prompt_completion", value) == expected
    with pytest.raises(BadRow, match="in 'completion', message 1 is of 'user', expected 'assistant'"):
        convert("prompt_completion", {"prompt": [USER], "completion": [USER, SAID]})
    with pytest.raises(BadRow, match="in 'prompt', the last message is of 'assistant', expected 'user' or 'tool'"):
        convert("prompt_completion", {"prompt": [USER, SAID], "completion": "4"})


# ---------------------------------------------------------------- preference, unpaired, prompt, text


def test_preference_forms_are_one_shape() -> None:
    """Text, messages, whole conversations and ShareGPT's turns all become the same row (E9)."""
    row = {"prompt": [SYSTEM, USER], "chosen": [SAID], "rejected": [WRONG]}
    system, five = {"from": "system", "value": "Be brief."}, {"from": "gpt", "value": "5"}
    for value in (
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "system": "Be brief."},
        {"prompt": [SYSTEM, USER], "chosen": [SAID], "rejected": WRONG},
        {"chosen": [SYSTEM, USER, SAID], "rejected": [SYSTEM, USER, WRONG]},
        {"chosen": [USER, SAID], "rejected": [USER, WRONG], "system": "Be brief."},
        {"prompt": [SYSTEM, USER], "chosen": [SYSTEM, USER, SAID], "rejected": [SYSTEM, USER, WRONG]},
        {"prompt": "2 + 2?", "chosen": [SYSTEM, USER, SAID], "rejected": [SYSTEM, USER, WRONG]},
        {"conversations": [system, HUMAN], "chosen": GPT, "rejected": five},
        {"conversations": [system, HUMAN], "chosen": "4", "rejected": [five]},
        {"chosen": [system, HUMAN, GPT], "rejected": [system, HUMAN, five]},
    ):
        assert convert("preference", value) == row


def test_preference_parts_at_an_answer() -> None:
    """Whole conversations part where the answers differ, and each side keeps at least its last answer (E9)."""
    same = convert("preference", {"chosen": [USER, SAID], "rejected": [USER, SAID]})
    assert same == {"prompt": [USER], "chosen": [SAID], "rejected": [SAID]}
    longer = convert("preference", {"chosen": [USER, SAID], "rejected": [USER, SAID, USER, WRONG]})
    assert longer == {"prompt": [USER], "chosen": [SAID], "rejected": [SAID, USER, WRONG]}
    later = convert("preference", {"chosen": [USER, SAID, USER, SAID], "rejected": [USER, SAID, USER, WRONG]})
    assert later == {"prompt": [USER, SAID, USER], "chosen": [SAID], "rejected": [WRONG]}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (
            {"chosen": [USER, SAID, USER, SAID], "rejected": [USER, SAID, LESS, SAID]},
            "message 3 of 'chosen' is of 'user'",
        ),
        ({"chosen": [USER, SAID], "rejected": [SYSTEM, USER, SAID]}, "message 1 of 'chosen' is of 'user'"),
        ({"prompt": [SYSTEM], "chosen": [USER, SAID], "rejected": [USER, WRONG]}, "does not begin with 'prompt'"),
        ({"chosen": "4", "rejected": "5"}, "there is no column 'prompt', found: chosen, rejected"),
        ({"prompt": "?", "chosen": "4", "rejected": None}, "'rejected' must be text or a list of messages, found null"),
        ({"prompt": "?", "chosen": SAID, "rejected": USER}, "in 'rejected', message 1 is of 'user'"),
        ({"prompt": "?", "chosen": [SAID, USER], "rejected": "5"}, "in 'chosen', the last message is of 'user'"),
        ({"chosen": [USER, SAID], "rejected": [USER]}, "in 'rejected', the last message is of 'user'"),
        ({"conversations": [HUMAN, GPT], "chosen": GPT, "rejected": GPT}, "in 'conversations', the last message is"),
    ],
)
def test_bad_preference(value: Any, reason: str) -> None:
    """The reason names the column and message, what was expected and what was found (B22)."""
    with pytest.raises(BadRow, match=reason):
        convert("preference", value)


def test_unpaired_forms_are_one_shape() -> None:
    """Text, messages and ShareGPT's turns with a tag become the same row; 1 and 0 are labels too (E9)."""
    row = {"prompt": [SYSTEM, USER], "completion": [SAID], "label": True}
    for value in (
        {"prompt": "2 + 2?", "completion": "4", "label": 1, "system": "Be brief."},
        {"prompt": [SYSTEM, USER], "completion": [SAID], "label": True},
        {"conversations": [{"from": "system", "value": "Be brief."}, HUMAN, GPT], "kto_tag": True},
        {"conversations": [SYSTEM, USER, SAID], "label": True},
    ):
        assert convert("unpaired", value) == row


@pytest.mark.parametrize("label", [None, 2, "yes", "", 0.5, []])
def test_bad_label(label: Any) -> None:
    """A label is true or false, and a guess at anything else would turn the training round (B22)."""
    with pytest.raises(BadRow, match="'label' must be true or false"):
        convert("unpaired", {"prompt": "?", "completion": "4", "label": label})


@pytest.mark.parametrize(
    ("label", "good"),
    [("true", True), ("False", False), ("TRUE", True), ("1", True), ("0", False), (1.0, True), (0.0, False)],
)
@pytest.mark.parametrize(
    "value",
    [{"prompt": "2 + 2?", "completion": "4"}, {"question": "2 + 2?", "answer": "4"}, {"messages": [USER, SAID]}],
)
def test_labels_of_tables(value: Any, label: Any, good: bool) -> None:
    """Labels that a table holds as text or numbers are labels, and such rows are never taken for good answers (E9)."""
    value = {**value, "label": label}
    assert detect([value]) == "unpaired"
    assert convert("unpaired", value) == {"prompt": [USER], "completion": [SAID], "label": good}


@pytest.mark.parametrize("column", ["label", "kto_tag"])
def test_no_guess_beside_a_label(column: str) -> None:
    """A pair beside a label is a conversation only where a column map says so (B22)."""
    value = {"prompt": "2 + 2?", "completion": "4", column: False}
    with pytest.raises(BadRow, match="without input, context or label beside it"):
        convert("prompt_completion", value)
    columns = {"prompt": "prompt", "completion": "completion"}
    assert convert("prompt_completion", value, columns=columns) == {"messages": [USER, SAID]}


def test_labelled_alpaca_drops_nothing() -> None:
    """A labelled instruction with an input is refused, and not read without its instruction (B22)."""
    with pytest.raises(BadRow, match="there is no column 'prompt', found: instruction"):
        convert("unpaired", {"instruction": "Add.", "input": "2 + 2", "output": "4", "kto_tag": True})


def test_prompt() -> None:
    """A prompt is text or messages that end with the user, with system and tools where there are any (E9)."""
    assert convert("prompt", {"prompt": "2 + 2?"}) == {"prompt": [USER]}
    tools = [{"name": "add"}]
    assert convert("prompt", {"prompt": [USER], "system": "Be brief.", "tools": tools}) == {
        "prompt": [SYSTEM, USER],
        "tools": tools,
    }
    with pytest.raises(BadRow, match="in 'prompt', the last message is of 'assistant'"):
        convert("prompt", {"prompt": [USER, SAID]})


def test_text() -> None:
    """Text comes from its column or stands by itself (E9)."""
    assert convert("text", "Ducks.") == convert("text", {"text": "Ducks."}) == {"text": "Ducks."}
    assert convert("text", {"body": "Ducks."}, columns={"text": "body"}) == {"text": "Ducks."}
    with pytest.raises(BadRow, match="'text' must be text, found null"):
        convert("text", {"text": None})


# ---------------------------------------------------------------- detection


def test_detects_what_most_rows_are() -> None:
    """A few rows of another form do not change what most of the first hundred are (E9)."""
    assert (
        detect([{"question": "a", "answer": "b"}] * 3 + [{"prompt": "a"}, None, {"text": "x"}]) == "prompt_completion"
    )
    assert detect([{"prompt": "a"}] * 100 + ["text"] * 500) == "prompt"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            [{"foo": 1}, {"bar": 2}, 3],
            "like no known format; found: columns foo, bar; a number; formats tried: alpaca, ",
        ),
        ([{"prompt": "a"}, {"text": "a"}], "like prompt and text alike; found: columns prompt, text"),
        ([], "there are no rows"),
    ],
)
def test_undetected(values: list[Any], reason: str) -> None:
    """A tie, or nothing that fits, says what was found and tried, and how to say which it is (B22)."""
    with pytest.raises(DataError, match=reason) as caught:
        detect(values)
    assert not values or "data: {format: {type: " in str(caught.value)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"prompt": "?", "messages": [USER, SAID], "chosen": [USER, SAID], "rejected": [USER, WRONG]}, "preference"),
        ({"prompt": "?", "completion": "4", "label": "maths"}, "unpaired"),
        ({"question": "?", "answer": "4", "label": "FALSE"}, "unpaired"),
        ({"input": "?", "output": "4", "kto_tag": None}, "unpaired"),
        ({"instruction": "?", "input": "", "output": "4", "kto_tag": "0"}, "unpaired"),
        ({"instruction": "?", "output": "4", "label": "maths"}, "alpaca"),
        ({"messages": [USER, SAID], "label": 0.0}, "unpaired"),
        ({"messages": [USER, SAID], "label": "maths"}, "messages"),
        ({"text": "?", "label": 1}, "text"),
        ({"prompt": "?", "completion": "4", "context": "sums"}, "prompt_completion"),
        ({"conversations": [HUMAN, GPT], "label": True}, "unpaired"),
        ({"conversations": [HUMAN, GPT], "label": "maths"}, "sharegpt"),
        ({"instruction": "?", "output": "4", "text": "all of it"}, "alpaca"),
        ({"prompt": "?", "answer": "4"}, "prompt"),
        ({"prompt": "?", "response": "4", "context": "sums"}, None),
        ({"messages": []}, None),
        ({"text": None}, None),
    ],
)
def test_rows_with_columns_of_several_forms(value: Any, name: str | None) -> None:
    """The form that says most wins, and never two of them (E9)."""
    fitting = [other for other in registry.names("format") if registry.get("format", other).fits(value)]
    assert fitting == ([name] if name else [])


# ---------------------------------------------------------------- round trips


def _conversation(dice: random.Random) -> list[dict[str, Any]]:
    """A conversation of random length with random texts, tools here and there."""

    def say(role: str, **more: Any) -> dict[str, Any]:
        return {"role": role, "content": dice.choice(["", " a\n", "ä€😀", '{"x": [1]}', "None"]), **more}

    messages = [say("system")] if dice.random() < 0.4 else []
    for _ in range(dice.randint(1, 3)):
        messages.append(say("user", **({"name": "Ann"} if dice.random() < 0.1 else {})))
        if dice.random() < 0.2:
            messages += [calling({"a": dice.randint(0, 9)}), say("tool")]
        messages.append(say("assistant"))
    return messages


def _row(shape: str, dice: random.Random) -> dict[str, Any]:
    messages = _conversation(dice)
    tools = {"tools": [{"name": "add"}]} if dice.random() < 0.3 else {}
    rows: dict[str, dict[str, Any]] = {
        "conversation": {"messages": messages, **tools},
        "text": {"text": messages[-1]["content"]},
        "preference": {"prompt": messages[:-1], "chosen": messages[-1:], "rejected": [dice.choice([SAID, calling()])]},
        "unpaired": {"prompt": messages[:-1], "completion": messages[-1:], "label": dice.random() < 0.5},
        "prompt": {"prompt": messages[:-1], **tools},
    }
    return rows[shape]


@pytest.mark.parametrize("name", registry.names("format"))
def test_round_trip(name: str) -> None:
    """Whatever row a format agrees to write, it reads back as the very same row, through JSON too (E9)."""
    dice, written = random.Random(7), 0
    columns = {own: f"their {own}" for own in registry.get("format", name).Config.names}
    for this in (form(name), form(name, columns=columns)):
        for _ in range(300):
            row = _row(this.shape, dice)
            try:
                plain = this.restore(row)
            except BadRow:
                continue
            written += 1
            assert this.convert(orjson.loads(orjson.dumps(plain))) == row
    assert written > (30 if name == "alpaca" else 200)
