"""The gates: what is accepted, what is not, and what the reasons say."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest

from components.core.kinds import registry
from components.interfaces import Measurement, Scoreboard


def board(**scores: Sequence[int]) -> Scoreboard:
    """A scoreboard with one score a row for each subject."""
    return Scoreboard(
        [
            Measurement(
                subject=name,
                benchmark="exact_match",
                metrics={"exact_match": sum(values) / len(values)},
                rows=[{"id": f"r{i}", "exact_match": value} for i, value in enumerate(values)],
            )
            for name, values in scores.items()
        ]
    )


def figures(**metrics: float) -> Scoreboard:
    """A scoreboard with figures of one variant."""
    return Scoreboard([Measurement(subject="int4", benchmark="latency", metrics=metrics)])


def judge(gate: str, on: Scoreboard, **config: Any) -> Any:
    """The first check of a gate on the variant int4."""
    return registry.create("gate", gate, **config).judge("int4", on)[0]


def mcnemar(won: int, lost: int) -> float:
    """The exact one-sided test written out: the chance of so many wins if both were equally good."""
    n = won + lost
    return sum(math.comb(n, k) for k in range(won, n + 1)) / 2**n


@pytest.mark.parametrize(
    ("won", "lost", "same"), [(8, 0, 2), (7, 1, 12), (5, 5, 0), (1, 0, 0), (0, 4, 1), (40, 12, 48)]
)
def test_paired_is_mcnemars_exact_test(won: int, lost: int, same: int) -> None:
    """p is that of the exact binomial test on the rows that differ (F5)."""
    base = [0] * won + [1] * lost + [1] * same
    mine = [1] * won + [0] * lost + [1] * same
    check = judge("paired", board(base=base, int4=mine))
    assert check.figures["p"] == pytest.approx(mcnemar(won, lost), rel=1e-9)
    assert check.figures["gain"] == pytest.approx((won - lost) / (won + lost + same))
    assert check.passed == (mcnemar(won, lost) < 0.01)
    assert (check.figures["won"], check.figures["lost"]) == (won, lost)


def test_paired_known_value() -> None:
    """Eight wins and no loss: p = 1/256."""
    check = judge("paired", board(base=[0] * 8, int4=[1] * 8))
    assert (check.figures["p"], check.passed) == (1 / 256, True)


def test_paired_needs_the_gain() -> None:
    """A significant but small gain does not pass a larger `min_gain`; exactly the gain does."""
    on = board(base=[0] * 10 + [1] * 90, int4=[1] * 100)
    assert judge("paired", on, min_gain=0.1).passed
    assert not judge("paired", on, min_gain=0.11).passed


def test_paired_no_difference() -> None:
    """If both answer every row alike nothing is proven."""
    check = judge("paired", board(base=[1, 1], int4=[1, 1]))
    assert (check.figures["p"], check.passed) == (1.0, False)


def test_paired_no_common_rows() -> None:
    """Without a row that both answered the gate fails and says so."""
    check = judge("paired", board(base=[1, 0]))
    assert not check.passed
    assert "no row of exact_match was answered by both int4 and base" in check.summary


def test_paired_uses_common_rows_only() -> None:
    """Rows that only one of them answered do not count."""
    assert judge("paired", board(base=[0, 0, 0], int4=[1] * 9)).figures["rows"] == 3


def losses(metric: str = "nll", **values: Sequence[float]) -> Scoreboard:
    """A scoreboard with a figure a row, of the benchmark that measures it."""
    benchmark = "perplexity" if metric == "nll" else "exact_match"
    return Scoreboard(
        [
            Measurement(
                subject=name,
                benchmark=benchmark,
                metrics={metric: sum(found) / len(found)},
                rows=[{"id": f"r{i}", metric: value} for i, value in enumerate(found)],
            )
            for name, found in values.items()
        ]
    )


def drawn(seed: int, shift: float = 0.0, rows: int = 60) -> list[float]:
    """Losses of rows around 2 nats, with noise."""
    source = random.Random(seed)
    return [2.0 + shift + source.gauss(0, 0.3) for _ in range(rows)]


@pytest.mark.parametrize("seed", range(5))
def test_paired_on_losses_without_a_gain(seed: int) -> None:
    """Two draws of the same losses do not pass, nor does the same model against itself (F5)."""
    assert not judge("paired", losses(base=drawn(seed), int4=drawn(seed + 100)), metric="nll").passed
    same = judge("paired", losses(base=drawn(seed), int4=drawn(seed)), metric="nll")
    assert (same.passed, same.figures["p"], same.figures["gain"]) == (False, 1.0, 0.0)


def test_paired_rewards_the_lower_loss() -> None:
    """Of a metric of which less is better the variant with less passes, and the one with more does not (F5)."""
    better = judge("paired", losses(base=drawn(1), int4=drawn(2, -0.5)), metric="nll")
    assert (better.passed, better.figures["test"]) == (True, "Wilcoxon")
    assert better.figures["gain"] == pytest.approx(0.5, abs=0.15)
    assert better.summary.startswith("nll less by +0.")
    assert "nats against base on 60 rows" in better.summary
    assert not judge("paired", losses(base=drawn(1), int4=drawn(2, 0.5)), metric="nll").passed
    assert not judge("paired", losses(base=drawn(1), int4=drawn(2, -0.5)), metric="nll", min_gain=0.9).passed


def test_paired_is_wilcoxons_test() -> None:
    """p is that of the signed-rank test: six gains of different size and no loss, 1/64."""
    on = losses("field_accuracy", base=[0.1] * 6, int4=[0.2, 0.3, 0.4, 0.5, 0.6, 0.75])
    check = judge("paired", on, metric="field_accuracy")
    assert check.figures["p"] == pytest.approx(1 / 64)
    assert "field_accuracy +35.8%" in check.summary


@pytest.mark.parametrize(("mine", "passed"), [(97, True), (96, False), (100, True)])
def test_recovery(mine: int, passed: bool) -> None:
    """The share of the training gain that survives is compared with the minimum."""
    on = board(base=[0] * 100, trained=[1] * 100, int4=[1] * mine + [0] * (100 - mine))
    check = judge("recovery", on, min=0.97)
    assert (check.passed, check.figures["kept"]) == (passed, mine / 100)


def test_recovery_from_a_base_above_zero() -> None:
    """The base's own score is not counted as kept."""
    on = board(base=[1, 0, 0, 0], trained=[1, 1, 1, 0], int4=[1, 1, 0, 0])
    assert judge("recovery", on).figures["kept"] == pytest.approx(0.5)


