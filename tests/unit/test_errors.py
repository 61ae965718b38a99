"""Errors that name the thing and the remedy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from components.core.errors import MissingExtraError, require


def test_a_missing_package_names_its_extra() -> None:
    """An optional package that is not there says which extra brings it."""
    with pytest.raises(MissingExtraError, match=r"the package 'nowhere_to_be' is not installed; .*'postmill\[x\]'"):
        require("nowhere_to_be", "x")


def test_what_a_package_lacks_is_not_said_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is there but needs another one names that other one."""
    (tmp_path / "halfway_there.py").write_text("import nowhere_to_be\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"'nowhere_to_be', which 'halfway_there' needs, is not installed"):
        require("halfway_there", "x")
    sys.modules.pop("halfway_there", None)
