"""Intervals and tests for shares: exact where counts are whole numbers, by bootstrap elsewhere."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta, false_discovery_control, fisher_exact, norm

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Estimates:
    """Values with intervals; all arrays have the same shape, NaN where there is nothing to estimate.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: upper end.
        error: standard error.
    """

    value: Floats
    low: Floats
    high: Floats
    error: Floats


def clopper_pearson(successes: Floats | np.float64, trials: Floats | np.float64, level: float) -> tuple[Floats, Floats]:
    """Exact interval of a binomial share (Clopper and Pearson 1934); NaN where there are no trials."""
    tail = (1 - level) / 2
    with np.errstate(invalid="ignore"):
        low = np.where(successes > 0, beta.ppf(tail, successes, trials - successes + 1), 0.0)
        high = np.where(successes < trials, beta.ppf(1 - tail, successes + 1, trials - successes), 1.0)
    empty = trials <= 0
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


def wilson(successes: Floats, trials: Floats, level: float) -> tuple[Floats, Floats]:
    """Score interval of a binomial share (Wilson 1927)."""
    z = norm.ppf((1 + level) / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = successes / trials
        middle = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
        half = z / (1 + z**2 / trials) * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return middle - half, middle + half


def newcombe(x1: Floats, n1: Floats, x0: Floats, n0: Floats, level: float) -> tuple[Floats, Floats]:
    """Interval of the difference of two shares x1/n1 - x0/n0 (Newcombe 1998, method 10)."""
    low1, high1 = wilson(x1, n1, level)
    low0, high0 = wilson(x0, n0, level)
    with np.errstate(invalid="ignore", divide="ignore"):
        p1, p0 = x1 / n1, x0 / n0
        low = p1 - p0 - np.sqrt((p1 - low1) ** 2 + (high0 - p0) ** 2)
        high = p1 - p0 + np.sqrt((high1 - p1) ** 2 + (p0 - low0) ** 2)
    return low, high


def difference_p_values(x1: Floats, n1: Floats, x0: Floats, n0: Floats) -> Floats:
    """Two-sided p of equal shares: Fisher's exact test where an expected count is below 5, else the pooled z test."""
    with np.errstate(invalid="ignore", divide="ignore"):
        pooled = (x1 + x0) / (n1 + n0)
        z = (x1 / n1 - x0 / n0) / np.sqrt(pooled * (1 - pooled) * (1 / n1 + 1 / n0))
        expected = np.minimum(np.minimum(n1, n0) * pooled, np.minimum(n1, n0) * (1 - pooled))
    p = 2 * norm.sf(np.abs(z))
    for place in zip(*np.nonzero((expected < 5) & (n1 > 0) & (n0 > 0)), strict=True):
        a, b = x1[place], x0[place]
        p[place] = fisher_exact([[a, n1[place] - a], [b, n0[place] - b]]).pvalue
    return p


def adjust_p_values(p: Floats) -> Floats:
    """Benjamini and Hochberg's (1995) adjustment over all tests made; NaN stays NaN."""
    adjusted = np.full(p.shape, np.nan)
    tested = np.isfinite(p)
    if tested.any():
        adjusted[tested] = false_discovery_control(p[tested], method="bh")
    return adjusted


def largest_by_chance(errors: NDArray[Any], level: float) -> float:
    """What the largest of independent normal deviations with these standard errors stays below, in `level` of cases."""
    errors = errors[np.isfinite(errors) & (errors > 0)]
    if not errors.size:
        return 0.0

    def excess(x: float) -> float:
        return float(np.log1p(-2 * norm.sf(x / errors)).sum() - np.log(level))

    top = float(errors.max())
    return float(brentq(excess, 1e-9 * top, 40 * top))
