"""The bias of data by the definitions of "CLIP the Bias" (ICLR 2024), with intervals, before and after a plan.

RB = max_k abs(E[s_k] - pi_k), AB = max_{k,r} abs(E[y_r given s_k = 1] - E[y_r given s_k = 0]). Beside them the share
inside each concept, E[s_k given y_r = 1]. A probability s counts as s of a sample with the attribute and 1 - s of one
without. All of it follows from cells.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.stats import norm

from balance.errors import UserError
from balance.intervals import (
    Estimates,
    adjust_p_values,
    clopper_pearson,
    difference_p_values,
    largest_by_chance,
    newcombe,
)
from balance.m4.cells import Cells

Floats = NDArray[np.float64]
FEW_SAMPLES = 30  # of known attribute, below which an association that is not sure comes last

ENOUGH = 30
"""Samples of known attribute from which on a concept's share can be told from chance, and plans constrain it."""


@dataclass(frozen=True, eq=False)
class DataBias:
    """The bias of (weighted) data, m attribute columns and c concepts.

    Attributes:
        s_names, y_names: names of the columns.
        proxies: (c,) whether a concept is a proxy; proxies have an AB of their own.
        pi: (m,) wanted shares; the data's own share where none is wanted.
        wanted: (m,) for which columns a share is wanted; RB and AB run over these.
        samples: how many samples there are.
        cells: how many patterns.
        effective: Kish's effective sample size under the rates.
        unknown: (m,) share of samples whose s_k is unknown.
        representation: (m,) E[s_k] over samples where it is known.
        association: (m, c) E[y_r given s_k = 1] - E[y_r given s_k = 0].
        concept_share: (m, c) E[s_k given y_r = 1].
        concept_count: (c,) samples that bear each concept, before any rates.
        known_count: (m, c) those of them whose s_k is known.
        concept_rate: (c,) mean rate of the samples that bear each concept; 1 without a plan.
        rb, ab, ab_proxies: (1,) the summary figures; a maximum over many estimates leans upwards by chance.
        ab_chance: what AB stays below, with probability `level`, where nothing is associated.
        p, p_adjusted: (m, c) of no association, raw and adjusted for the number of tests; NaN under rates.
        level: of the intervals.
        exact: intervals of single shares are exact (labels are 0 or 1 and nothing is reweighted), else bootstrapped.
    """

    s_names: tuple[str, ...]
    y_names: tuple[str, ...]
    proxies: NDArray[np.bool_]
    pi: Floats
    wanted: NDArray[np.bool_]
    samples: float
    cells: int
    effective: float
    unknown: Floats
    representation: Estimates
    association: Estimates
    concept_share: Estimates
    concept_count: Floats
    known_count: Floats
    concept_rate: Floats
    rb: Estimates
    ab: Estimates
    ab_proxies: Estimates
    ab_chance: float
    p: Floats
    p_adjusted: Floats
    level: float
    exact: bool

    @property
    def tests(self) -> int:
        """How many associations were tested."""
        return int(np.isfinite(self.p).sum())

    def enough(self) -> dict[str, int]:
        """For each attribute that a share is wanted of, how many concepts have `ENOUGH` samples where it is known."""
        counts = (self.known_count >= ENOUGH).sum(axis=1)
        return {name: int(counts[k]) for k, name in enumerate(self.s_names) if self.wanted[k] and self.y_names}

    def thin(self) -> list[str]:
        """Which attributes are known for too few samples of most concepts, a sentence each."""
        total = len(self.y_names)
        return [
            f"Only {count:,} of {total:,} concepts have at least {ENOUGH} samples of known {name!r}: the association "
            "of the others can't be told from chance and is not constrained; label more data, or more of it."
            for name, count in self.enough().items()
            if 2 * count < total
        ]

    def order(self) -> list[tuple[int, int]]:
        """(k, r) of all associations that have a value: the sure ones first, by size.

        Sure is what has a corrected p below 1 - level. Of the others those of fewer than `FEW_SAMPLES` samples come
        last: three samples often differ by much, and say nothing.
        """
        size = np.abs(self.association.value)
        sure = np.nan_to_num(self.p_adjusted, nan=1.0) < 1 - self.level
        enough = self.known_count >= FEW_SAMPLES
        by = np.where(sure, 4.0, np.where(enough, 2.0, 0.0)) + np.nan_to_num(size, nan=-1.0)  # sizes are at most 1
        flat = [int(i) for i in np.argsort(-by, axis=None, kind="stable")]
        places = [divmod(i, size.shape[1]) for i in flat] if size.size else []
        return [(k, r) for k, r in places if np.isfinite(size[k, r])]


