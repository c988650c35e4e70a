"""Whether one model or treatment differs from another over matched configurations: the Wilcoxon signed-rank test.

*CLIP the Bias* compares treatments this way. Runs that differ in their seed alone are told apart and paired by
`eval.treatments`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from balance.errors import UserError


@dataclass(frozen=True)
class Paired:
    """Result of a paired test.

    Attributes:
        statistic: the smaller sum of signed ranks.
        p: two-sided; 1 if no pair differs.
        n: pairs.
        median_difference: median of first - second.
    """

    statistic: float
    p: float
    n: int
    median_difference: float


def wilcoxon(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Wilcoxon signed-rank test of matched values (n,) each, two-sided; exact for few pairs without ties.

    Raises:
        UserError: the lengths differ, there is no pair, or a value is not finite.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise UserError(f"A paired test needs equally many values on both sides, not {len(a)} and {len(b)}.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise UserError("A paired test needs numbers; one of the values is not finite.")
    difference = a - b
    if not difference.any():
        return Paired(0.0, 1.0, len(a), 0.0)
    found = stats.wilcoxon(difference)
    return Paired(float(found.statistic), float(found.pvalue), len(a), float(np.median(difference)))


def match(first: Mapping[str, float], second: Mapping[str, float]) -> tuple[list[float], list[float]]:
    """Values of the keys that both sides have, in the order of the first.

    Args:
        first: key, such as the name of a configuration or a metric, -> value.
        second: the same.

    Raises:
        UserError: no key is on both sides.
    """
    keys = [key for key in first if key in second]
    if not keys:
        raise UserError("The two sides have no configuration in common.")
    return [first[key] for key in keys], [second[key] for key in keys]
