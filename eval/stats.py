"""Intervals by the bootstrap, computed for all statistics of a sample at once."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def clustered_interval(
    values: Floats, clusters: NDArray[np.integer[Any]], rng: np.random.Generator, resamples: int
) -> tuple[float, float, float]:
    """Mean of values (n,) that come in clusters (n,), with a 95 % interval that resamples whole clusters.

    Captions of one picture are hit or missed together: an interval that took them for independent would be too narrow.
    """
    sums = np.bincount(clusters, weights=values)
    sizes = np.bincount(clusters)
    groups = [np.column_stack([sums, sizes])[sizes > 0].astype(np.float64)]
    value, low, high = statistic_interval(groups, lambda m: m[0][:, :1] / m[0][:, 1:], rng, resamples)
    return float(value[0]), float(low[0]), float(high[0])


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
