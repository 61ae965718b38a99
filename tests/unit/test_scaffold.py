"""The skeleton of a new plugin: whole or not at all, and fit to be loaded as written."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import flows.scaffold
from components.core.errors import PluginError
from components.core.events import EventBus
from components.core.plugins import GROUP, PluginManager, PluginSettings
from components.core.registry import Kind, Registry
from flows.scaffold import LONGEST, new_plugin, next_steps

FILES = ["README.md", "postmill_acme/__init__.py", "postmill_acme/gate.py", "postmill_acme/plugin.py"]
FILES += ["pyproject.toml", "tests/test_plugin.py"]


def test_files(tmp_path: Path) -> None:
    """The skeleton is six files below `postmill-NAME`, and the paths of all of them are returned (A54, C57)."""
    written = new_plugin("acme", tmp_path)
    assert sorted(path.relative_to(tmp_path / "postmill-acme").as_posix() for path in written) == FILES
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(written)
    assert [path.name for path in tmp_path.iterdir()] == ["postmill-acme"]


def test_permissions(tmp_path: Path) -> None:
    """The skeleton has the permissions of any new folder, not those of a temporary one (A54)."""
    new_plugin("acme", tmp_path)
    (tmp_path / "ordinary").mkdir()
    assert (tmp_path / "postmill-acme").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_no_placeholder_is_left(tmp_path: Path) -> None:
    """Every Python file parses, begins with a docstring, and holds no unfilled placeholder (A54)."""
    for path in new_plugin("two_words", tmp_path):
        text = path.read_text(encoding="utf-8")
        assert "$" not in text
        if path.suffix == ".py":
            assert ast.get_docstring(ast.parse(text))


def test_metadata(tmp_path: Path) -> None:
    """The distribution says its entry point and which Postmill it fits (A16, A21)."""
    new_plugin("two_words", tmp_path)
    project = tomllib.loads((tmp_path / "postmill-two_words" / "pyproject.toml").read_text())["project"]
    assert project["name"] == "postmill-two_words"
    assert project["entry-points"][GROUP] == {"two_words": "postmill_two_words.plugin:TwoWordsPlugin"}
    assert [Requirement(need).name for need in project["dependencies"]] == ["postmill"]


def test_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The skeleton's plugin loads as written and brings a gate that can be built (A12, A54)."""
    package = new_plugin("fresh", tmp_path)[0].parent / "postmill_fresh"
    monkeypatch.syspath_prepend(package.parent)
    registry = Registry([Kind("gate", "components.interfaces:Gate")])
    settings = PluginSettings(auto_discover=False, directories=(package,))
    report = PluginManager(registry, EventBus(), settings).load("plugin")
    assert report.provides == ("gate:fresh_not_worse",), report
    gate = registry.create("gate", "fresh_not_worse", metric="score")
    assert gate.needs(gate.config) == ("score",)


@pytest.mark.parametrize(
    "name", ["", "Acme", "9lives", "a-b", "a b", "../up", "_a", "a_", "a__b", "é", "a\n", "x" * 51]
)
def test_wrong_name(tmp_path: Path, name: str) -> None:
    """A name that is no lower-case identifier is refused with the rule, and nothing is written (A54)."""
    with pytest.raises(PluginError, match=f"cannot be the name of a plugin: write up to {LONGEST} lower-case letters"):
        new_plugin(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["class", "import", "lambda"])
def test_keyword(tmp_path: Path, name: str) -> None:
    """A word of Python is refused (A54)."""
    with pytest.raises(PluginError, match=f"'{name}' cannot be the name of a plugin: it is a word of the Python"):
        new_plugin(name, tmp_path)


@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_nothing_is_overwritten(tmp_path: Path, what: str) -> None:
    """Whatever has the name already stays untouched (A54)."""
    target = tmp_path / "postmill-acme"
    {"folder": target.mkdir, "file": target.touch, "link": lambda: target.symlink_to("nowhere")}[what]()
    with pytest.raises(PluginError, match=f"'{target}' exists already"):
        new_plugin("acme", tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["postmill-acme"]


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure in the middle leaves the folder as it was (A54)."""
    monkeypatch.setattr(flows.scaffold, "FILES", {"a.py": "fine", "b.py": "$unknown"})
    with pytest.raises(KeyError):
        new_plugin("acme", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_missing_folder(tmp_path: Path) -> None:
    """A folder that does not exist is named in the error (A54)."""
    with pytest.raises(PluginError, match=r"cannot write '.*absent/postmill-acme': No such file"):
        new_plugin("acme", tmp_path / "absent")


def test_next_steps(tmp_path: Path) -> None:
    """Two commands follow: test it, install it (A54)."""
    target = tmp_path / "postmill-acme"
    assert next_steps("acme", tmp_path) == (f"pytest {target}", f"pip install -e {target}")
