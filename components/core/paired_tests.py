"""What the same rows say about two subjects: tests, intervals, and how many rows a question needs.

Everything here takes `gains`, an array of shape (rows,): by how much one subject is better than the other on each row,
in the unit of the metric. Tests are one-sided and return p, the chance of gains like these, or larger ones, if the true
mean gain were `-margin` (0 where a test has no margin). `bounded`: the metric lies between 0 and 1.

    gains = right_now - right_before
    p = score(gains, margin=0.05)                      # not worse by 5 points?
    low, high = interval(gains, alpha=0.05, bounded=True)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Gains: TypeAlias = NDArray[np.float64]

RESAMPLES = 4999
SEED = 0
"""Of resampling: the same rows give the same verdict."""
_CELLS = 2_000_000
"""Numbers that a resampling holds in memory at once."""


# ---------------------------------------------------------------- tests


def mcnemar(gains: Gains) -> float:
    """McNemar's exact test (1947), for rows that are right or wrong: a fair coin on the rows that differ."""
    from scipy.stats import binomtest

    won, lost = int((gains > 0).sum()), int((gains < 0).sum())
    return float(binomtest(won, won + lost, alternative="greater").pvalue) if won + lost else 1.0


def wilcoxon(gains: Gains) -> float:
    """Wilcoxon's signed-rank test (1945): how large gains and losses are counts too. Rows without any do not."""
    from scipy.stats import wilcoxon as signed_rank

    some = gains[gains != 0]
    return float(signed_rank(some, alternative="greater").pvalue) if len(some) else 1.0


