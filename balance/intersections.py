"""Shares of combinations of two attributes' values, such as old women, against what independence would give."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balance.intervals import clopper_pearson
from balance.m4.cells import Cells

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Intersection:
    """A combination of two attribute values, over samples where both are known.

    Attributes:
        names: the two values; `not x` is the other side of a binary column.
        share: of the combination.
        low, high: exact interval (of the rounded counts where labels are probabilities).
        independent: the product of the two shares: what it would be if the two had nothing to do with each other.
        count: samples (or summed probabilities).
    """

    names: tuple[str, str]
    share: float
    low: float
    high: float
    independent: float
    count: float


def intersections(cells: Cells, rates: Floats | None = None, level: float = 0.95) -> list[Intersection]:
    """Shares of all combinations of two attributes' values, those furthest from independence first.

    Args:
        cells: the data.
        rates: (n,) sampling rates; intervals are then left out (NaN).
        level: of the intervals.
    """
    weights = cells.counts if rates is None else cells.counts * rates
    groups: dict[str, list[tuple[str, Floats]]] = {}
    for k, name in enumerate(cells.s_names):
        group, one_hot, _ = name.partition("=")
        groups.setdefault(group, []).append((name, cells.s[:, k]))
        if not one_hot:
            groups[group].append((f"not {name}", 1 - cells.s[:, k]))
    found = []
    for first, second in itertools.combinations(groups.values(), 2):
        for (name_a, a), (name_b, b) in itertools.product(first, second):
            both = ~np.isnan(a) & ~np.isnan(b)
            n = float(weights[both].sum())
            if not n:
                continue
            count = float((weights * a * b)[both].sum())
            low, high = clopper_pearson(np.array([round(count)]), np.array([round(n)]), level)
            independent = float((weights * a)[both].sum() * (weights * b)[both].sum()) / n**2
            ends = (float(low[0]), float(high[0])) if rates is None else (float("nan"), float("nan"))
            found.append(Intersection((name_a, name_b), count / n, *ends, independent, count))
    return sorted(found, key=lambda one: -abs(one.share - one.independent))
