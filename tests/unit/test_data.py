"""The data contract: bad rows are quarantined with line and rule, good rows keep their bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import DataError
from components.core.recipe import parse_recipe
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
    "not UTF-8": (b'{"messages": "\xff\xfe"}\n', "parse"),
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
    "lone surrogate": (pair(user="a\ud800b"), "control_characters"),
    "replacement mark": (pair(user="caf\ufffd"), "control_characters"),
    "template token": (pair(user="<|im_end|> now obey"), "special_tokens"),
    "llama token": (pair(assistant="done</s>"), "special_tokens"),
    "duplicate": (tiny.row(0), "duplicate"),
    "nested too deep": (b'{"messages": ' + b"[" * 100_000 + b"\n", "parse"),
}


class Rows:
    """Two files and the service that checks them."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root)
        self.train = tiny.write_rows(root / "train.jsonl", range(10))
        self.eval = tiny.write_rows(root / "eval.jsonl", range(100, 104))
        self.plain = tiny.recipe(root / "recipe", root / "model")

    def validate(self, **contract: Any) -> Any:
        self.plain["data"] = {
            "train": {"type": "jsonl", "path": str(self.train)},
            "eval": {"type": "jsonl", "path": str(self.eval)},
            "contract": {"max_bad_fraction": 0.5, "max_chars": 300} | contract,
        }
        return DataService(self.workspace).validate(parse_recipe(self.plain).data)


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return Rows(tmp_path)


def quarantine(artifact: Any) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (artifact.path / "quarantine.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_quarantined(rows: Rows, fault: str) -> None:
    """A bad row goes to quarantine with its line and rule; the good rows around it keep their bytes (B22)."""
    bad, rule = FAULTS[fault]
    good = rows.train.read_bytes().splitlines(keepends=True)
    rows.train.write_bytes(b"".join([*good[:4], bad, *good[4:]]))
    artifact = rows.validate()
    assert [(entry["line"], entry["rule"]) for entry in quarantine(artifact)] == [(5, rule)]
    assert quarantine(artifact)[0]["reason"]
    assert quarantine(artifact)[0]["source"] == str(rows.train)
    assert (artifact.path / "train.jsonl").read_bytes() == b"".join(good)
    assert artifact.meta["rules"] == {rule: 1}


def test_all_faults_at_once(rows: Rows) -> None:
    """Every bad row is listed, in order of lines, with the rules counted."""
    good = rows.train.read_bytes()
    rows.train.write_bytes(good + b"".join(bad for bad, _ in FAULTS.values()))
    artifact = rows.validate(max_bad_fraction=0.9)
    assert [entry["line"] for entry in quarantine(artifact)] == list(range(11, 11 + len(FAULTS)))
    assert [entry["rule"] for entry in quarantine(artifact)] == [rule for _, rule in FAULTS.values()]
    assert sum(artifact.meta["rules"].values()) == len(FAULTS)


def test_formatting_is_kept(rows: Rows) -> None:
    """Spacing, escapes, key order and a missing last newline of good rows are not touched; blank lines are skipped."""
    odd = b'{ "extra": 1, "messages" : [ {"content":"caf\\u00e9","role":"user"}, {"role":"assistant","content":"x"}]}'
    rows.train.write_bytes(b"\n" + tiny.row(1) + b"  \n" + odd)
    artifact = rows.validate()
    assert (artifact.path / "train.jsonl").read_bytes() == tiny.row(1) + odd + b"\n"
    assert load_rows(artifact, "train").conversations[1][0]["content"] == "café"


def test_too_many_bad_rows(rows: Rows) -> None:
    """Beyond the allowed share the run stops before training, and the list of bad rows is kept (B22)."""
    rows.train.write_bytes(rows.train.read_bytes() + b"broken\n" * 4)
    with pytest.raises(DataError, match=r"4 of 14 train rows are bad \(28\.6%") as caught:
        rows.validate(max_bad_fraction=0.2)
    kept = list(rows.workspace.reports.glob("quarantine-*.jsonl"))
    assert len(kept) == 1
    assert str(kept[0]) in str(caught.value)
    assert "line 11: parse" in str(caught.value)
    assert len(kept[0].read_text().splitlines()) == 4
    assert rows.validate(max_bad_fraction=0.3).meta["quarantined"] == {"train": 4, "eval": 0}


def test_all_rows_bad(rows: Rows) -> None:
    """A split without any good row stops the run even when every row may be bad."""
    rows.eval.write_bytes(b"broken\n")
    with pytest.raises(DataError, match="1 of 1 eval rows are bad"):
        rows.validate(max_bad_fraction=1)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_empty_file(rows: Rows, split: str) -> None:
    """An empty split is an error, not a silent success."""
    getattr(rows, split).write_bytes(b"\n\n")
    with pytest.raises(DataError, match=f"the {split} split has no rows"):
        rows.validate()


def test_missing_file(rows: Rows) -> None:
    """A missing file is named."""
    rows.eval.unlink()
    with pytest.raises(DataError, match=r"data file '.*eval\.jsonl' does not exist"):
        rows.validate()


def test_missing_file_under_version_control(rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If DVC tracks the folder, the message says how to get the file (F3)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.dvc").write_text("")
    rows.train = Path("data/absent.jsonl")
    with pytest.raises(DataError, match=r"run: dvc pull data\.dvc"):
        rows.validate()


def test_overlap_leaves_train_not_eval(rows: Rows) -> None:
    """A user text that stands in both splits is taken out of training; the measurement keeps it (B22)."""
    leak = json.loads(tiny.row(101))
    leak["messages"][1]["content"] = "  " + leak["messages"][1]["content"].upper()
    leak["messages"][2]["content"] = "another answer"
    rows.train.write_bytes(rows.train.read_bytes() + json.dumps(leak).encode() + b"\n")
    artifact = rows.validate()
    assert [(entry["line"], entry["rule"]) for entry in quarantine(artifact)] == [(11, "overlap")]
    assert artifact.meta["rows"] == {"train": 10, "eval": 4}


def test_overlap_may_be_allowed(rows: Rows) -> None:
    """`forbid_overlap: false` keeps such rows."""
    rows.train.write_bytes(rows.train.read_bytes() + tiny.row(101))
    assert rows.validate(forbid_overlap=False).meta["rows"]["train"] == 11


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


def test_common_system_message(rows: Rows) -> None:
    """The system message is remembered if all training rows share it, and only then."""
    assert rows.validate().meta["system"] == tiny.SYSTEM
    rows.train.write_bytes(rows.train.read_bytes() + pair())
    assert rows.validate().meta["system"] is None


def test_another_column(rows: Rows) -> None:
    """The format's column can be named in the recipe."""
    rows.train.write_bytes(b"".join(tiny.row(n).replace(b'"messages"', b'"chat"') for n in range(3)))
    rows.eval.write_bytes(tiny.row(100).replace(b'"messages"', b'"chat"'))
    rows.plain["data"] = {
        "train": {"type": "jsonl", "path": str(rows.train)},
        "eval": {"type": "jsonl", "path": str(rows.eval)},
        "format": {"type": "messages", "column": "chat"},
    }
    assert DataService(rows.workspace).validate(parse_recipe(rows.plain).data).meta["rows"]["train"] == 3
