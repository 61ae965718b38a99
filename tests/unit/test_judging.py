"""The verdict: who is accepted, who is chosen, and how the evidence reads."""

from __future__ import annotations

import math
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


def test_not_measured_is_never_preferred() -> None:
    """A variant without the preferred figure, or whose figure is no number, comes last whichever way is better."""
    for figure in ({}, {"tokens_per_s": math.nan}):
        on = [
            Measurement(subject=n, benchmark="b", metrics=m) for n, m in (("a", figure), ("b", {"tokens_per_s": 1.0}))
        ]
        assert decide([], ["a", "b"], Scoreboard(on), "fastest").chosen == "b"


def answers(won: dict[str, int], rows: int = 60) -> Scoreboard:
    """Variants that have so many rows right which the base has wrong."""
    scores = {"base": 0, **won}
    return Scoreboard(
        [
            Measurement(
                subject=name,
                benchmark="exact_match",
                metrics={"exact_match": right / rows, "bytes": 1.0},
                rows=[{"id": str(i), "exact_match": int(i < right)} for i in range(rows)],
            )
            for name, right in scores.items()
        ]
    )


def paired(**config: Any) -> list[Spec]:
    return [Spec(kind="gate", type="paired", config=registry.get("gate", "paired").Config(**config))]


def test_tests_are_corrected_for_the_variants() -> None:
    """Who is one of several is held to more: 7 wins are p=1/128, enough alone and not as the best of three, where Holm
    makes it 3/128; the check says so (F5)."""
    on = answers({"a": 7, "b": 2, "c": 1})
    assert decide(paired(), ["a"], on, "smallest").accepted == ["a"]
    verdict = decide(paired(), ["a", "b", "c"], on, "smallest")
    assert verdict.accepted == []
    check = verdict.variants[0].checks[0]
    assert check.figures["p"] == pytest.approx(1 / 128)
    assert check.figures["p_of_variants"] == pytest.approx(3 / 128)
    assert check.summary.endswith("; of 3 variants p=0.023")


def test_holm_steps_down() -> None:
    """After the best variant the next one is corrected for the rest only: p of 9, 8 and 7 wins, times 3, 2 and 1."""
    verdict = decide(paired(alpha=0.0085), ["a", "b", "c"], answers({"a": 9, "b": 8, "c": 7}), "smallest")
    assert verdict.accepted == ["a", "b", "c"]
    found = [v.checks[0].figures["p_of_variants"] for v in verdict.variants]
    assert found == pytest.approx([3 / 512, 2 / 256, 1 / 128])


def test_correction_can_be_declined() -> None:
    """With `correct: none` every variant is judged as if it were the only one."""
    on = answers({"a": 7, "b": 2, "c": 1})
    assert decide(paired(correct="none"), ["a", "b", "c"], on, "smallest").accepted == ["a"]


def test_a_variant_that_could_not_be_tested_counts() -> None:
    """One that was not measured is among those that were tried, and fails alone."""
    verdict = decide(paired(), ["a", "b"], answers({"a": 8}), "smallest")
    assert verdict.accepted == ["a"]
    assert verdict.variants[0].checks[0].figures["p_of_variants"] == pytest.approx(2 / 256)


def test_limits_are_not_corrected() -> None:
    """A check that is no test stays what it is, however many variants there are."""
    verdict = decide(limit(max={"bytes": 1000}), list(FIGURES), board(), "smallest")
    assert [v.checks[0].p for v in verdict.variants] == [None] * 3
    assert verdict.accepted == list(FIGURES)


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
