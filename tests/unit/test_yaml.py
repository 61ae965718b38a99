"""Configuration files: what is read, what is refused, always with one ConfigError that names file and line."""

from __future__ import annotations

import json
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.core import documents
from components.core.documents import MAX_BYTES, MAX_DEPTH, load_document
from components.core.errors import ConfigError


def refused(path: Path, content: str | bytes) -> str:
    """The message with which this file content is refused."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as caught:
        load_document(path)
    assert str(path) in str(caught.value)
    assert len(caught.value.problems) == 1
    return str(caught.value)


def read(path: Path, content: str | bytes) -> Any:
    """What this file content is read as."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_document(path).data


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "recipe.yaml"


@pytest.fixture
def json_file(tmp_path: Path) -> Path:
    return tmp_path / "recipe.json"


# ---------------------------------------------------------------- what is read


def test_plain_file_keeps_lines(file: Path) -> None:
    """A good file becomes plain data, and every key knows its line (A36)."""
    file.write_text("name: a\ntrain:\n  - type: sft\n    max_steps: 3\n")
    document = load_document(file)
    assert document.data == {"name": "a", "train": [{"type": "sft", "max_steps": 3}]}
    assert document.files == [file]
    assert document.locate(("train", 0, "max_steps")) == f"{file}:4"
    assert document.locate(("train", 0, "absent")) == f"{file}:3"
    assert document.locate(()) == str(file)


def test_json_is_read_too(json_file: Path) -> None:
    """A file whose name ends in .json is read as JSON, and its keys are located in it (A36)."""
    json_file.write_text('{"name": "a", "train": [{"type": "sft"}]}')
    document = load_document(json_file)
    assert document.data == {"name": "a", "train": [{"type": "sft"}]}
    assert document.locate(("train", 0, "type")) == str(json_file)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\ufeff", "~\n"])
def test_empty_file_is_an_empty_mapping(file: Path, text: str) -> None:
    """An empty file is an empty recipe, so that the missing keys are reported and not the emptiness (E3)."""
    assert read(file, text) == {}


def test_scalars_are_typed(file: Path) -> None:
    """Numbers, booleans, null and text arrive as themselves (E1)."""
    text = "a: 1\nb: 2.5e-4\nc: true\nd: null\ne: '7'\nf: .inf\ng: 0x1f\n"
    assert read(file, text) == {"a": 1, "b": 2.5e-4, "c": True, "d": None, "e": "7", "f": float("inf"), "g": 31}


@pytest.mark.parametrize("text", ["2026-01-31", "2026-13-45", "2026-01-31 10:00:00", "="])
def test_dates_are_text(file: Path, text: str) -> None:
    """What YAML would take for a date stays text, as a name may look like one (E1)."""
    assert read(file, f"name: {text}\n") == {"name": text}


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe.json"])
def test_byte_order_mark(tmp_path: Path, name: str) -> None:
    """A file from a Windows editor, with byte order mark and carriage returns, is read like any other (A36)."""
    assert read(tmp_path / name, '\ufeff{"a":\r\n "b"}\r\n') == {"a": "b"}


def test_keys_are_text(file: Path) -> None:
    """Every plain key is text, however it looks (A36)."""
    assert read(file, "1: a\ntrue: b\n~: c\n<<: d\n") == {"1": "a", "true": "b", "~": "c", "<<": "d"}


def test_an_anchor_without_alias_is_harmless(file: Path) -> None:
    """An anchor that nobody uses changes nothing (A36)."""
    assert read(file, "a: &x [1]\n") == {"a": [1]}


def test_reading_leaves_nothing_behind(file: Path) -> None:
    """Reading a file again and again keeps nothing of it in memory, as a process with live configuration must (A39)."""
    file.write_text("a: [1, 2.5, text, true]\nb: 2026-01-31\n")
    for _ in range(3):
        load_document(file)
    loaders = [handler.__self__ for handler in documents._TYPED.values()]
    assert not any(loader.constructed_objects or loader.state_generators for loader in loaders)