@pytest.mark.parametrize("trained", [[1, 1, 0, 0], [1, 0, 0, 0]])
def test_recovery_without_a_gain(trained: list[int]) -> None:
    """If training brought nothing, or harm, the gate fails with that reason instead of dividing by zero."""
    check = judge("recovery", board(base=[1, 1, 0, 0], trained=trained, int4=[1, 1, 1, 1]))
    assert not check.passed
    assert "training brought no gain" in check.summary


def test_recovery_not_measured() -> None:
    """A metric that was not measured on the variant fails the gate, like budget; it does not crash the run."""
    assert not judge("recovery", board(base=[0], trained=[1])).passed


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("120MB", 120e6),
        ("1.5 GB", 1.5e9),
        ("2KiB", 2048),
        ("1MiB", 2**20),
        ("7", 7),
        ("500 kb", 5e5),
        (300, 300),
        ("10B", 10),
    ],
)
def test_budget_units(limit: Any, value: float) -> None:
    """Limits are read with decimal and binary units, in any case."""
    config = registry.get("gate", "budget").Config.model_validate({"max": {"bytes": limit}})
    assert config.max == {"bytes": value}


@pytest.mark.parametrize(
    ("limit", "message"),
    [("5 parsec", "unknown unit 'parsec'; known: B, KB"), ("much", "number"), ("", "number"), ("1.2.3MB", "float")],
)
def test_budget_limits_that_are_none(limit: str, message: str) -> None:
    """A unit that does not exist is refused with the known ones; other text is no number."""
    with pytest.raises(ValueError, match=message):
        registry.get("gate", "budget").Config.model_validate({"max": {"bytes": limit}})


def test_budget_nan() -> None:
    """A limit that is no number is refused."""
    with pytest.raises(ValueError, match="finite"):
        registry.get("gate", "budget").Config.model_validate({"max": {"bytes": float("nan")}})


@pytest.mark.parametrize(("value", "passed"), [(99.0, True), (100.0, True), (100.1, False), (math.nan, False)])
def test_budget_upper(value: float, passed: bool) -> None:
    """A figure at the limit passes, above it or without a value it does not (C29)."""
    assert judge("budget", figures(bytes=value), max={"bytes": 100}).passed == passed


@pytest.mark.parametrize(("value", "passed"), [(20.0, True), (19.9, False), (math.nan, False)])
def test_budget_lower(value: float, passed: bool) -> None:
    """The same for a minimum (C29)."""
    assert judge("budget", figures(tokens_per_s=value), min={"tokens_per_s": 20}).passed == passed


def test_budget_not_measured() -> None:
    """A limit on something that was not measured on the variant fails and says so."""
    check = judge("budget", figures(bytes=1), max={"mean_kl": 0.1})
    assert not check.passed
    assert check.summary == "mean_kl was not measured on this variant"


def test_budget_checks_each_limit() -> None:
    """Every limit gives its own check, so that all reasons are seen."""
    checks = registry.create("gate", "budget", max={"bytes": 1, "mean_kl": 1}, min={"tokens_per_s": 1}).judge(
        "int4", figures(bytes=2, mean_kl=0.5, tokens_per_s=0.5)
    )
    assert [check.passed for check in checks] == [False, True, False]
