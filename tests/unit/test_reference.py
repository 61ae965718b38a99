"""The generated component reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from components.core.events import catalogue
from components.core.kinds import registry
from flows.reference import page, schema
from tests.conftest import ROOT


@pytest.mark.parametrize(("name", "made"), [("components.md", page), ("recipe.schema.json", schema)])
def test_the_committed_page_is_current(name: str, made: Callable[[], str]) -> None:
    """The page and the schema say what the code says; `python -m flows.reference` rewrites them (A38, C73)."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == made()


def test_the_page_names_every_component() -> None:
    """Every registered component has its own heading."""
    text = page()
    for kind in registry.kinds():
        for name in registry.names(kind):
            assert f"### {name}\n" in text


def test_the_page_names_every_event() -> None:
    """Every event has a line with its class, its topic and what it carries (B5)."""
    text = page()
    for cls in catalogue():
        assert f"| `{cls.__name__}` | `{cls.topic}` | `" in text
    assert "| `GateJudged` | `gate.judged` | `accepted: tuple[str, ...]`, `chosen: str \\| None` |" in text