# ---------------------------------------------------------------- what is refused


def test_duplicate_key(file: Path) -> None:
    """A key that stands twice is refused with both lines; YAML would silently take the last (E3)."""
    text = refused(file, "name: a\nseed: 1\nname: b\n")
    assert text == f"{file}:3: key 'name' stands twice (first on line 1)"


def test_duplicate_key_in_depth(file: Path) -> None:
    """The same holds in nested mappings inside lists (E3)."""
    assert ":4: key 'r' stands twice (first on line 3)" in refused(file, "train:\n  - lora:\n      r: 1\n      r: 2\n")


@pytest.mark.parametrize("text", ["1: a\n'1': b\n", "{a: 1, a: 1}\n"])
def test_duplicate_key_in_disguise(file: Path, text: str) -> None:
    """Two spellings of one key, and one key in one line, are duplicates too (E3)."""
    assert "stands twice" in refused(file, text)


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: *x\n",
        "a: &x\n  b: *x\n",
        "a: &a [b]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "a: &x [*x]\n",
        "<<: &m {a: 1}\nb: {<<: *m}\n",
    ],
)
def test_aliases(file: Path, text: str) -> None:
    """Aliases are refused with their line: they may point at their own parent or unfold to gigabytes (E3)."""
    assert "aliases (*" in refused(file, text)


@pytest.mark.parametrize("text", ["a:\n\tb: 1\n", "a: 1\n\tb: 1\n", "train:\n  - type: sft\n\t  max_steps: 1\n"])
def test_tab(file: Path, text: str) -> None:
    """A tab as indentation is refused with its line (E3)."""
    line = text[: text.index("\t")].count("\n") + 1
    assert refused(file, text).startswith(f"{file}:{line}: not valid YAML")


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe.json"])
def test_oversize(tmp_path: Path, name: str) -> None:
    """A file larger than the limit is refused before it is read, be it 50 MB (E3)."""
    for size in (MAX_BYTES + 1, 50_000_000):
        with (tmp_path / name).open("wb") as handle:
            handle.truncate(size)  # sparse: takes no disk
        with pytest.raises(ConfigError, match=f"{size:,} bytes; a configuration has at most {MAX_BYTES:,}"):
            load_document(tmp_path / name)


def test_largest_allowed(file: Path) -> None:
    """A file of exactly the limit is read (E3)."""
    assert read(file, b"a: 1\n" + b"#" * (MAX_BYTES - 5)) == {"a": 1}


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe.json"])
@pytest.mark.parametrize("content", [b"name: \xff\xfe\n", b'{"a": "\xc3\x28"}', "a: 1".encode("utf-16")])
def test_not_utf8(tmp_path: Path, name: str, content: bytes) -> None:
    """Bytes that are no UTF-8 are refused as such (E3)."""
    assert "is not UTF-8 text" in refused(tmp_path / name, content)


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text\n", "42\n", "[]", "false\n", "''\n"])
def test_not_a_mapping(file: Path, text: str) -> None:
    """A list or a plain value is no configuration (E3)."""
    assert ":1: a configuration is a mapping" in refused(file, text)


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system ['true']", "!!python/name:os.system ''", "!!python/object:os.x {}", "!x 1"]
)
def test_foreign_tags(file: Path, tag: str) -> None:
    """Tags that would build Python objects, or that nobody knows, are refused with their line (E3)."""
    assert f"{file}:2: the tag !" in refused(file, f"a: 1\nb: {tag}\n")


@pytest.mark.parametrize("text", ["!!binary aGk=", "!!set {a, b}", "!!omap [a: 1]", "!!map x", "!!seq x", "!!set x"])
def test_tags_without_a_plain_value(file: Path, text: str) -> None:
    """Standard tags whose values JSON does not know are refused, not read as something surprising (E1)."""
    assert f"{file}:1: the tag !!" in refused(file, f"a: {text}\n")


