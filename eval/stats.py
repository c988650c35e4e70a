"""Intervals: by the bootstrap for means and smooth functions of them, by other constructions where it does not cover.

A bootstrap's percentiles hold for what is about normal around its true value. Shares near 0 or 1 are not, nor are
absolute values and maxima, whose resamples never come as low as the truth. So shares get exact binomial intervals, and
what is largest among several differences is bounded by simultaneous intervals of all of them. `docs/coverage.md` has
how often each interval holds the true value, by simulation.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance.intervals import clopper_pearson

Floats = NDArray[np.float64]


def percentile_interval(draws: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """The percentile interval of bootstrap draws, along the first axis; undefined draws (NaN) do not count."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail], axis=0)
    return low, high


def bootstrap_means(
    groups: Sequence[Floats], rng: np.random.Generator, resamples: int, block: int = 100
) -> list[Floats]:
    """Means of resampled groups: for each group (n_g, r) an array (resamples, r).

    Groups are resampled each by itself (a stratified bootstrap). Resampling is done by multinomial counts, so a mean
    over a resample is one row of a matrix product. Rows that are equal are drawn together, which is the same
    distribution: hits and misses of 125,000 queries then cost two counts a resample instead of 125,000.
    """
    found = []
    for group in groups:
        n = len(group)
        rows, shares = _merge_equal_rows(group)
        size = max(1, min(block, (1 << 24) // len(rows)))
        draws = [
            rng.multinomial(n, shares, size=min(size, resamples - start)) @ rows / n
            for start in range(0, resamples, size)
        ]
        found.append(np.concatenate(draws))
    return found


def _merge_equal_rows(group: Floats) -> tuple[Floats, Floats]:
    """The distinct rows of (n, r) and their shares; all rows, equally, where merging would gain little."""
    n = len(group)
    if group.shape[1] <= 2:
        rows, counts = np.unique(group, axis=0, return_counts=True)
        if len(rows) <= n / 2:
            return rows, counts / n
    return group, np.full(n, 1 / n)


def mean_interval(values: Floats, rng: np.random.Generator, resamples: int) -> tuple[float, float, float]:
    """Mean of values (n,) with its 95 % bootstrap interval: (mean, low, high)."""
    draws = bootstrap_means([values[:, None]], rng, resamples)[0]
    low, high = percentile_interval(draws)
    return float(values.mean()), float(low[0]), float(high[0])


def statistic_interval(
    groups: Sequence[Floats],
    statistic: Callable[[list[Floats]], Floats],
    rng: np.random.Generator,
    resamples: int,
) -> tuple[Floats, Floats, Floats]:
    """A statistic of the groups' means, with its 95 % interval from a stratified bootstrap.

    Args:
        groups: samples (n_g, r).
        statistic: from the groups' means, each (b, r), to (b, k); applied to the data with b = 1.
        rng: source of the resamples.
        resamples: how many.

    Returns:
        value, low, high, each (k,).
    """
    value = statistic([group.mean(axis=0, keepdims=True) for group in groups])[0]
    low, high = percentile_interval(statistic(bootstrap_means(groups, rng, resamples)))
    return value, low, high


def correlation_interval(
    x: Floats, y: Floats, rng: np.random.Generator, resamples: int
) -> tuple[float, float, float] | None:
    """Pearson's r of x and y, (clusters, n) each, over all entries, with an interval that resamples clusters.

    Returns:
        r, low, high; None where x or y is constant.
    """
    if any(np.ptp(values) <= 1e-12 * np.abs(values).max() for values in (x, y)):
        return None
    x, y = x - x.mean(), y - y.mean()
    moments = np.stack([x, y, x * x, y * y, x * y], axis=2).mean(axis=1)

    def pearson(means: list[Floats]) -> Floats:
        mx, my, xx, yy, xy = means[0].T
        with np.errstate(invalid="ignore", divide="ignore"):
            r = (xy - mx * my) / np.sqrt((xx - mx**2) * (yy - my**2))
        return np.clip(r, -1, 1)[:, None]

    value, low, high = statistic_interval([moments], pearson, rng, resamples)
    return float(value[0]), float(low[0]), float(high[0])


def share_interval(
    hits: Floats, clusters: NDArray[np.integer[Any]] | None = None, level: float = 0.95
) -> tuple[float, float, float]:
    """The share of hits (n,), each in [0, 1], with its exact binomial (Clopper-Pearson) interval.

    Args:
        hits: 1 for a hit, 0 for a miss; what counts in part lies between, which makes the interval a little too wide.
        clusters: which hits belong together, (n,). As many independent ones are counted as would vary as much, at most
            n (Korn and Graubard, 1998); where all or none hit, as many as there are clusters.
        level: of the interval.

    Returns:
        share, low, high.
    """
    n, share = float(len(hits)), float(hits.mean())
    if clusters is not None:
        sums, sizes = np.bincount(clusters, weights=hits), np.bincount(clusters)
        sums, sizes = sums[sizes > 0], sizes[sizes > 0]
        groups = len(sizes)
        spread = float(((sums - share * sizes) ** 2).sum()) / len(hits) ** 2 * groups / max(groups - 1, 1)
        n = min(n, share * (1 - share) / spread) if spread > 1e-15 else float(groups)
    low, high = clopper_pearson(np.float64(share * n), np.float64(n), level)
    return share, float(low), float(high)


def size_interval(low: float, high: float) -> tuple[float, float]:
    """The interval of |x| from that of x: from 0 where the latter holds 0. It covers at least as often."""
    ends = abs(low), abs(high)
    return (0.0 if low <= 0 <= high else min(ends)), max(ends)


def largest_interval(
    groups: Sequence[Floats],
    differences: Callable[[list[Floats]], Floats],
    rng: np.random.Generator,
    resamples: int,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """The largest size among several differences, with an interval from simultaneous intervals of all of them.

    Each difference gets its estimate ± c standard errors, with c such that in the given share of the resamples all hold
    at once. Then the largest size lies between the largest of the lower ends of sizes and the largest of the upper
    ones: from 0 where no difference is beyond chance, since resamples of a maximum never come near 0 themselves.

    Args:
        groups: samples (n_g, r).
        differences: from the groups' means, each (b, r), to (b, k).
        rng: source of the resamples.
        resamples: how many.
        level: of the interval.

    Returns:
        value, low, high.
    """
    value = differences([group.mean(axis=0, keepdims=True) for group in groups])[0]
    draws = differences(bootstrap_means(groups, rng, resamples)) - value
    half = _simultaneous(draws, level)
    size = np.abs(value)
    return float(size.max()), float(max((size - half).max(), 0)), float((size + half).max())


def extreme_interval(
    groups: Sequence[Floats], rng: np.random.Generator, resamples: int, level: float = 0.95
) -> tuple[float, float, float]:
    """The lowest of the groups' means, (n_g, 1) each, with an interval from simultaneous intervals of all of them."""
    value = np.array([float(group.mean()) for group in groups])
    draws = np.concatenate(bootstrap_means(groups, rng, resamples), axis=1) - value
    half = _simultaneous(draws, level)
    return float(value.min()), float((value - half).min()), float((value + half).min())


def _simultaneous(draws: Floats, level: float) -> Floats:
    """Half the widths of intervals that hold all at once, (k,), from resampled deviations (b, k)."""
    error = draws.std(axis=0)
    varies = error > 1e-12
    if not varies.any():
        return error
    c = np.quantile((np.abs(draws[:, varies]) / error[varies]).max(axis=1), level)
    half: Floats = c * error
    return half


def pairwise(means: list[Floats]) -> Floats:
    """Differences between any two of the groups' means, each (b, r): (b, pairs * r)."""
    pairs = [one - other for place, one in enumerate(means) for other in means[place + 1 :]]
    return np.concatenate(pairs, axis=1)
