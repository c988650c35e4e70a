"""Intervals by the bootstrap, computed for all statistics of a sample at once."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def percentile_interval(draws: Floats, level: float = 0.95) -> tuple[Floats, Floats]:
    """The percentile interval of bootstrap draws, along the first axis."""
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    return low, high


def bootstrap_means(
    groups: Sequence[Floats], rng: np.random.Generator, resamples: int, block: int = 100
) -> list[Floats]:
    """Means of resampled groups: for each group (n_g, r) an array (resamples, r).

    Groups are resampled each by itself (a stratified bootstrap). Resampling is done by multinomial counts, so a mean
    over a resample is one row of a matrix product.
    """
    found = []
    for group in groups:
        n = len(group)
        draws = [
            rng.multinomial(n, np.full(n, 1 / n), size=min(block, resamples - start)) @ group / n
            for start in range(0, resamples, block)
        ]
        found.append(np.concatenate(draws))
    return found


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