@pytest.mark.parametrize("text", ["!!int x", "!!bool x", "!!int ''", "!!float ''", "!!float x", "0b_", "9" * 5000])
def test_tags_that_do_not_fit(file: Path, text: str) -> None:
    """A value that is not of its type, or a number of thousands of digits, is refused with its line (E3)."""
    assert refused(file, f"a: 1\nb: {text}\n").startswith(f"{file}:2: the value does not fit its type !!")


@pytest.mark.parametrize("text", ["? [a, b]\n: 1\n", "? {a: b}\n: 1\n"])
def test_key_that_is_no_text(file: Path, text: str) -> None:
    """A list or a mapping as a key is refused (E3)."""
    assert f"{file}:1: a key is plain text" in refused(file, text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1, 2\nb: 3\n", 2),
        ("a: 'x\n", 2),
        ("a: b: c\n", 1),
        ("a: 1\n---\nb: 2\n", 2),
        ("%YAML 9.9\n---\na: 1\n", 1),
        ('a: "\\uD800"\n', 1),
        ("a: @x\n", 1),
        ("a: %x\n", 1),
    ],
)
def test_broken_syntax(file: Path, text: str, line: int) -> None:
    """Broken syntax is reported with file and line (E3)."""
    assert refused(file, text).startswith(f"{file}:{line}: not valid YAML: ")


@pytest.mark.parametrize("character", ["\x00", "\x07", "\x7f"])
def test_control_characters(file: Path, character: str) -> None:
    """Control characters are refused in one line of text (E3)."""
    text = refused(file, f"a: x{character}\n")
    assert "not valid YAML: " in text
    assert "\n" not in text


DEEP = {
    "flow lists": "a: " + "[" * 1000 + "]" * 1000,
    "flow mappings": "{a: " * 1000 + "1" + "}" * 1000,
    "open brackets": "{" * 50_000,
    "block mappings": "".join(" " * i + "a:\n" for i in range(400)),
    "block lists": "a:\n" + "- " * 1000 + "x",
    "keys": "? " * 1000 + "x",
}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_deep_nesting(file: Path, text: str) -> None:
    """Nesting of any kind beyond the limit is refused with its line, not a crash (E3)."""
    assert f"nested deeper than {MAX_DEPTH} levels" in refused(file, text)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 1000 + "1" + "}" * 1000, '{"a": ' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}"]
)
def test_deep_json(json_file: Path, text: str) -> None:
    """The same holds for JSON, also where the parser itself gives up (E3)."""
    assert f"nested deeper than {MAX_DEPTH} levels" in refused(json_file, text)


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe.json"])
def test_deepest_allowed(tmp_path: Path, name: str) -> None:
    """Nesting up to the limit is read, in both formats alike (E3)."""
    text = '{"a": ' + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1) + "}"
    assert read(tmp_path / name, text) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: not valid JSON"),
        ("{", ":1: not valid JSON"),
        ('{"a": 1} x', ":1: not valid JSON: Extra data"),
        ('{"a": 1,\n}', "not valid JSON"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' stands twice"),
        ('{"a": NaN}', "NaN is not valid JSON"),
        ('{"a": [-Infinity]}', "-Infinity is not valid JSON"),
        ('{"a": "\\ud800"}', "not valid JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
        ("{'a': 1}", ":1: not valid JSON"),
        ("[1]", ":1: a configuration is a mapping"),
        ("null", ":1: a configuration is a mapping"),
    ],
)
def test_bad_json(json_file: Path, text: str, message: str) -> None:
    """JSON with duplicate keys, NaN, trailing garbage or half a character is refused as it stands (E3)."""
    assert message in refused(json_file, text)


def test_many_keys_are_quick(json_file: Path) -> None:
    """A big mapping costs time in proportion to its size; looking for duplicates is not quadratic (E3)."""
    text = json.dumps({f"key{i}": i for i in range(100_000)})
    assert len(read(json_file, text)) == 100_000


