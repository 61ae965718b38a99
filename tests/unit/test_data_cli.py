"""`postmill data`: looking at rows, checking, rewriting and finding them, as a user of the command line sees it."""

from __future__ import annotations

import gzip
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from tests import tiny

QUESTIONS = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(8)]


def invoke(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `postmill data ...` in this process."""
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.stderr
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a directory and a store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POSTMILL_ROOT", str(tmp_path))


def lines(path: str, rows: list[Any]) -> Path:
    """A JSON Lines file; text is written as it is."""
    texts = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    Path(path).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return Path(path)


def recipe(model: Path, **changes: Any) -> Path:
    """The tiny recipe in this directory."""
    return tiny.write_recipe(Path("r.yaml"), tiny.recipe(Path.cwd(), model, **changes))


# ---------------------------------------------------------------- inspect


def test_inspect(tmp_path: Path) -> None:
    """`inspect` shows files, rows, columns, format, rows as they stand and as messages, and YAML (B22, E9)."""
    lines("q.jsonl", [*QUESTIONS, {"question": "And?", "answer": "", "source": "x"}, "broken"])
    code, out, err = invoke("inspect", "q.jsonl", "--rows", "1")
    assert (code, err) == (0, "")
    for part in (
        "jsonl",
        "10, 1 of them unreadable",
        "prompt_completion",
        "shape: conversation",
        "q.jsonl:10: not JSON",
    ):
        assert part in out
    assert '{"question": "What is 0 + 0?", "answer": "0"}' in out
    assert "user: What is 0 + 0?" in out
    assert "assistant: 0" in out
    assert "88.9%" in out  # one of nine answers is empty
    assert "11.1%" in out  # one of nine has a source
    assert "text, absent" in out
    assert out.count("── row") == 1
    assert "  train: {type: jsonl, path: q.jsonl}\n  split: {eval: 0.1}" in out


def test_inspected_lines_are_a_recipe(tmp_path: Path, tiny_model: Path) -> None:
    """The lines that `inspect` prints validate as they are, keys and format included (E9)."""
    import yaml

    lines("q.jsonl", [{"ask": f"What is {n} + {n}?", "say": str(2 * n)} for n in range(40)])
    form = "{type: prompt_completion, columns: {prompt: ask, completion: say}}"
    code, out, _ = invoke("inspect", "{type: jsonl, path: q.jsonl, max_row_bytes: 500}", "--format", form)
    assert code == 0
    section = yaml.safe_load(out.partition("── in a recipe\n")[2])["data"]
    assert section["train"]["max_row_bytes"] == 500
    code, out, err = invoke("validate", recipe(tiny_model, data=section))
    assert (code, err) == (0, "")


def test_inspect_of_an_unknown_form() -> None:
    """Rows of no known form are shown with their columns, and the message says how to map them; code 1 (B22)."""
    Path("x.csv").write_text("a,b\n1,2\n")
    code, out, err = invoke("inspect", "x.csv")
    assert code == 1
    assert "x.csv:2" in out
    assert "found: columns a, b" in err
    assert "prompt: <column>" in err
    assert "── in a recipe" not in out


@pytest.mark.parametrize(
    ("source", "format_", "code", "message"),
    [
        ("absent.jsonl", None, 1, "does not exist"),
        ("empty.jsonl", None, 1, "'empty.jsonl' has no rows"),
        ("bad.jsonl", None, 1, "has no row that can be read as it is"),
        ("r.yaml", None, 2, "is a recipe"),
        ("{path: x}", None, 2, "write a component of kind reader as {type: NAME, ...}"),
        ("{type: jsonl, path: q.jsonl, unti: 3}", None, 2, "data.train.unti: unknown key 'unti'"),
        ("q.jsonl", "alpacca", 2, "did you mean 'alpaca'"),
        ("q.jsonl", "{type: alpaca, columns: {x: y}}", 2, "the format has no column 'x'"),
        ("q.jsonl", "alpaca", 1, "no row is of the form 'alpaca'"),
    ],
)
def test_inspect_refuses(source: str, format_: str | None, code: int, message: str) -> None:
    """What cannot be inspected ends as one message that says why, without a traceback."""
    lines("q.jsonl", QUESTIONS)
    lines("bad.jsonl", ["broken"])
    Path("empty.jsonl").touch()
    found, _, err = invoke("inspect", source, *(["--format", format_] if format_ else []))
    assert found == code
    assert message in err


def test_control_characters_are_written_out() -> None:
    """What would drive the terminal is never printed as it stands: a row is data, not commands."""
    lines("q.jsonl", [{"question": "\x1b[2J\x1b]0;owned\x07 \u202eabc", "answer": "a"}])
    _, out, _ = invoke("inspect", "q.jsonl")
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "\u202e" not in out
    assert "user: \\x1b[2J\\x1b]0;owned\\x07 \\x202eabc" in out


# ---------------------------------------------------------------- validate


def test_validate(tmp_path: Path, tiny_model: Path) -> None:
    """`validate` of a recipe prints splits and rules, and writes the page that is asked for (B22)."""
    code, out, err = invoke("validate", recipe(tiny_model), "--html", "page.html")
    assert (code, err) == (0, "")
    for part in ("train", "24", "eval", "overlap", "end_of_turn", "the contract holds", "page.html"):
        assert part in out
    assert "<html" in Path("page.html").read_text().lower()[:200]


def test_validate_fails(tmp_path: Path, tiny_model: Path) -> None:
    """A broken contract is code 1: the same tables, the bad rows with file and line, the quarantine kept (B22)."""
    path = recipe(tiny_model)
    with Path("rows/train.jsonl").open("a") as handle:
        handle.write("broken\n")
    for _ in range(2):  # what the first one left must not be taken for the second one's
        code, out, err = invoke("validate", path)
        assert code == 1
        assert "train.jsonl:25: parse: not JSON" in out
        assert "bad rows: reports/data/quarantine.jsonl" in out
        assert err.startswith("error: 1 of 25 train rows are bad (4.0%)")
        assert len(err.splitlines()) == 3  # what, where to look, and what can be done
    assert json.loads(Path("reports/data/quarantine.jsonl").read_text())["line"] == 25
    Path("rows/eval.jsonl").unlink()
    code, out, err = invoke("validate", path)
    assert (code, out) == (1, "")  # nothing was counted: the old report is not shown again
    assert "does not exist" in err


def test_validate_a_source() -> None:
    """A source is checked alone: all its rows in one split, no model, rules about tokens named as not asked (B22)."""
    lines("q.jsonl", [*QUESTIONS, QUESTIONS[0]])
    code, out, err = invoke("validate", "q.jsonl", "--set", "data.contract.max_bad_fraction=0.2")
    assert (code, err) == (0, "")
    assert "q.jsonl:9: duplicate" in out
    assert "asked only with a model: end_of_turn" in out
    assert "eval" not in out.partition("rule")[0]
    assert invoke("validate", "q.jsonl")[0] == 1


def test_a_source_may_be_split() -> None:
    """Keys of the data section may be given to a source, a split among them; others are refused."""
    lines("q.jsonl", [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(60)])
    code, out, _ = invoke("validate", "q.jsonl", "--set", "data.split.eval=0.3")
    assert code == 0
    assert "eval" in out.partition("rule")[0]
    code, _, err = invoke("validate", "q.jsonl", "--set", "seed=3")
    assert code == 2
    assert "a source has no keys but data.*" in err


# ---------------------------------------------------------------- preview and stats


def test_preview(tiny_model: Path) -> None:
    """Without colours what is trained on stands in brackets, special tokens are visible, and places are named (B22)."""
    code, out, err = invoke("preview", recipe(tiny_model), "--rows", "2", "--start", "1")
    assert (code, err) == (0, "")
    assert "── train 1  " in out
    assert "train.jsonl:2" in out
    assert out.count("⟦") == out.count("⟧") == 2
    assert '<|im_start|>assistant\n⟦{"category":"refund","priority":"normal"}<|im_end|>⟧' in out


def test_preview_of_tokens(tiny_model: Path) -> None:
    """`--tokens` lists every token once with its id, those that are trained on marked (B22)."""
    from components.core.chat import encode_chat

    tokenizer = tiny.tokenizer()
    encoded = encode_chat(tokenizer, tiny.conversation(100))
    code, out, _ = invoke("preview", recipe(tiny_model), "--split", "eval", "--rows", "1", "--tokens")
    rows = [line.split() for line in out.splitlines()[1:]]
    assert code == 0
    assert len(rows) == len(encoded.ids)
    assert [int(row[2 if row[1] == ">" else 1]) for row in rows] == list(encoded.ids)
    trained = [at for at, row in enumerate(rows) if row[1] == ">"]
    assert trained == [at for first, end in encoded.spans for at in range(first, end)]
    assert rows[0][-1] == "special"


def test_characters_of_several_tokens_stay_whole(tiny_model: Path) -> None:
    """A character that is several tokens is shown as itself, not in parts that no terminal can draw."""
    plain = tiny.recipe(Path.cwd(), tiny_model)
    row = {
        "messages": [
            {"role": "user", "content": "Grüße, 世界 🙂?"},
            {"role": "assistant", "content": "Ahoj, příteli 🙂"},
        ]
    }
    plain["data"]["train"]["path"] = str(lines("train.jsonl", [row]))
    code, out, _ = invoke("preview", tiny.write_recipe(Path("r.yaml"), plain))
    assert code == 0
    assert "Grüße, 世界 🙂?" in out
    assert "⟦Ahoj, příteli 🙂<|im_end|>" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["preview", "r.yaml", "--split", "tset"], 1, "no split 'tset' with rows; it has eval, train"),
        (["preview", "r.yaml", "--start", "24"], 1, "train has 24 good rows, counted from 0; there is none at 24"),
        (["preview", "rows/train.jsonl"], 2, "is no recipe"),
        (["lock", "rows/train.jsonl"], 2, "is no recipe"),
        (["stats", "absent.yaml"], 2, "absent.yaml"),
    ],
)
def test_what_is_not_there(tiny_model: Path, arguments: list[str], code: int, message: str) -> None:
    """What does not exist is named, with what does."""
    recipe(tiny_model)
    found, _, err = invoke(*arguments)
    assert found == code
    assert message in err


def test_stats(tiny_model: Path) -> None:
    """`stats` counts the rows above each limit, the trained part and the cost of an epoch from the tokens (B22)."""
    path = recipe(tiny_model)
    code, out, err = invoke("stats", path)
    assert (code, err) == (0, "")
    assert "2,048 (context)" in out
    assert "1,024 (train.0.max_length)" in out
    assert "█" in out
    assert "3 steps see 6 rows, 0.25 epochs" in out
    from components.core.chat import encode_chat

    tokens = sum(len(encode_chat(tiny.tokenizer(), tiny.conversation(number)).ids) for number in range(24))
    assert f"one epoch: {tokens:,} tokens" in out


def test_stats_of_long_rows(tiny_model: Path) -> None:
    """Rows longer than a limit are counted with their share (B22)."""
    plain = tiny.recipe(Path.cwd(), tiny_model)
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{n} " + "x" * (600 * (n % 2))},
                {"role": "assistant", "content": "a"},
            ]
        }
        for n in range(4)
    ]
    plain["data"]["train"]["path"] = str(lines("train.jsonl", rows))
    _, out, _ = invoke("stats", tiny.write_recipe(Path("r.yaml"), plain))
    assert "2 (50.0%)" in out


def test_stats_of_a_source() -> None:
    """A source alone has lengths in characters, and a word on why there are no tokens."""
    lines("q.jsonl", QUESTIONS)
    code, out, _ = invoke("stats", "q.jsonl")
    assert code == 0
    assert "characters of the train rows" in out
    assert "name a recipe" in out


def test_histogram() -> None:
    """Every bar that stands for a row is seen, and the highest fills the chart."""
    import io

    from rich.console import Console

    from flows.data.stats import HEIGHT, print_histogram

    screen = Console(file=io.StringIO(), width=100)
    print_histogram(screen, {"counts": [1, 0, 10_000], "edges": [0.0, 1.0, 2.0, 3.0]}, "rows")
    bars = [line[10:] for line in screen.file.getvalue().splitlines() if "│" in line]  # type: ignore[attr-defined]
    assert len(bars) == HEIGHT
    assert bars[-1] == "▁▁▁▁    ████"
    assert all(bar == "        ████" for bar in bars[:-1])


# ---------------------------------------------------------------- convert


@pytest.mark.parametrize("name", ["out.jsonl", "out.json", "out.jsonl.gz", "out.json.gz"])
def test_convert(name: str) -> None:
    """Every row is written in the other form, and says the same when it is read again (E9)."""
    lines("q.jsonl", QUESTIONS)
    code, out, err = invoke("convert", "q.jsonl", name, "--to", "messages")
    assert (code, out, err) == (0, f"8 rows: {name}\n", "")
    data = Path(name).read_bytes()
    text = gzip.decompress(data) if name.endswith(".gz") else data
    rows = json.loads(text) if ".jsonl" not in name else [json.loads(line) for line in text.splitlines()]
    assert rows[3] == {
        "messages": [{"role": "user", "content": "What is 3 + 3?"}, {"role": "assistant", "content": "6"}]
    }
    assert invoke("convert", name, "back.jsonl", "--to", "prompt_completion")[0] == 0
    again = [json.loads(line) for line in Path("back.jsonl").read_text().splitlines()]
    assert again == [{"prompt": row["question"], "completion": row["answer"]} for row in QUESTIONS]


def test_convert_is_repeatable() -> None:
    """The same rows give the same bytes, compressed ones too."""
    lines("q.jsonl", QUESTIONS)
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        invoke("convert", "q.jsonl", name, "--to", "messages")
    assert Path("a.jsonl.gz").read_bytes() == Path("b.jsonl.gz").read_bytes()


def test_convert_writes_nothing_if_a_row_is_bad() -> None:
    """Bad rows are listed with file and line, nothing is written, code 1 (B22)."""
    lines("q.jsonl", [*QUESTIONS, "broken", {"question": "only"}])
    code, out, err = invoke("convert", "q.jsonl", "out.jsonl", "--to", "messages")
    assert (code, out) == (1, "")
    assert "q.jsonl:9: not JSON" in err
    assert "q.jsonl:10: " in err
    assert "error: nothing was written: 2 of 10 rows are bad" in err
    assert sorted(p.name for p in Path().iterdir()) == ["q.jsonl"]


def test_convert_skips_bad_rows_into_a_file() -> None:
    """`--skip-bad` writes the good rows and, whole, the others beside them: nothing is dropped without a word (B22)."""
    long = json.dumps({"question": "x" * 5_000})
    lines("q.jsonl", [*QUESTIONS, long])
    code, out, _ = invoke("convert", "q.jsonl", "out.jsonl", "--to", "messages", "--skip-bad")
    assert code == 0
    assert out == "8 rows: out.jsonl\n1 bad rows: out.rejected.jsonl\n"
    (rejected,) = map(json.loads, Path("out.rejected.jsonl").read_text().splitlines())
    assert (rejected["file"], rejected["line"], rejected["row"]) == ("q.jsonl", 9, long)
    lines("q.jsonl", QUESTIONS)
    assert invoke("convert", "q.jsonl", "out.jsonl", "--to", "messages", "--skip-bad", "--force")[0] == 0
    assert not Path("out.rejected.jsonl").exists()


def test_convert_says_which_columns_it_leaves() -> None:
    """Columns that the form does not know are named with the number of rows that had them."""
    lines("q.jsonl", [{**row, "id": n} for n, row in enumerate(QUESTIONS)])
    _, _, err = invoke("convert", "q.jsonl", "out.jsonl", "--to", "messages")
    assert err == "note: the column 'id' is not in the new rows (8 rows had it)\n"


def test_convert_keeps_what_is_there() -> None:
    """A file that exists is not overwritten without `--force`, and stays whole when a conversion fails."""
    lines("q.jsonl", QUESTIONS)
    Path("out.jsonl").write_text("mine")
    code, _, err = invoke("convert", "q.jsonl", "out.jsonl", "--to", "messages")
    assert code == 2
    assert "'out.jsonl' exists" in err
    lines("bad.jsonl", [*QUESTIONS, "broken"])
    assert invoke("convert", "bad.jsonl", "out.jsonl", "--to", "messages", "--force")[0] == 1
    assert Path("out.jsonl").read_text() == "mine"
    assert invoke("convert", "q.jsonl", "out.jsonl", "--to", "messages", "--force")[0] == 0
    assert len(Path("out.jsonl").read_text().splitlines()) == 8
    assert stat.S_IMODE(os.stat("out.jsonl").st_mode) == stat.S_IMODE(os.stat("q.jsonl").st_mode)


@pytest.mark.parametrize(
    ("out", "to", "message"),
    [
        ("out.txt", "messages", "end the name in one of .jsonl, .json"),
        ("no/out.jsonl", "messages", "the directory 'no' does not exist"),
        ("out.jsonl", "mesages", "did you mean 'messages'"),
        ("out.jsonl", "preference", "of shape conversation; 'preference' holds rows of shape preference"),
    ],
)
def test_convert_refuses(out: str, to: str, message: str) -> None:
    """What cannot be written is refused before a row is read, and leaves nothing behind."""
    lines("q.jsonl", QUESTIONS)
    code, _, err = invoke("convert", "q.jsonl", out, "--to", to)
    assert code in (1, 2)
    assert message in err
    assert sorted(p.name for p in Path().iterdir()) == ["q.jsonl"]


# ---------------------------------------------------------------- lock


def test_lock_and_dirty_data(tiny_model: Path) -> None:
    """A locked recipe refuses changed files unless `--allow-dirty` is given; locking again says what changed (B22)."""
    path = recipe(tiny_model)
    code, out, _ = invoke("lock", path)
    assert (code, out) == (0, "r.lock: 2 files; new\n")
    assert invoke("lock", path)[1] == "r.lock: 2 files; nothing changed\n"
    tiny.write_rows(Path("rows/train.jsonl"), range(30))
    code, _, err = invoke("validate", path)
    assert code == 1
    assert "data changed since 'r.lock' was written" in err
    for command in ("validate", "preview", "stats"):
        assert invoke(command, path, "--allow-dirty")[0] == 0
    assert "changed since it was locked: " in invoke("validate", path, "--allow-dirty")[1]
    result = CliRunner().invoke(app, ["check", str(path), "--allow-dirty"])
    assert result.exit_code == 0, result.output
    code, out, _ = invoke("lock", path)
    assert code == 0
    assert "what changed:" in out
    assert "rows/train.jsonl: locked " in out
    assert invoke("validate", path)[0] == 0


def test_a_damaged_lock_is_written_again(tiny_model: Path) -> None:
    """A lock that cannot be read is told and replaced."""
    path = recipe(tiny_model)
    Path("r.lock").write_text("{")
    code, out, _ = invoke("lock", path)
    assert code == 0
    assert "is damaged" in out
    assert len(json.loads(Path("r.lock").read_text())["files"]) == 2


# ---------------------------------------------------------------- find


@pytest.fixture
def stored(tiny_model: Path) -> Path:
    """A recipe whose data set is in the store."""
    path = recipe(tiny_model)
    assert invoke("validate", path)[0] == 0
    return path


def test_find_every_way(stored: Path) -> None:
    """A row is found as JSON, by its place, by the beginning of its digest and by what the user says in it (B22)."""
    row = {"messages": tiny.conversation(4)}
    by_json = json.loads(invoke("find", json.dumps(row), "--json")[1])
    assert by_json["found"][0]["places"][0]["line"] == 5
    digest = by_json["found"][0]["places"][0]["digest"]
    for text in (
        json.dumps(row, indent=1),
        "rows/train.jsonl:5",
        digest,
        digest[:8],
        row["messages"][1]["content"].lower(),
    ):
        code, out, err = invoke("find", text)
        assert (code, err) == (0, "")
        assert "train.jsonl:5" in out
        assert digest[:16] in out
        assert "no model here was trained or measured on it" in out


def test_find_another_form(stored: Path) -> None:
    """A row is the same row in whatever form it is written: here as ShareGPT's turns."""
    system, user, assistant = (message["content"] for message in tiny.conversation(4))
    turns = [("system", system), ("human", user), ("gpt", assistant)]
    row = {"conversations": [{"from": who, "value": text} for who, text in turns]}
    assert "train.jsonl:5" in invoke("find", json.dumps(row))[1]


def test_find_nothing(stored: Path) -> None:
    """A row that stands nowhere is code 1; the question with another answer is hinted at, and `--said` finds it."""
    system, user, _ = tiny.conversation(4)
    row = json.dumps({"messages": [system, user, {"role": "assistant", "content": "else"}]})
    code, out, err = invoke("find", row)
    assert (code, err) == (1, "")
    assert "not in the one data set here" in out
    assert "add --said" in out
    code, out, _ = invoke("find", row, "--said")
    assert code == 0
    assert "train.jsonl:5" in out
    code, out, _ = invoke("find", "never said", "--json")
    assert code == 1
    assert json.loads(out)["found"] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{broken", "begins like JSON but is none"),
        ('{"a": 1}', "found: columns a"),
        ('{"messages": []}', "found: columns messages"),
        ("rows/train.jsonl:99", "no row begins on line 99; the last one begins on line 24"),
        ("absent.jsonl:3", "'absent.jsonl' does not exist"),
    ],
)
def test_find_refuses(tiny_model: Path, text: str, message: str) -> None:
    """What is meant as a row but is none is a message, not a search for something else."""
    recipe(tiny_model)
    code, _, err = invoke("find", text)
    assert code == 1
    assert message in err


def test_help_is_short() -> None:
    """Every command says in its first line what it does, in less than a terminal's width."""
    result = CliRunner().invoke(app, ["data", "--help"])
    for command in ("inspect", "validate", "preview", "stats", "convert", "lock", "find"):
        assert command in result.stdout
        assert CliRunner().invoke(app, ["data", command, "--help"]).exit_code == 0
