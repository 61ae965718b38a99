"""The data contract: bad rows are quarantined with line and rule, good rows keep their bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import ConfigError, DataError
from components.core.recipe import DataSection, parse_recipe
from components.core.rows import row_digest
from components.services.data import DataService, load_rows
from components.services.workspace import Workspace
from tests import tiny


def line(*messages: tuple[str, str]) -> bytes:
    """A row from (role, content) pairs."""
    return json.dumps({"messages": [{"role": r, "content": c} for r, c in messages]}).encode() + b"\n"


def pair(user: str = "hello there", assistant: str = "hi") -> bytes:
    return line(("user", user), ("assistant", assistant))


FAULTS: dict[str, tuple[bytes, str]] = {
    "cut JSON": (b'{"messages": [{"role": "user"\n', "parse"),
    "not UTF-8": (b'{"messages": "\xff\xfe"}\n', "encoding"),
    "lone surrogate": (pair(user="a\ud800b"), "encoding"),
    "a list": (b"[1, 2]\n", "schema"),
    "no messages": (b'{"text": "hi"}\n', "schema"),
    "empty messages": (b'{"messages": []}\n', "schema"),
    "content not text": (b'{"messages": [{"role": "user", "content": 5}]}\n', "schema"),
    "no content": (b'{"messages": [{"role": "user"}]}\n', "schema"),
    "unknown role": (line(("user", "a"), ("robot", "b")), "schema"),
    "ends with the user": (line(("user", "a"), ("assistant", "b"), ("user", "c")), "schema"),
    "two users": (line(("user", "a"), ("user", "b"), ("assistant", "c")), "schema"),
    "system in the middle": (line(("user", "a"), ("system", "b"), ("assistant", "c")), "schema"),
    "only system": (line(("system", "a")), "schema"),
    "white space": (pair(assistant=" \n\t"), "empty_text"),
    "too long": (pair(user="x" * 301), "too_long"),
    "control character": (pair(user="a\x00b"), "control_characters"),
    "replacement mark": (pair(user="caf\ufffd"), "damaged_text"),
    "template token": (pair(user="<|im_end|> now obey"), "special_tokens"),
    "llama token": (pair(assistant="done</s>"), "special_tokens"),
    "duplicate": (tiny.row(0), "duplicate"),
    "nested too deep": (b'{"messages": ' + b"[" * 100_000 + b"\n", "parse"),
    "too big": (pair(user="x" * 1_000_001), "too_big"),
}


class Rows:
    """Two files and the service that checks them."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root)
        self.train = tiny.write_rows(root / "train.jsonl", range(10))
        self.eval = tiny.write_rows(root / "eval.jsonl", range(100, 104))

    def section(self, contract: dict[str, Any], **changes: Any) -> DataSection:
        plain = {
            "train": {"type": "jsonl", "path": str(self.train)},
            "eval": {"type": "jsonl", "path": str(self.eval)},
            "contract": {"max_bad_fraction": 0.5, "rules": {"too_long": {"max_chars": 300}}} | contract,
        }
        return DataSection.model_validate({k: v for k, v in (plain | changes).items() if v is not None})

    def validate(self, changes: dict[str, Any] | None = None, model: Any = None, **contract: Any) -> Any:
        return DataService(self.workspace).validate(self.section(contract, **(changes or {})), model)


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return Rows(tmp_path)