# ---------------------------------------------------------------- files that are none


def test_missing_file_suggests(tmp_path: Path) -> None:
    """A missing file is refused with the name of a file that looks alike (E2)."""
    (tmp_path / "quickstart.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match=r"does not exist; did you mean 'quickstart\.yaml'"):
        load_document(tmp_path / "quickstrat.yaml")


@pytest.mark.parametrize("name", ["nowhere/a.yaml", "x" * 300, f"{'x' * 300}/a.yaml", "a\0b", "a" + "/a" * 3000])
def test_impossible_names(tmp_path: Path, name: str) -> None:
    """A missing folder, and names that no file can have, are an ordinary message too (E2)."""
    with pytest.raises(ConfigError, match="does not exist"):
        load_document(tmp_path / name)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """A folder in the place of a file is called by its name (E2)."""
    with pytest.raises(ConfigError, match="is not a file"):
        load_document(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """A named pipe, from which reading would never return, is no file (E2)."""
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match="is not a file"):
        load_document(tmp_path / "pipe.yaml")


def test_links_in_a_circle(tmp_path: Path) -> None:
    """Symbolic links that lead nowhere are files that do not exist (E2)."""
    (tmp_path / "a.yaml").symlink_to("b.yaml")
    (tmp_path / "b.yaml").symlink_to("a.yaml")
    with pytest.raises(ConfigError, match="does not exist"):
        load_document(tmp_path / "a.yaml")


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "No such file")])
def test_a_file_that_cannot_be_opened(file: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    """A file that may not be read, or vanishes before it is, is one message (E2)."""
    file.write_text("a: 1\n")

    def fail(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(Path, "read_text", fail)
    with pytest.raises(ConfigError, match=f"cannot be read: {error.strerror}"):
        load_document(file)


def test_threads_read_at_the_same_time(tmp_path: Path) -> None:
    """Several threads may read configurations at once; each gets its own data (A39)."""
    files = [tmp_path / f"{i}.yaml" for i in range(4)]
    for i, file in enumerate(files):
        file.write_text("".join(f"k{j}: {i}\n" for j in range(200)))
    wrong: list[Any] = []

    def work(i: int) -> None:
        for _ in range(10):
            data = load_document(files[i]).data
            wrong.extend(value for value in data.values() if value != i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---------------------------------------------------------------- anything at all

WHOLE = """\
name: a
train:
  - {type: sft, max_steps: 3, lora: {r: 4, target_modules: [q, "v"]}}
optimize: {int4: [{type: onnx, extra: {x: 1.5e-3, y: null, z: 'é'}}]}
"""
NASTY = [
    *"*&!{}[]:,-#|>%?'~\t\n\x00\x85²🏭",
    "!!int ",
    "!!bool ",
    "\\u",
    "\\ud800",
    "<<:",
    "---",
    "...",
    "NaN",
    ".inf",
    "1e999",
]


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe.json"])
def test_any_damage_is_read_or_refused(tmp_path: Path, name: str) -> None:
    """However a file is damaged, it is plain data or one ConfigError; nothing else ever comes out (E3)."""
    dice = random.Random(7)
    text = WHOLE if name.endswith("yaml") else json.dumps(yaml.safe_load(WHOLE), indent=1)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(1500):
        damaged = bytearray(text.encode())
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(damaged))
            kind = dice.randrange(3)
            if kind == 0:
                damaged[at:at] = dice.choice(NASTY).encode()
            elif kind == 1:
                del damaged[at : at + dice.randint(1, 6)]
            else:
                damaged[at] = dice.randrange(256)
        (tmp_path / name).write_bytes(damaged)
        try:
            json.dumps(load_document(tmp_path / name).data, ensure_ascii=False).encode()
            outcomes["read"] += 1
        except ConfigError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 30, outcomes
