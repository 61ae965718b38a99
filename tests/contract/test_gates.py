"""What every gate promises."""

from __future__ import annotations

from typing import Any

from components.core.kinds import registry
from components.interfaces import Measurement, Scoreboard
from tests.contract.common import check_component, named

EXAMPLES: dict[str, dict[str, Any]] = {
    "budget": {"max": {"bytes": 10}, "min": {"tokens_per_s": 1}},
    "non_inferior": {"metric": ["json_valid", "field_accuracy"], "against": "trained", "margin": 0.1},
    "paired": {"metric": "json_valid"},
    "recovery": {"metric": "field_accuracy"},
}


class Spy(Scoreboard):
    """A scoreboard on which everything is measured, and that remembers which metrics were read, and of whom."""

    def __init__(self) -> None:
        super().__init__([])
        object.__setattr__(self, "read", set())
        object.__setattr__(self, "asked", set())

    def metrics(self, subject: str) -> dict[str, float]:
        read: set[str] = self.read  # type: ignore[attr-defined]
        self.asked.add(subject)  # type: ignore[attr-defined]

        class Remembering(dict[str, float]):
            def __getitem__(self, name: str) -> float:
                read.add(name)
                return {"base": 0.1, "trained": 0.9}.get(subject, 0.8)

            def get(self, name: str, default: Any = None) -> Any:
                return self[name]

        return Remembering()

    def rows(self, subject: str, metric: str) -> dict[str, float]:
        self.read.add(metric)  # type: ignore[attr-defined]
        self.asked.add(subject)  # type: ignore[attr-defined]
        return {"r1": 0.0 if subject == "base" else 1.0}


def test_all_gates_are_covered() -> None:
    """A new gate has to be added to this file's table."""
    assert set(EXAMPLES) == set(registry.names("gate"))


@named("gate")
def test_component(name: str) -> None:
    """Every gate is described and strictly configured (A27)."""
    check_component("gate", name)


@named("gate")
def test_needs_is_what_judge_reads(name: str) -> None:
    """A gate announces exactly the metrics it reads, so a recipe without them is refused before any work (F5)."""
    gate, board = registry.create("gate", name, **EXAMPLES[name]), Spy()
    gate.judge("int4", board)
    assert set(type(gate).needs(gate.config)) == board.read  # type: ignore[attr-defined]


@named("gate")
def test_compares_with_is_whom_judge_reads(name: str) -> None:
    """A gate announces exactly the subjects it reads besides the variant, so that they are measured too (C66)."""
    gate, board = registry.create("gate", name, **EXAMPLES[name]), Spy()
    gate.judge("int4", board)
    assert {"int4", *type(gate).compares_with(gate.config)} == board.asked  # type: ignore[attr-defined]


@named("gate")
def test_what_is_no_number_never_passes(name: str) -> None:
    """A variant whose figures are NaN passes no gate, and none crashes (F5)."""
    metrics = ("json_valid", "field_accuracy", "exact_match", "bytes", "tokens_per_s")
    values = {"base": 0.0, "trained": 1.0, "int4": float("nan")}
    board = Scoreboard(
        [
            Measurement(
                subject=subject,
                benchmark="exact_match",
                metrics=dict.fromkeys(metrics, value),
                rows=[{"id": str(row), **dict.fromkeys(metrics, value)} for row in range(20)],
            )
            for subject, value in values.items()
        ]
    )
    assert not any(check.passed for check in registry.create("gate", name, **EXAMPLES[name]).judge("int4", board))


@named("gate")
def test_checks_say_why(name: str) -> None:
    """Every check names its gate and gives a reason in one line, whether it passed or not."""
    checks = registry.create("gate", name, **EXAMPLES[name]).judge("int4", Spy())
    assert checks
    assert all(check.gate == name and check.summary and "\n" not in check.summary for check in checks)


@named("gate")
def test_judging_twice_is_the_same(name: str) -> None:
    """A gate has no memory."""
    gate = registry.create("gate", name, **EXAMPLES[name])
    assert gate.judge("int4", Spy()) == gate.judge("int4", Spy())


@named("gate")
def test_nothing_measured_is_not_passed(name: str) -> None:
    """On an empty scoreboard no gate passes, and none crashes (F5)."""
    checks = registry.create("gate", name, **EXAMPLES[name]).judge("int4", Scoreboard([]))
    assert checks
    assert not any(check.passed for check in checks)


def test_scoreboard() -> None:
    """Metrics of several benchmarks come together by subject; rows by their id."""
    board = Scoreboard(
        [
            Measurement(
                subject="a", benchmark="x", metrics={"m": 1.0}, rows=[{"id": "r", "m": 1}, {"id": "s", "n": 1}]
            ),
            Measurement(subject="b", benchmark="x", metrics={"m": 2.0}),
            Measurement(subject="a", benchmark="y", metrics={"n": 3.0}),
        ]
    )
    assert board.metrics("a") == {"m": 1.0, "n": 3.0}
    assert board.rows("a", "m") == {"r": 1.0}
    assert board.subjects() == ["a", "b"]
    assert board.metrics("c") == {}