def wanted_shares(
    s_names: tuple[str, ...], own: Floats, target: Mapping[str, float] | None = None
) -> tuple[Floats, NDArray[np.bool_]]:
    """pi, and which columns have one that somebody wants: RB and AB run over these.

    Args:
        s_names: m columns.
        own: (m,) the data's own shares, the yardstick for columns without a wanted share.
        target: wanted share by column; by default one half for each column that is no value of a one-hot group.

    Raises:
        UserError: a target that is no column, or outside [0, 1].
    """
    if target is None:
        target = {name: 0.5 for name in s_names if "=" not in name}
    pi = np.nan_to_num(own)
    for name, value in target.items():
        if name not in s_names:
            raise UserError(f"target names {name!r}, which is no attribute column; these are: {', '.join(s_names)}.")
        if not 0 <= float(value) <= 1:
            raise UserError(f"target {name}={value} must lie in [0, 1].")
        pi[s_names.index(name)] = float(value)
    wanted = np.array([name in target for name in s_names], bool)
    return pi, wanted if wanted.any() else np.ones(len(s_names), bool)


class _Sums:
    """Sums over cells by attribute and concept, for any weights: column 0 is the whole data, column r + 1 concept r."""

    def __init__(self, cells: Cells) -> None:
        known = ~np.isnan(cells.s)
        self._features = np.hstack([known, np.nan_to_num(cells.s)]).astype(np.float64)
        ones = sp.csr_array(np.ones((len(cells), 1)))
        self._concepts = sp.csr_array(sp.hstack([ones, cells.y.astype(np.float64)]).T)

    def __call__(self, weights: Floats) -> tuple[Floats, Floats]:
        """(m, c + 1) sums of weights of known samples, and of those times s."""
        sums = (self._concepts @ (self._features * weights[:, None])).T
        return sums[: len(sums) // 2], sums[len(sums) // 2 :]


@dataclass(frozen=True, eq=False)
class _Shares:
    representation: Floats
    association: Floats
    concept_share: Floats


def _shares(known: Floats, ones: Floats) -> _Shares:
    with np.errstate(invalid="ignore", divide="ignore"):
        share = ones / np.where(known > 0, known, np.nan)
        zeros = known - ones
        zeros = np.where(zeros > 1e-9 * known, zeros, 0.0)  # what is left of subtracting equal sums is no sample
        association = ones[:, 1:] / ones[:, :1] - zeros[:, 1:] / zeros[:, :1]
    association[~np.isfinite(association)] = np.nan
    return _Shares(share[:, 0], association, share[:, 1:])


def data_bias(
    cells: Cells,
    rates: Floats | None = None,
    target: Mapping[str, float] | None = None,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> DataBias:
    """Measure the bias of data.

    Args:
        cells: the patterns of the data with their counts.
        rates: (n,) sampling rate of each cell, from a plan; without it the data as it is.
        target: wanted share by attribute column, see `wanted_shares`.
        resamples: of the bootstrap (Poisson over samples, Hanley and MacGibbon 2006).
        level: of the intervals.
        seed: of the bootstrap.

    Raises:
        UserError: an unknown target, or too few resamples for the level.
    """
    if resamples * (1 - level) < 2:
        raise UserError(f"bootstrap={resamples} is too few for intervals at level {level:g}; use at least 100.")
    proxies = np.array([name in cells.proxies for name in cells.y_names], bool)
    sums = _Sums(cells)
    known, ones = sums(cells.counts)
    pi, wanted = wanted_shares(cells.s_names, _shares(known, ones).representation, target)
    q = np.ones(len(cells)) if rates is None else np.asarray(rates, np.float64)
    point = _shares(*sums(cells.counts * q))
    drawn = _bootstrap(cells, q, sums, resamples, seed)
    hard = bool(np.isin(cells.s[~np.isnan(cells.s)], (0.0, 1.0)).all() and (cells.counts % 1 == 0).all())
    exact = hard and rates is None
    representation = _estimates(point.representation, drawn.representation, level)
    concept_share = _estimates(point.concept_share, drawn.concept_share, level)
    association = _estimates(point.association, drawn.association, level)
    p = np.full(association.value.shape, np.nan)
    if rates is None:
        p = 2 * norm.sf(np.abs(association.value) / np.where(association.error > 0, association.error, np.nan))
    if exact:
        low, high = clopper_pearson(ones, known, level)
        representation = Estimates(point.representation, low[:, 0], high[:, 0], representation.error)
        concept_share = Estimates(point.concept_share, low[:, 1:], high[:, 1:], concept_share.error)
        sides = (
            ones[:, 1:],
            ones[:, :1] + 0 * known[:, 1:],
            (known - ones)[:, 1:],
            (known - ones)[:, :1] + 0 * known[:, 1:],
        )
        low, high = newcombe(*sides, level)
        association = Estimates(point.association, low, high, association.error)
        p = np.where(np.isnan(point.association), np.nan, difference_p_values(*sides))
    borne = np.broadcast_to(known[:, 1:] > 0, p.shape)
    p = np.where(borne, p, np.nan)
    mass = cells.y.T @ cells.counts
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = (cells.y.T @ (cells.counts * q)) / mass
        weight = cells.counts * q
        effective = float(weight.sum() ** 2 / (cells.counts * q**2).sum()) if weight.any() else 0.0
        unknown = 1 - known[:, 0] / cells.total
    return DataBias(
        s_names=cells.s_names,
        y_names=cells.y_names,
        proxies=proxies,
        pi=pi,
        wanted=wanted,
        samples=cells.total,
        cells=len(cells),
        effective=effective,
        unknown=unknown,
        representation=representation,
        association=association,
        concept_share=concept_share,
        concept_count=mass,
        known_count=known[:, 1:],
        concept_rate=rate,
        rb=_largest(_shifted(representation, pi), drawn.representation - pi, wanted, level),
        ab=_largest(association, drawn.association, wanted[:, None] & ~proxies, level),
        ab_proxies=_largest(association, drawn.association, wanted[:, None] & proxies, level),
        ab_chance=_chance(known[wanted], ones[wanted], ~proxies, level),
        p=p,
        p_adjusted=adjust_p_values(p),
        level=level,
        exact=exact,
    )


def _bootstrap(cells: Cells, q: Floats, sums: _Sums, resamples: int, seed: int) -> _Shares:
    """Shares of `resamples` data sets drawn from this one, stacked."""
    rng = np.random.default_rng(seed)
    drawn = [_shares(*sums(rng.poisson(cells.counts) * q)) for _ in range(resamples)]
    return _Shares(
        np.stack([one.representation for one in drawn]),
        np.stack([one.association for one in drawn]),
        np.stack([one.concept_share for one in drawn]),
    )


def _estimates(value: Floats, drawn: Floats, level: float) -> Estimates:
    if not value.size:
        return Estimates(value, value, value, value)
    # A concept that a resample lacks has no share there: such resamples say nothing of it.
    filled = np.where(np.isnan(drawn).all(axis=0), 0.0, drawn)
    low, high = np.nanquantile(filled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    gone = np.isnan(value)
    error = np.nanstd(filled, axis=0)
    return Estimates(value, *(np.where(gone, np.nan, part) for part in (low, high, error)))


def _shifted(one: Estimates, by: Floats) -> Estimates:
    return Estimates(one.value - by, one.low - by, one.high - by, one.error)


def _largest(one: Estimates, drawn: Floats, chosen: NDArray[np.bool_], level: float) -> Estimates:
    """The largest absolute value among the chosen entries, with an interval.

    A resample's maximum leans upwards, so the lower end is the bootstrap's or, where smaller, the largest lower end
    of an entry's own interval: 0 where each of these holds 0.
    """
    value = np.abs(one.value[chosen])
    if not np.isfinite(value).any():
        return Estimates(*(np.full(1, np.nan) for _ in range(4)))
    flat = np.nan_to_num(np.abs(drawn[:, chosen]), nan=-1.0).max(axis=1)
    found = _estimates(np.array([np.nanmax(value)]), np.where(flat < 0, np.nan, flat)[:, None], level)
    apart = (one.low[chosen] > 0) | (one.high[chosen] < 0)
    own = np.where(apart, np.minimum(np.abs(one.low[chosen]), np.abs(one.high[chosen])), 0.0)
    return Estimates(found.value, np.minimum(found.low, np.max(own)), found.high, found.error)


def _chance(known: Floats, ones: Floats, columns: NDArray[np.bool_], level: float) -> float:
    """What the largest association stays below where there is none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share = known[:, 1:] / known[:, :1]
        error = np.sqrt(share * (1 - share) * (1 / ones[:, :1] + 1 / (known - ones)[:, :1]))
    return largest_by_chance(error[:, columns], level)
