"""The statistics of embedding association tests, on plain arrays.

With cos(w, a) the cosine of two embeddings, and means over sets of stimuli:

    s(w, A, B) = mean_a cos(w, a) - mean_b cos(w, b)
    d = (mean_x s(x, A, B) - mean_y s(y, A, B)) / std_{w in X ∪ Y} s(w, A, B)        (ddof = 1)

Sources: Caliskan, Bryson and Narayanan (Science 2017); Steed and Caliskan (FAccT 2021) for pictures; Wolfe, Hiniker and
Howe's *ML-EAT* (2024) for the levels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from balance.errors import UserError
from eval.evaluators.eat_permutation import p_value
from eval.stats import Floats, percentile_interval


@dataclass(frozen=True)
class Cosines:
    """The cosines of a test's stimuli.

    Attributes:
        xa, xb: of X with A and with B, (n, a) and (n, b).
        ya, yb: of Y with A and with B, (m, a) and (m, b).
    """

    xa: Floats
    xb: Floats
    ya: Floats
    yb: Floats

    @property
    def x(self) -> Floats:
        """Associations s of the stimuli in X, (n,)."""
        return self.xa.mean(axis=1) - self.xb.mean(axis=1)

    @property
    def y(self) -> Floats:
        """Associations s of the stimuli in Y, (m,)."""
        return self.ya.mean(axis=1) - self.yb.mean(axis=1)


def cosines(x: ArrayLike, y: ArrayLike, a: ArrayLike, b: ArrayLike) -> Cosines:
    """The cosines between targets and attributes.

    Args:
        x: (n, k) embeddings of the targets X, of any length.
        y: (m, k) of the targets Y.
        a: (p, k) of the attributes A.
        b: (q, k) of the attributes B.

    Raises:
        UserError: a set is empty, or an embedding is not finite or zero.
    """
    xs, ys, as_, bs = (_unit(side, rows) for side, rows in zip("XYAB", (x, y, a, b), strict=True))
    return Cosines(xs @ as_.T, xs @ bs.T, ys @ as_.T, ys @ bs.T)


def _unit(side: str, rows: ArrayLike) -> Floats:
    rows = np.asarray(rows, dtype=np.float64)
    if rows.ndim != 2 or not len(rows):
        raise UserError(f"An association test needs at least one stimulus in {side}; it has none.")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)).ravel())
    if len(bad):
        raise UserError(
            f"Stimulus {bad[0]} of {side} has an embedding with NaN, infinity or nothing but zeros; "
            "the model is damaged or has diverged."
        )
    unit: Floats = rows / lengths
    return unit


def standardised_difference(x: Floats, y: Floats) -> float:
    """(mean x - mean y) / std of both together with ddof = 1; 0 where all values are equal."""
    both = np.concatenate([x, y])
    difference, spread = x.mean() - y.mean(), both.std(ddof=1) if len(both) > 1 else 0.0
    # Equal numbers can have a spread of rounding.
    return float(difference / spread) if spread > 1e-14 * np.abs(both).max() else 0.0


def effect_size(x: ArrayLike, y: ArrayLike, a: ArrayLike, b: ArrayLike) -> float:
    """The effect size d of an association test on embeddings (see `cosines`).

    Raises:
        UserError: a set is empty, or an embedding is not finite or zero.
    """
    found = cosines(x, y, a, b)
    return standardised_difference(found.x, found.y)


def single_category(to_a: Floats, to_b: Floats) -> float:
    """SC-EAT: the effect size of one stimulus from its cosines (p,) to A and (q,) to B."""
    return standardised_difference(to_a, to_b)


@dataclass(frozen=True)
class Level2:
    """ML-EAT's second level for one target group T.

    Attributes:
        d: (mean_a s(a, T) - mean_b s(b, T)) / std_{A ∪ B} s, with s(w, T) the mean cosine of w to T.
        p: one-sided p-value of permuting A and B in the direction of d; None where A and B differ in size.
    """

    d: float
    p: float | None


def level2(to_a: Floats, to_b: Floats, samples: int = 10_000) -> Level2:
    """The association of one target group with A rather than B, from its cosines (n, p) and (n, q)."""
    a, b = to_a.mean(axis=0), to_b.mean(axis=0)
    d = standardised_difference(a, b)
    if len(a) != len(b):
        return Level2(d, None)
    return Level2(d, p_value(a, b, samples) if d >= 0 else p_value(b, a, samples))


def level3(cell: Floats) -> tuple[float, float]:
    """Mean and standard deviation (ddof = 1) of the cosines between two groups, (n, p)."""
    return float(cell.mean()), float(cell.std(ddof=1)) if cell.size > 1 else 0.0


def effect_interval(
    found: Cosines,
    rng: np.random.Generator,
    resamples: int,
    clusters: tuple[NDArray[np.intp] | None, ...] = (None, None, None, None),
) -> tuple[float, float]:
    """The 95 % interval of d for sets of as many other stimuli: X, Y, A and B are each resampled.

    It covers the mean d of such sets. Resampled stimuli repeat, which adds to the spread that d is divided by, and
    makes resampled d smaller than that of fresh stimuli; so the resamples' deviations from their own mean are laid
    around d. The d of endlessly many stimuli is larger again, since few attributes add to the spread in the same way,
    and is not what the interval is of.

    Args:
        found: the cosines.
        rng: source of the resamples.
        resamples: how many.
        clusters: for X, Y, A and B which stimuli belong together, such as sentences with one word: numbers (n,);
            whole clusters are resampled. None: each stimulus by itself.

    Returns:
        Its ends, within what d can be.
    """
    orders = _canonical(found)
    wx, wy, wa, wb = (_weights(order, cluster, rng, resamples) for order, cluster in zip(orders, clusters, strict=True))
    sx = _mean_to(found.xa, wa) - _mean_to(found.xb, wb)
    sy = _mean_to(found.ya, wa) - _mean_to(found.yb, wb)
    nx, ny = wx.sum(axis=1), wy.sum(axis=1)
    mx, my = (wx * sx).sum(axis=1) / nx, (wy * sy).sum(axis=1) / ny
    n = nx + ny
    centre = (nx * mx + ny * my) / n
    squares = (wx * (sx - centre[:, None]) ** 2).sum(axis=1) + (wy * (sy - centre[:, None]) ** 2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = (mx - my) / np.sqrt(squares / (n - 1))
    if not np.isfinite(draws).any():
        return 0.0, 0.0
    draws = np.where(np.isfinite(draws), draws, np.nan)
    d = standardised_difference(found.x, found.y)
    low, high = map(float, percentile_interval(draws - np.nanmean(draws)))
    sizes = len(found.x), len(found.y)
    most = float(np.sqrt(sum(sizes) * (sum(sizes) - 1) / (sizes[0] * sizes[1])))  # where X and Y are constant
    return max(d + min(low, 0.0), -most), min(d + max(high, 0.0), most)


def _canonical(found: Cosines) -> list[NDArray[np.intp]]:
    """An order of X, Y, A and B by their cosines, so that resamples don't depend on the order that they came in."""
    a = np.concatenate([found.xa, found.ya]).mean(axis=0)
    b = np.concatenate([found.xb, found.yb]).mean(axis=0)
    return [np.argsort(values, kind="stable") for values in (found.x, found.y, a, b)]


def _weights(
    order: NDArray[np.intp], cluster: NDArray[np.intp] | None, rng: np.random.Generator, resamples: int
) -> Floats:
    """How often each stimulus is drawn in each resample, (resamples, n)."""
    if cluster is None:
        number = np.empty_like(order)
        number[order] = np.arange(len(order))
    else:
        # Clusters are numbered anew, by their first stimulus in the canonical order.
        first = {c: rank for rank, c in enumerate(dict.fromkeys(cluster[order].tolist()))}
        number = np.array([first[c] for c in cluster.tolist()])
    groups = int(number.max()) + 1
    counts = rng.multinomial(groups, np.full(groups, 1 / groups), size=resamples)
    return counts[:, number].astype(np.float64)


def _mean_to(cell: Floats, weights: Floats) -> Floats:
    """Weighted mean over the attributes for each resample: (n, p) and (r, p) to (r, n)."""
    means: Floats = weights @ cell.T / weights.sum(axis=1, keepdims=True)
    return means