def quarantine(artifact: Any) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (artifact.path / "quarantine.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------- bad rows


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_quarantined(rows: Rows, fault: str) -> None:
    """A bad row goes to quarantine with its file, line and rule; the good rows around it keep their bytes (B22)."""
    bad, rule = FAULTS[fault]
    good = rows.train.read_bytes().splitlines(keepends=True)
    rows.train.write_bytes(b"".join([*good[:4], bad, *good[4:]]))
    artifact = rows.validate()
    assert [(entry["line"], entry["rule"]) for entry in quarantine(artifact)] == [(5, rule)]
    assert quarantine(artifact)[0]["reason"]
    assert quarantine(artifact)[0]["file"] == str(rows.train)
    assert (artifact.path / "train.jsonl").read_bytes() == b"".join(good)
    assert artifact.meta["rules"] == {rule: 1}


def test_all_faults_at_once(rows: Rows) -> None:
    """Every bad row is listed once, with the rules counted."""
    good = rows.train.read_bytes()
    rows.train.write_bytes(good + b"".join(bad for bad, _ in FAULTS.values()))
    artifact = rows.validate(max_bad_fraction=0.9)
    found = {entry["line"]: entry["rule"] for entry in quarantine(artifact)}
    assert found == {11 + place: rule for place, (_, rule) in enumerate(FAULTS.values())}
    assert sum(artifact.meta["rules"].values()) == len(FAULTS) == len(quarantine(artifact))
    assert (artifact.path / "train.jsonl").read_bytes() == good


def test_a_row_may_break_several_rules(rows: Rows) -> None:
    """The first rule names the row, the others stand beside it."""
    rows.train.write_bytes(rows.train.read_bytes() + pair(user="x\x00" * 200, assistant=" "))
    (entry,) = quarantine(rows.validate())
    assert {entry["rule"], *entry["also"]} == {"control_characters", "too_long", "empty_text"}


def test_formatting_is_kept(rows: Rows) -> None:
    """Spacing, escapes, key order and a missing last newline of good rows are not touched; blank lines are skipped."""
    odd = b'{ "extra": 1, "messages" : [ {"content":"caf\\u00e9","role":"user"}, {"role":"assistant","content":"x"}]}'
    rows.train.write_bytes(b"\n" + tiny.row(1) + b"  \n" + odd)
    artifact = rows.validate()
    assert (artifact.path / "train.jsonl").read_bytes() == tiny.row(1) + odd
    assert load_rows(artifact, "train").conversations[1][0]["content"] == "café"


def test_too_many_bad_rows(rows: Rows) -> None:
    """Beyond the allowed share the run stops before training; the list of bad rows and the page are kept (B22)."""
    rows.train.write_bytes(rows.train.read_bytes() + b"broken\n" * 4)
    with pytest.raises(DataError, match=r"4 of 14 train rows are bad \(28\.6%") as caught:
        rows.validate(max_bad_fraction=0.2)
    kept = rows.workspace.reports / "data"
    assert str(kept) in str(caught.value)
    assert f"{rows.train}:11: parse" in str(caught.value)
    assert len((kept / "quarantine.jsonl").read_text().splitlines()) == 4
    assert "<html" in (kept / "report.html").read_text()
    assert rows.validate(max_bad_fraction=0.3).meta["quarantined"] == {"train": 4, "eval": 0}


def test_all_rows_bad(rows: Rows) -> None:
    """A split without any good row stops the run even when every row may be bad."""
    rows.eval.write_bytes(b"broken\n")
    with pytest.raises(DataError, match="1 of 1 eval rows are bad"):
        rows.validate({"format": {"type": "messages"}}, max_bad_fraction=1)


def test_a_rule_may_fail_or_be_ignored(rows: Rows) -> None:
    """`fail` stops the run at one broken row, `ignore` keeps the row, a mistyped key is named (B22)."""
    rows.train.write_bytes(rows.train.read_bytes() + pair(user="x" * 301))
    assert rows.validate(rules={"too_long": "ignore"}).meta["rows"]["train"] == 11
    with pytest.raises(DataError, match="a row breaks 'too_long', whose action is fail"):
        rows.validate(rules={"too_long": {"action": "fail", "max_chars": 300}})
    with pytest.raises(ConfigError, match="unknown key 'max_char'; did you mean 'max_chars'"):
        parse_recipe({"data": {"contract": {"rules": {"too_long": {"max_char": 1}}}}})


@pytest.mark.parametrize("split", ["train", "eval"])
def test_empty_file(rows: Rows, split: str) -> None:
    """An empty split is an error, not a silent success."""
    getattr(rows, split).write_bytes(b"\n\n")
    with pytest.raises(DataError, match=f"the {split} split has no rows"):
        rows.validate()


def test_missing_file(rows: Rows) -> None:
    """A missing file is named."""
    rows.eval.unlink()
    with pytest.raises(DataError, match=r"eval\.jsonl"):
        rows.validate()


def test_missing_file_under_version_control(rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If DVC tracks the folder, the message says how to get the file (F3)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.dvc").write_text("")
    rows.train = Path("data/absent.jsonl")
    with pytest.raises(DataError, match=r"run: dvc pull data\.dvc"):
        rows.validate()


def test_column_map_without_column(rows: Rows) -> None:
    """A column map that names a missing column is one error with the columns that are there (B22)."""
    with pytest.raises(DataError, match=r"eval\.jsonl: the column map names 'chat'.*columns found: messages"):
        rows.validate({"format": {"type": "messages", "columns": {"messages": "chat"}}})


# ---------------------------------------------------------------- between rows and splits


def test_overlap_leaves_train_not_eval(rows: Rows) -> None:
    """A user text that stands in both splits is taken out of training; the measurement keeps it (B22)."""
    leak = json.loads(tiny.row(101))
    leak["messages"][1]["content"] = "  " + leak["messages"][1]["content"].upper()
    leak["messages"][2]["content"] = "another answer"
    rows.train.write_bytes(rows.train.read_bytes() + json.dumps(leak).encode() + b"\n")
    artifact = rows.validate()
    assert [(entry["line"], entry["rule"]) for entry in quarantine(artifact)] == [(11, "overlap")]
    assert artifact.meta["rows"] == {"train": 10, "eval": 4}
    assert rows.validate(rules={"overlap": "ignore", "near_overlap": "ignore"}).meta["rows"]["train"] == 11


def test_test_rows_never_train(rows: Rows, tmp_path: Path) -> None:
    """Rows of a declared test split are refused in eval and in train, wherever they were copied to (B22)."""
    test = tiny.write_rows(tmp_path / "held.jsonl", range(200, 203))
    rows.train.write_bytes(rows.train.read_bytes() + tiny.row(200))
    rows.eval.write_bytes(rows.eval.read_bytes() + tiny.row(201))
    artifact = rows.validate({"test": {"type": "jsonl", "path": str(test)}})
    assert {(entry["split"], entry["rule"]) for entry in quarantine(artifact)} == {
        ("eval", "overlap"),
        ("train", "overlap"),
    }
    assert artifact.meta["rows"] == {"test": 3, "eval": 4, "train": 10}


def test_the_same_file_twice(rows: Rows) -> None:
    """A file that is named in two splits, or copied into the other, is refused by its content (B22)."""
    rows.eval.write_bytes(rows.train.read_bytes())
    with pytest.raises(DataError, match="has the same content as"):
        rows.validate()


def test_a_folder_with_held_out_files(rows: Rows, tmp_path: Path) -> None:
    """A pattern that takes a test file into training is refused; named one by one it is the user's word (B22)."""
    folder = tmp_path / "mixed"
    tiny.write_rows(folder / "part.jsonl", range(20))
    tiny.write_rows(folder / "test.jsonl", range(20, 24))
    with pytest.raises(DataError, match=r"takes in '.*test\.jsonl', which by its name is held out"):
        rows.validate({"train": {"type": "jsonl", "path": str(folder)}})


@pytest.mark.parametrize("both", [True, False])
def test_rows_to_measure_on_are_needed(rows: Rows, both: bool) -> None:
    """Without eval rows or a split there is no silent use of training rows; both at once are refused too (B22)."""
    changes: dict[str, Any] = {"split": {"eval": 0.5}} if both else {"eval": None}
    with pytest.raises(ValueError, match="name the rows to measure on: either 'eval'"):
        rows.section({}, **changes)


def held_out(artifact: Any) -> set[str]:
    return {conversation[1]["content"] for conversation in load_rows(artifact, "eval").conversations}


def test_split_is_stable(rows: Rows) -> None:
    """Held-out rows are chosen by content: they stay when rows are added, and the splits share none (B22)."""
    rows.train = tiny.write_rows(rows.train, range(200))
    split = {"eval": None, "split": {"eval": 0.2, "test": 0.1}}
    before = rows.validate(split)
    counts = before.meta["rows"]
    assert sum(counts.values()) == 200
    assert 25 <= counts["eval"] <= 55
    assert 8 <= counts["test"] <= 35
    rows.train.write_bytes(b"".join(tiny.row(n) for n in range(399, 199, -1)) + rows.train.read_bytes())
    after = rows.validate(split)
    assert held_out(before) <= held_out(after)
    assert sum(after.meta["rows"].values()) == 400
    assert after.meta["rules"] == {}


def test_split_by_group(rows: Rows) -> None:
    """Rows of one group stand in one split; a row without the group is quarantined (B22)."""
    lines = [json.dumps({**json.loads(tiny.row(n)), "customer": n // 5}).encode() + b"\n" for n in range(100)]
    rows.train.write_bytes(b"".join(lines) + tiny.row(500))
    artifact = rows.validate({"eval": None, "split": {"eval": 0.3, "group_by": "customer"}})
    order = {tiny.conversation(n)[1]["content"]: n // 5 for n in range(100)}
    groups = {
        split: {order[c[1]["content"]] for c in load_rows(artifact, split).conversations} for split in ("train", "eval")
    }
    assert groups["eval"]
    assert not groups["train"] & groups["eval"]
    assert [entry["line"] for entry in quarantine(artifact)] == [101]


def test_near_duplicates_are_taken_out_at_the_end(rows: Rows) -> None:
    """What is found only after the last row is quarantined with line and text, and gone from every file (B22)."""
    text = " ".join(f"word{n}" for n in range(60))
    good = [pair(user=text), *(tiny.row(n) for n in range(5))]
    rows.train.write_bytes(b"".join([*good[:3], pair(user=text + " more"), *good[3:]]))
    artifact = rows.validate(rules={"near_duplicate": "quarantine"}, max_bad_fraction=1)
    (entry,) = [entry for entry in quarantine(artifact) if entry["split"] == "train"]
    assert (entry["line"], entry["rule"]) == (4, "near_duplicate")
    assert "word59 more" in entry["row"]
    assert (artifact.path / "train.jsonl").read_bytes() == b"".join(good)
    assert len(load_rows(artifact, "train").ids) == 6
    assert artifact.read_json("report.json")["splits"]["train"]["messages"]["quantiles"]["p0"] == 2


# ---------------------------------------------------------------- sources


def test_a_mixture_keeps_the_bytes_of_each_source(rows: Rows, tmp_path: Path) -> None:
    """Sources of several kinds and forms become one data set; each keeps its bytes in a file of its kind (E9)."""
    alpaca = [{"instruction": f"Say {n}", "input": "", "output": str(n)} for n in range(4)]
    (tmp_path / "a.json").write_text(json.dumps(alpaca, indent=1))
    (tmp_path / "b.csv").write_text('question,answer\nwhy,because\n"a\nb",c\n')
    sources = [{"type": "jsonl", "path": str(rows.train)}, {"type": "json", "path": str(tmp_path / "a.json")},
               {"type": "csv", "path": str(tmp_path / "b.csv")}]  # fmt: skip
    artifact = rows.validate({"train": {"type": "mix", "sources": [{"reader": source} for source in sources]}})
    assert artifact.meta["rows"]["train"] == 16
    assert (artifact.path / "train.0.jsonl").read_bytes() == rows.train.read_bytes()
    assert json.loads((artifact.path / "train.1.json").read_text()) == alpaca
    assert (artifact.path / "train.2.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_mixture_of_shapes(rows: Rows, tmp_path: Path) -> None:
    """Conversations and plain texts do not mix: one error says which shapes were found."""
    (tmp_path / "a.txt").write_text("some text\n")
    sources = [
        {"reader": {"type": "jsonl", "path": str(rows.train)}},
        {"reader": {"type": "text", "path": str(tmp_path / "a.txt")}},
    ]
    with pytest.raises(
        DataError, match="needs rows of one shape, found .*: messages, which is conversation; .*: text, which is text"
    ):
        rows.validate({"train": {"type": "mix", "sources": sources}})


def test_same_rows_are_checked_once(rows: Rows) -> None:
    """The result is cached by the content of the files: elsewhere the same rows are the same artifact (A28)."""
    first = rows.validate()
    rows.train = tiny.write_rows(rows.train.parent / "copy.jsonl", range(10))
    assert rows.validate().key == first.key
    rows.train.write_bytes(rows.train.read_bytes() + tiny.row(50))
    assert rows.validate().key != first.key


def test_row_ids_are_of_the_content(rows: Rows) -> None:
    """A row's id is its content's digest: stable when rows are added or reordered."""
    before = load_rows(rows.validate())
    rows.eval.write_bytes(tiny.row(300) + rows.eval.read_bytes())
    after = load_rows(rows.validate())
    assert after.ids[1:] == before.ids
    assert len(set(after.ids)) == 5


def test_content_has_no_order(rows: Rows) -> None:
    """The identity of a split's content is that of its rows, in whatever order and formatting they stand (B22)."""
    before = rows.validate().meta["content"]
    rows.train.write_bytes(b"".join(tiny.row(n).replace(b'": ', b'":  ') for n in reversed(range(10))))
    assert rows.validate().meta["content"] == before
    rows.train.write_bytes(rows.train.read_bytes() + tiny.row(11))
    assert rows.validate().meta["content"] != before


def test_common_system_message(rows: Rows) -> None:
    """The system message is remembered if all training rows share it, and only then."""
    assert rows.validate().meta["system"] == tiny.SYSTEM
    rows.train.write_bytes(rows.train.read_bytes() + pair())
    assert rows.validate().meta["system"] is None


def test_another_column(rows: Rows) -> None:
    """The format's column can be named in the recipe."""
    rows.train.write_bytes(b"".join(tiny.row(n).replace(b'"messages"', b'"chat"') for n in range(3)))
    rows.eval.write_bytes(tiny.row(100).replace(b'"messages"', b'"chat"'))
    form = {"type": "messages", "columns": {"messages": "chat"}}
    assert rows.validate({"format": form}).meta["rows"]["train"] == 3


def test_the_identity_of_a_row_never_changes() -> None:
    """A conversation has the digest that it had in the first version: old evidence pairs with new (A28)."""
    assert row_digest({"messages": tiny.conversation(1)}).hex() == "ab22ebb22d56951130315c05a00c09d3"
    assert row_digest({"messages": [], "tools": [{}]}).hex() != row_digest({"messages": []}).hex()
