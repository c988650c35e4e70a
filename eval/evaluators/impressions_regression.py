"""What explains a model's similarity to human impressions, over models.

Source: Wolfe, Dangol, Hiniker and Howe (2024). One row per model and attribute:

    similarity ~ data + total_samples + image_mparams + text_mparams + human_irr        (OLS)

with the facts of the models divided by their largest value. Scale is contrasted over matched models by a paired t-test
and d = mean difference / standard deviation of both sides together (ddof = 1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from balance.errors import UserError
from eval.stats import Floats

FACTS = ("data", "total_samples", "image_mparams", "text_mparams")


@dataclass(frozen=True)
class Coefficient:
    """One predictor of a regression: estimate, t, two-sided p and 95 % interval."""

    name: str
    value: float
    t: float
    p: float
    low: float
    high: float


@dataclass(frozen=True)
class Regression:
    """An ordinary least squares fit.

    Attributes:
        coefficients: the constant first.
        r_squared: share of the variance explained.
        degrees: residual degrees of freedom.
        count: rows.
        left_out: predictors that are the same for all rows, and so can't be told from the constant.
    """

    coefficients: tuple[Coefficient, ...]
    r_squared: float
    degrees: int
    count: int
    left_out: tuple[str, ...]


def similarity_regression(rows: Sequence[Mapping[str, Any]]) -> Regression:
    """Regress similarity on the models' facts and the reliability of the human ratings.

    The rows of one model share its facts and the rows of one attribute its reliability; like the source, the fit takes
    all rows for independent, so that its p-values are too small where they are not.

    Args:
        rows: each with `similarity`, `human_irr` in [0, 1], `data`, `total_samples`, `image_mparams`, `text_mparams`.

    Raises:
        UserError: a row lacks a number, or there are too few rows.
    """
    import statsmodels.api as sm

    columns = {}
    for name in ("similarity", *FACTS, "human_irr"):
        try:
            columns[name] = np.array([float(row[name]) for row in rows])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"The regression of similarities needs a number for {name} in every row.") from error
        if not np.isfinite(columns[name]).all():
            raise UserError(f"The regression of similarities needs a finite {name} in every row.")
    y = columns.pop("similarity")
    varied = [name for name, values in columns.items() if len(values) and np.ptp(values) > 0]
    if len(y) <= len(varied) + 1:
        raise UserError(f"The regression needs more rows than its {len(varied) + 1} coefficients; it has {len(y)}.")
    scaled = [columns[name] / (columns[name].max() if name in FACTS else 1.0) for name in varied]
    design = np.column_stack([np.ones(len(y)), *scaled])
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise UserError(
            f"Over these models {', '.join(varied)} are not independent of each other: add models that differ in one."
        )
    fit = sm.OLS(y, design).fit()
    ends = np.asarray(fit.conf_int())
    coefficients = tuple(
        Coefficient(name, *(float(number) for number in numbers))
        for name, *numbers in zip(
            ["constant", *varied], fit.params, fit.tvalues, fit.pvalues, ends[:, 0], ends[:, 1], strict=True
        )
    )
    left_out = tuple(name for name in columns if name not in varied)
    return Regression(coefficients, float(fit.rsquared), int(fit.df_resid), len(y), left_out)


@dataclass(frozen=True)
class Contrast:
    """Two matched samples: d = mean difference / std of both together (ddof = 1), and a paired t-test."""

    d: float
    t: float
    p: float
    count: int


def paired_contrast(larger: Floats, smaller: Floats) -> Contrast:
    """Contrast matched values, such as similarities of models that differ in nothing but the scale of their data.

    Args:
        larger: (n,) values of the one side.
        smaller: (n,) of the other, in the same order.

    Raises:
        UserError: the sides differ in number, or have fewer than two values.
    """
    larger, smaller = np.asarray(larger, dtype=np.float64), np.asarray(smaller, dtype=np.float64)
    if len(larger) != len(smaller) or len(larger) < 2:
        raise UserError(
            f"A paired contrast needs equally many values on both sides, two at least; it has {len(larger)} and "
            f"{len(smaller)}."
        )
    difference, spread = larger - smaller, np.concatenate([larger, smaller]).std(ddof=1)
    d = float(difference.mean() / spread) if spread > 0 else 0.0
    if not np.ptp(difference) > 1e-12 * max(np.abs(larger).max(), np.abs(smaller).max()):
        # Equal differences: t is infinite, or not defined where they are zero.
        same = not np.abs(difference).max() > 0
        return Contrast(d, 0.0 if same else float(np.copysign(np.inf, d)), 1.0 if same else 0.0, len(larger))
    found = stats.ttest_rel(larger, smaller)
    return Contrast(d, float(found.statistic), float(found.pvalue), len(larger))
