"""The statistics of the gates, against closed forms, a second derivation, and how often they are wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom, multinomial

from components.core import paired_tests


def rows(won: int, lost: int, same: int) -> Any:
    """The gains of right and wrong rows."""
    return np.array([1.0] * won + [-1.0] * lost + [0.0] * same)


def by_likelihood(won: int, lost: int, count: int, null: float) -> float:
    """The score statistic with the chance of a loss found by maximizing the likelihood, not by a formula."""

    def unlikely(lose: float) -> float:
        chances = (lose + null, lose, 1 - 2 * lose - null)
        return -float(multinomial.logpmf((won, lost, count - won - lost), count, chances))

    low, high = max(0.0, -null) + 1e-12, (1 - null) / 2 - 1e-12
    lose = minimize_scalar(unlikely, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return float((won - lost - count * null - 0.5) / math.sqrt(count * (2 * lose + null - null**2)))


@pytest.mark.parametrize(
    ("won", "lost", "count", "margin"), [(5, 9, 60, 0.1), (1, 0, 30, 0.03), (86, 150, 1600, 0.05), (9, 9, 120, 0.02)]
)
def test_score_is_tangos_test(won: int, lost: int, count: int, margin: float) -> None:
    """p is that of the score statistic at the most likely chances under the null hypothesis."""
    expected = 0.5 * math.erfc(by_likelihood(won, lost, count, -margin) / math.sqrt(2))
    assert paired_tests.score(rows(won, lost, count - won - lost), margin) == pytest.approx(expected, rel=1e-5)


def test_score_where_no_row_differs() -> None:
    """Without a difference the statistic is (n m - 1/2) / sqrt(n m (1 - m)), so more rows are surer."""
    z = (300 * 0.05 - 0.5) / math.sqrt(300 * 0.05 * 0.95)
    assert paired_tests.score(rows(0, 0, 300), 0.05) == pytest.approx(0.5 * math.erfc(z / math.sqrt(2)))
    assert paired_tests.score(rows(0, 0, 30), 0.05) > 0.05


@pytest.mark.parametrize("counts", [(5, 9, 46), (0, 0, 50), (30, 0, 20), (0, 12, 40), (49, 1, 0)])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_interval_and_test_agree(counts: tuple[int, int, int], alpha: float) -> None:
    """At each end of the interval the test has p = alpha (or the end is the end of what is possible)."""
    gains = rows(*counts)
    low, high = paired_tests.interval(gains, alpha, bounded=True)
    assert low < gains.mean() < high or abs(gains.mean()) == 1
    if low > -1:
        assert paired_tests.score(gains, -low) == pytest.approx(alpha, rel=1e-4)
    if high < 1:
        assert paired_tests.score(-gains, high) == pytest.approx(alpha, rel=1e-4)


def promoted(count: int, margin: float, differ: float, alpha: float) -> float:
    """How often a variant that loses exactly the margin passes the score test: every outcome, times its chance."""
    win, total = (differ - margin) / 2 / differ, 0.0
    low, high = binom.ppf([1e-6, 1 - 1e-6], count, differ).astype(int)
    for different in range(low, high + 1):
        # p falls with the rows that are won, so the first that passes says how many do
        won = next(
            (
                w
                for w in range(different + 1)
                if paired_tests.score(rows(w, different - w, count - different), margin) < alpha
            ),
            different + 1,
        )
        total += float(binom.pmf(different, count, differ) * binom.sf(won - 1, different, win))
    return total


@pytest.mark.parametrize(("count", "margin"), [(50, 0.1), (100, 0.05), (100, 0.1)])
@pytest.mark.parametrize("differ", [1.0, 1.5, 3.0])
def test_score_is_calibrated(count: int, margin: float, differ: float) -> None:
    """A variant that is worse by the margin is let through at most alpha of the time, whatever share of rows differs
    (in multiples of the margin, which is the least) (F5)."""
    assert promoted(count, margin, margin * differ, 0.05) <= 0.05


def test_bootstrap_of_plain_noise_is_the_t_test() -> None:
    """On normal figures the studentized bootstrap gives the p of Student's t-test."""
    from scipy.stats import ttest_1samp

    gains = np.random.default_rng(3).normal(0.05, 0.3, 200)
    expected = ttest_1samp(gains, -0.01, alternative="greater").pvalue
    assert paired_tests.bootstrap(gains, 0.01) == pytest.approx(float(expected), abs=0.01)


@pytest.mark.parametrize("gains", [rows(0, 0, 9), rows(9, 0, 0), np.full(9, 0.25)])
def test_gains_without_a_spread(gains: Any) -> None:
    """Gains that are all the same give what a sign test would, and an interval of no width."""
    assert paired_tests.bootstrap(gains, 0.01) == 0.5**9
    assert paired_tests.bootstrap(gains, -2.0) == 1.0
    assert paired_tests.interval(gains, 0.05, bounded=False) == (gains[0], gains[0])


def test_one_row_that_differs() -> None:
    """Where resamples without any spread are common the interval stays within the rows, and nothing is passed."""
    gains = np.array([0.0] * 99 + [-3.0])
    low, high = paired_tests.interval(gains, 0.05, bounded=False)
    assert low == -3.0
    assert high <= 0
    assert paired_tests.bootstrap(gains, 0.1) > 0.05


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.25])
def test_least_rows(alpha: float) -> None:
    """With the least rows, all of them won, a sign test is below alpha; with one fewer it is not."""
    least = paired_tests.least_rows(alpha)
    assert 0.5**least < alpha <= 0.5 ** (least - 1)


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("variance", [0.05, 0.1, 0.3])
def test_rows_and_effect_are_each_others_inverse(variance: float, bounded: bool) -> None:
    """The effect that so many rows detect takes so many rows."""
    effect = paired_tests.detectable(variance, 400, 0.05, 0.8, bounded)
    assert paired_tests.rows_for(effect, variance, 0.05, 0.8, bounded) == pytest.approx(400, abs=1)


def test_effect_shrinks_with_the_root_of_the_rows() -> None:
    """Four times the rows halve the detectable effect; without any spread it is not zero for right and wrong rows."""
    one, four = (paired_tests.detectable(0.1, count, 0.05, 0.8, bounded=False) for count in (100, 400))
    assert one == pytest.approx(2 * four)
    assert paired_tests.detectable(0.0, 100, 0.05, 0.8, bounded=True) > 0.05


def test_holm() -> None:
    """The smallest p times their number, the next times one fewer; no later one below an earlier one, none above 1."""
    assert paired_tests.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired_tests.holm([0.6, 0.7]) == [1.0, 1.0]
    assert paired_tests.holm([]) == []
