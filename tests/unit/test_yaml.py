"""Recipe files: what is refused, with the file and the line."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from components.core.documents import MAX_BYTES, load_document
from components.core.errors import ConfigError


def refused(path: Path, content: str | bytes) -> str:
    """The message with which this file content is refused."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as caught:
        load_document(path)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "recipe.yaml"


def test_plain_file_keeps_lines(file: Path) -> None:
    """A good file becomes plain data, and every key knows its line."""
    file.write_text("name: a\ntrain:\n  - type: sft\n    max_steps: 3\n")
    document = load_document(file)
    assert document.data == {"name": "a", "train": [{"type": "sft", "max_steps": 3}]}
    assert document.locate(("train", 0, "max_steps")) == f"{file}:4"
    assert document.locate(("train", 0, "absent")) == f"{file}:3"
    assert document.locate(()) == str(file)


def test_empty_file_is_an_empty_mapping(file: Path) -> None:
    """An empty file is an empty recipe, so that the missing keys are reported and not the emptiness."""
    file.write_text("# nothing\n")
    assert load_document(file).data == {}


def test_scalars_are_typed(file: Path) -> None:
    """Numbers, booleans, null and text arrive as themselves."""
    file.write_text("a: 1\nb: 2.5e-4\nc: true\nd: null\ne: '7'\n")
    assert load_document(file).data == {"a": 1, "b": 2.5e-4, "c": True, "d": None, "e": "7"}


def test_duplicate_key(file: Path) -> None:
    """A key that stands twice is refused with both lines; YAML would silently take the last."""
    text = refused(file, "name: a\nseed: 1\nname: b\n")
    assert f"{file}:3: key 'name' stands twice (first on line 1)" in text


def test_duplicate_key_in_depth(file: Path) -> None:
    """The same holds in nested mappings inside lists."""
    assert ":4: key 'r' stands twice (first on line 3)" in refused(file, "train:\n  - lora:\n      r: 1\n      r: 2\n")


@pytest.mark.parametrize("text", ["a: &x [1]\nb: *x\n", "a: &x\n  b: *x\n", "a: &a [b]\nb: &b [*a, *a]\nc: [*b, *b]\n"])
def test_aliases(file: Path, text: str) -> None:
    """Aliases are refused with their line: they may be endless or unfold to gigabytes."""
    assert "aliases (*" in refused(file, text)


def test_tab(file: Path) -> None:
    """A tab as indentation is refused with its line."""
    assert refused(file, "a:\n\tb: 1\n").startswith(f"{file}:2: not valid YAML")


def test_oversize(file: Path) -> None:
    """A file larger than the limit is refused before it is read."""
    assert f"at most {MAX_BYTES:,}" in refused(file, b"#" * (MAX_BYTES + 1))


def test_largest_allowed(file: Path) -> None:
    """A file of exactly the limit is read."""
    file.write_bytes(b"a: 1\n" + b"#" * (MAX_BYTES - 5))
    assert load_document(file).data == {"a": 1}


def test_not_utf8(file: Path) -> None:
    """Bytes that are no UTF-8 are refused as such."""
    assert "is not UTF-8 text" in refused(file, b"name: \xff\xfe\n")


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text\n", "42\n"])
def test_not_a_mapping(file: Path, text: str) -> None:
    """A list or a plain value is no recipe."""
    assert "a recipe is a mapping" in refused(file, text)


@pytest.mark.parametrize("text", ["a: !!python/object/apply:os.system ['true']\n", "a: !!python/name:os.system\n"])
def test_python_tags_run_nothing(file: Path, text: str) -> None:
    """Tags that would build Python objects are refused or read as plain data, never executed."""
    file.write_text(text)
    try:
        value = load_document(file).data["a"]
    except ConfigError:
        return
    assert isinstance(value, str | list)


def test_missing_file_suggests(tmp_path: Path) -> None:
    """A missing file is refused with the name of a file that looks alike."""
    (tmp_path / "quickstart.yaml").write_text("a: 1\n")
    with pytest.raises(ConfigError, match=r"does not exist; did you mean 'quickstart\.yaml'"):
        load_document(tmp_path / "quickstrat.yaml")


def test_missing_folder(tmp_path: Path) -> None:
    """A missing folder is an ordinary message too."""
    with pytest.raises(ConfigError, match="does not exist"):
        load_document(tmp_path / "nowhere" / "a.yaml")


def test_unclosed_bracket(file: Path) -> None:
    """Broken syntax is reported with file and line."""
    assert refused(file, "a: [1, 2\nb: 3\n").startswith(f"{file}:2: not valid YAML")


def test_deep_nesting(file: Path) -> None:
    """A file of a thousand brackets is refused, not a crash."""
    assert refused(file, "a: " + "[" * 1000 + "]" * 1000)


@pytest.mark.parametrize("text", ["a: !!int x\n", "a: !!timestamp x\n"])
def test_tags_that_do_not_fit(file: Path, text: str) -> None:
    """A standard tag on a value that is not of its type is refused, not a crash."""
    assert refused(file, text)


def test_key_that_is_no_text(file: Path) -> None:
    """A list as a key is read as text or refused, not a crash."""
    file.write_text("? [a, b]\n: 1\n")
    with contextlib.suppress(ConfigError):
        assert all(isinstance(key, str) for key in load_document(file).data)
