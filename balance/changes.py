"""What differs between two data sets, or one data set at two times, with intervals and corrected tests."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from balance.audit import DataBias
from balance.errors import UserError
from balance.intervals import Estimates, adjust_p_values


@dataclass(frozen=True)
class Change:
    """What differs between two data sets: a share or an association of a and of b.

    Attributes:
        what: `share` (of the attribute), `share in concept`, or `association`.
        attribute, concept: which; concept is empty for a share of the attribute itself.
        a, b: the two values.
        difference: b - a.
        low, high: interval of the difference.
        p, p_adjusted: of no difference, raw and adjusted for the number of comparisons.
    """

    what: str
    attribute: str
    concept: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float


def compare(a: DataBias, b: DataBias) -> list[Change]:
    """What differs between two data sets (or the same one at two times), the surest differences first.

    Intervals and tests are normal, from the bootstrap's standard errors; the two data sets are taken as independent.

    Raises:
        UserError: they have no attribute column in common.
    """
    attributes = [name for name in a.s_names if name in b.s_names]
    concepts = [name for name in a.y_names if name in b.y_names]
    if not attributes:
        raise UserError(f"The two data sets have no attribute in common: {a.s_names} and {b.s_names}.")
    rows: list[tuple[str, str, str, float, float, float]] = []
    for name in attributes:
        i, j = a.s_names.index(name), b.s_names.index(name)
        rows.append(("share", name, "", *_two(a.representation, b.representation, (i,), (j,))))
        for concept in concepts:
            left, right = (i, a.y_names.index(concept)), (j, b.y_names.index(concept))
            rows.append(("share in concept", name, concept, *_two(a.concept_share, b.concept_share, left, right)))
            rows.append(("association", name, concept, *_two(a.association, b.association, left, right)))
    rows = [row for row in rows if np.isfinite(row[3]) and np.isfinite(row[4])]
    values = np.array([row[3:] for row in rows]).reshape(-1, 3)
    difference, error = values[:, 1] - values[:, 0], values[:, 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        p = np.where(error > 0, 2 * norm.sf(np.abs(difference) / error), np.nan)
    adjusted = adjust_p_values(p)
    half = norm.ppf((1 + a.level) / 2) * error
    changes = [
        Change(*row[:5], float(d), float(d - h), float(d + h), float(one), float(corrected))
        for row, d, h, one, corrected in zip(rows, difference, half, p, adjusted, strict=True)
    ]
    return sorted(changes, key=lambda change: (np.nan_to_num(change.p_adjusted, nan=2.0), -abs(change.difference)))


def _two(a: Estimates, b: Estimates, i: tuple[int, ...], j: tuple[int, ...]) -> tuple[float, float, float]:
    return float(a.value[i]), float(b.value[j]), float(np.hypot(a.error[i], b.error[j]))
