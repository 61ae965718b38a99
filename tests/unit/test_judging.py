"""The verdict: who is accepted, who is chosen, and how the evidence reads."""

from __future__ import annotations

from typing import Any

import pytest

from components.core.kinds import registry
from components.core.recipe import Spec
from components.interfaces import Measurement, Metric, Scoreboard
from components.services.evidence import ruling, show
from components.services.judging import decide

FIGURES = {
    "fp32": {"bytes": 500.0, "tokens_per_s": 10.0, "exact_match": 0.9},
    "int8": {"bytes": 200.0, "tokens_per_s": 30.0, "exact_match": 0.8},
    "int4": {"bytes": 100.0, "tokens_per_s": 20.0, "exact_match": 0.7},
}


def board() -> Scoreboard:
    return Scoreboard([Measurement(subject=n, benchmark="b", metrics=m) for n, m in FIGURES.items()])


def limit(**config: Any) -> list[Spec]:
    return [Spec(kind="gate", type="budget", config=registry.get("gate", "budget").Config(**config))]


@pytest.mark.parametrize(("prefer", "chosen"), [("smallest", "int4"), ("fastest", "int8"), ("best", "fp32")])
def test_preference(prefer: str, chosen: str) -> None:
    """Among accepted variants the preferred figure decides."""
    verdict = decide(limit(), list(FIGURES), board(), prefer)
    assert (verdict.chosen, verdict.accepted) == (chosen, list(FIGURES))


def test_rejected_is_never_chosen() -> None:
    """A variant that fails a gate is not chosen, however small it is (F5)."""
    verdict = decide(limit(min={"exact_match": 0.75}), list(FIGURES), board(), "smallest")
    assert (verdict.chosen, verdict.accepted) == ("int8", ["fp32", "int8"])
    assert [ruling(verdict, name) for name in ("base", "fp32", "int8", "int4")] == [
        "",
        "accepted",
        "chosen",
        "rejected",
    ]


def test_nobody_passes() -> None:
    """If no variant passes, none is chosen (F5)."""
    verdict = decide(limit(max={"bytes": 1}), list(FIGURES), board(), "smallest")
    assert (verdict.chosen, verdict.accepted) == (None, [])


def test_one_failed_gate_is_enough() -> None:
    """All gates have to pass, not some of them (F5)."""
    gates = [*limit(max={"bytes": 1000}), *limit(max={"bytes": 1})]
    assert decide(gates, ["int4"], board(), "smallest").chosen is None


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        ("share", 0.973, "97.3%"),
        ("bytes", 1.5e6, "1.5 MB"),
        ("nats", 0.01234, "0.0123"),
        ("ms", 123.44, "123.4"),
        ("ms", 1.234, "1.23"),
        ("ms", None, "-"),
    ],
)
def test_figures_read_well(unit: str, value: float | None, text: str) -> None:
    """A figure is shown with its unit and the digits that matter."""
    assert show(Metric("m", unit, "lower", "M"), value) == text
