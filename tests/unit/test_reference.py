"""The generated component reference."""

from __future__ import annotations

from pathlib import Path

from components.core.events import catalogue
from components.core.kinds import registry
from flows.reference import page


def test_the_committed_page_is_current() -> None:
    """docs/components.md says what the code says; `python -m flows.reference` rewrites it (C73)."""
    committed = Path(__file__).parents[2] / "docs" / "components.md"
    assert committed.read_text(encoding="utf-8") == page()


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