def permutation(gains: Gains) -> float:
    """Fisher's randomization test (1935) of the mean: if the two were alike, each gain could as well be a loss."""
    import numpy as np
    from scipy.stats import permutation_test

    found = permutation_test(
        (gains, np.zeros_like(gains)),
        lambda mine, theirs, axis: (mine - theirs).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        alternative="greater",
        n_resamples=RESAMPLES,
        batch=max(1, _CELLS // len(gains)),
        rng=SEED,
    )
    return float(found.pvalue)


def bootstrap(gains: Gains, margin: float = 0.0) -> float:
    """Studentized bootstrap of the mean (Efron 1981, Hall 1988), which a few rows with large losses mislead less than
    they do a t-test. Never below what as many won rows would give in a sign test."""
    import numpy as np

    least, mean = 0.5 ** len(gains), float(gains.mean()) + margin
    if np.ptp(gains) == 0:
        return least if mean > 0 else 1.0
    t, error = _student(gains)
    p = (1 + int((t >= mean / error).sum())) / (1 + len(t))
    return max(p, least)


def score(gains: Gains, margin: float = 0.0) -> float:
    """Tango's score test (Statistics in Medicine 17, 1998) with half a row taken off for continuity, for rows that are
    right or wrong, also where none differ. A share counts as that part of a right answer, which overstates how much
    rows vary: the test is then careful. Never below what as many won rows would give in a sign test."""
    from scipy.special import ndtr

    return max(float(ndtr(-_tango(gains, -margin))), 0.5 ** len(gains))


# ---------------------------------------------------------------- intervals


def interval(gains: Gains, alpha: float, bounded: bool) -> tuple[float, float]:
    """Bounds of the true mean gain; each is on the wrong side with chance `alpha`. They agree with `score` if
    `bounded`, else with `bootstrap`."""
    if bounded:  # of the losses, with the sign changed, the lower bound is the upper one
        return _score_bound(gains, alpha), -_score_bound(-gains, alpha)
    return _bootstrap_interval(gains, alpha)


def _score_bound(gains: Gains, alpha: float) -> float:
    """The lowest true gain that the score test does not refuse."""
    from scipy.optimize import brentq
    from scipy.special import ndtri

    z, least = float(-ndtri(alpha)), -1 + 1e-9
    if _tango(gains, least) < z:
        return -1.0
    return float(brentq(lambda gain: _tango(gains, gain) - z, least, float(gains.mean()), xtol=1e-9))


def _bootstrap_interval(gains: Gains, alpha: float) -> tuple[float, float]:
    import numpy as np

    mean = float(gains.mean())
    if np.ptp(gains) == 0:
        return mean, mean
    t, error = _student(gains)
    high, low = np.quantile(t, [1 - alpha, alpha], method="closest_observation")
    # where hardly any row differs t may be infinite, and nothing beyond the rows can be told
    least, most = float(gains.min()), float(gains.max())
    return max(mean - float(high) * error, least), min(mean - float(low) * error, most)


def _student(gains: Gains) -> tuple[Gains, float]:
    """How far the means of resampled rows are from the mean of the rows, in their own standard errors; and the
    standard error of the rows."""
    import numpy as np
    from scipy.stats import bootstrap as resample

    def moments(rows: Any, axis: int) -> Any:
        return np.stack([rows.mean(axis=axis), rows.std(axis=axis, ddof=1)])

    count = len(gains)
    means, spreads = resample(
        (gains,),
        moments,
        n_resamples=RESAMPLES,
        batch=max(1, _CELLS // count),
        vectorized=True,
        method="percentile",
        rng=SEED,
    ).bootstrap_distribution
    away = means - gains.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        t = away * math.sqrt(count) / spreads
    return np.where(away == 0, 0.0, t), float(gains.std(ddof=1)) / math.sqrt(count)


def _tango(gains: Gains, null: float) -> float:
    """By how many standard errors the mean gain is above `null`, where the rows that differ are as likely as they can
    be made to be by a true gain of `null`."""
    count = len(gains)
    won, lost = float(gains[gains > 0].sum()), float(-gains[gains < 0].sum())
    a, b, c = 2 * count, (2 * count - won + lost) * null - won - lost, -lost * null * (1 - null)
    likely = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    above, variance = won - lost - count * null - 0.5, count * (2 * likely + null * (1 - null))
    return above / math.sqrt(variance) if variance > 1e-12 else math.copysign(math.inf, above)


# ---------------------------------------------------------------- how many rows


def spread(gains: Gains, bounded: bool) -> float:
    """Variance of a row's gain, as the intervals see it."""
    second = abs(gains).mean() if bounded else (gains**2).mean()
    return max(float(second - gains.mean() ** 2), 0.0)


def detectable(variance: float, rows: int, alpha: float, power: float, bounded: bool) -> float:
    """The minimum detectable effect: the smallest true gain above the tested one that is found with chance `power`."""
    z = _reach(alpha, power)
    effect = z * math.sqrt(variance / rows)
    # a gain of e takes e of the rows that differ at least, so the variance is not below e (1 - e); half a row: `score`
    return max(effect, z * z / (rows + z * z)) + 0.5 / rows if bounded else effect


def rows_for(effect: float, variance: float, alpha: float, power: float, bounded: bool) -> int:
    """The rows with which `effect` is detectable."""
    z, half = _reach(alpha, power), 1.0 if bounded else 0.0
    spread = z * math.sqrt(max(variance, effect * (1 - effect)) if bounded else variance)
    root = (spread + math.sqrt(spread**2 + 2 * effect * half)) / (2 * effect)
    return max(math.ceil(root**2), least_rows(alpha))


def least_rows(alpha: float) -> int:
    """Fewer rows than these cannot give p < alpha, even if every one is won."""
    return math.floor(-math.log2(alpha)) + 1


def _reach(alpha: float, power: float) -> float:
    from scipy.special import ndtri

    return float(-ndtri(alpha) + ndtri(power))


# ---------------------------------------------------------------- several tests


def holm(ps: Sequence[float]) -> list[float]:
    """p of each of several tests, corrected (Holm 1979): below alpha for a true null hypothesis, whichever it is, with
    chance alpha at most."""
    adjusted, largest = [1.0] * len(ps), 0.0
    for rank, position in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min((len(ps) - rank) * ps[position], 1.0))
        adjusted[position] = largest
    return adjusted
