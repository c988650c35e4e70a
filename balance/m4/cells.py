"""Cells: the distinct (s, y) patterns of a data set and how many samples bear each.

M4 sees the data through these counts alone, so a billion samples cost one group-by, and what follows depends only
on how many patterns differ. Rows are merged and put in an order that depends on their content, so that neither the
order nor the grouping of the samples changes a plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from balance.errors import UserError

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cells:
    """Distinct patterns of attributes and concepts, with their counts.

    Attributes:
        s: (n, m) float64, attributes in [0, 1]; NaN means unknown. Rows are sorted, so equal rows of `s` are adjacent.
        y: (n, c) sparse 0/1 matrix, the concepts that each cell bears.
        counts: (n,) float64 > 0, samples (or their summed base weights) that bear each pattern.
        s_names: m names of attributes; a one-hot value is named `group=value`.
        y_names: c names of concepts.
        proxies: those of `y_names` that are proxies: constrained, but reported apart.
        bins: number of steps to which `s` was rounded, or None where it was kept exactly.
        s_error: largest abs(s - rounded s) over all samples; 0 where kept exactly.
    """

    s: Floats
    y: sp.csr_array
    counts: Floats
    s_names: tuple[str, ...]
    y_names: tuple[str, ...]
    proxies: tuple[str, ...] = ()
    bins: int | None = None
    s_error: float = 0.0

    @classmethod
    def from_arrays(
        cls,
        s: ArrayLike,
        y: Any,
        counts: ArrayLike | None = None,
        s_names: Sequence[str] | None = None,
        y_names: Sequence[str] | None = None,
        *,
        proxies: Sequence[str] = (),
        bins: int | None = None,
    ) -> Cells:
        """Count the patterns of samples (or merge rows that are already counted).

        Args:
            s: (n, m) or (n,) attributes in [0, 1], NaN where unknown.
            y: (n, c) 0/1 concepts, a dense array or a scipy sparse matrix.
            counts: (n,) how often each row occurs, or its base weight; 1 by default. Rows that count 0 are dropped.
            s_names: m distinct names; `s0`, `s1`, ... by default.
            y_names: c distinct names; `y0`, `y1`, ... by default.
            proxies: names of the concepts that are proxies.
            bins: round probabilities to multiples of 1/bins, so that fewer cells differ.

        Raises:
            UserError: shapes disagree, values out of range, names repeat, or nothing is left.
        """
        s_array = _check_s(s)
        y_matrix = _check_y(y)
        if s_array.shape[0] != y_matrix.shape[0]:
            raise UserError(
                f"s has {s_array.shape[0]} rows and y has {y_matrix.shape[0]}: give both one row for each sample"
            )
        weights = _check_counts(counts, s_array.shape[0])
        if not weights.any():
            raise UserError("there are no samples: the data is empty or every count is 0")
        s_array, s_error = round_s(s_array, bins)
        used = weights > 0
        if not used.all():
            s_array, y_matrix, weights = s_array[used], y_matrix[used], weights[used]
        names_s = check_names(s_names, s_array.shape[1], "s")
        names_y = check_names(y_names, y_matrix.shape[1], "y")
        unknown = sorted(set(proxies) - set(names_y))
        if unknown:
            raise UserError(f"proxy {unknown[0]!r} is not among the concepts: add it to y_names or remove it")
        s_array, y_matrix, weights = _merge_rows(s_array, y_matrix, weights)
        return cls(s_array, y_matrix, weights, names_s, names_y, tuple(proxies), bins, s_error)

    def __len__(self) -> int:
        return self.counts.size

    @property
    def total(self) -> float:
        """Number of samples (sum of counts)."""
        return float(self.counts.sum())

    @cached_property
    def pattern_starts(self) -> NDArray[np.int64]:
        """(P + 1,) first row of each run of equal rows of `s`, and n at the end."""
        code = np.nan_to_num(self.s, nan=-1.0)
        changed = (code[1:] != code[:-1]).any(axis=1)
        return np.concatenate([[0], np.flatnonzero(changed) + 1, [len(self)]]).astype(np.int64)

    @cached_property
    def hash(self) -> str:
        """Hex digest of the patterns, counts and names; the same for the same data however it was grouped."""
        digest = hashlib.sha256(json.dumps([self.s_names, self.y_names, self.proxies]).encode())
        for array in (self.s, self.y.indptr.astype(np.int64), self.y.indices.astype(np.int64), self.counts):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def check_names(names: Sequence[str] | None, size: int, what: str) -> tuple[str, ...]:
    """Default or checked names of the columns of `what` (`s` or `y`)."""
    if names is None:
        return tuple(f"{what}{i}" for i in range(size))
    if len(names) != size:
        raise UserError(f"{what} has {size} columns but {what}_names has {len(names)} names: give one name a column")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"the name {name!r} occurs twice in {what}_names: rename one of the columns")
        seen.add(name)
    return tuple(str(name) for name in names)


def round_s(s: Floats, bins: int | None) -> tuple[Floats, float]:
    """Round attributes to multiples of 1/bins; return them with the largest change."""
    if bins is None:
        return s, 0.0
    if bins < 1:
        raise UserError(f"bins is {bins}: give a whole number of at least 1, or leave it out to keep s exact")
    rounded = np.round(s * bins) / bins
    change = np.abs(rounded - s)
    return rounded, float(np.nanmax(change, initial=0.0))


def _check_s(s: ArrayLike) -> Floats:
    array = np.asarray(s, dtype=np.float64)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] == 0:
        raise UserError(f"s has shape {array.shape}: give one row a sample and one column an attribute")
    wrong = (array < 0) | (array > 1)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise UserError(
            f"s[{row}, {column}] is {array[row, column]:g}: attributes lie in [0, 1], and NaN marks an unknown one"
        )
    return array


def _check_y(y: Any) -> sp.csr_array:
    if sp.issparse(y):
        matrix = sp.csr_array(y, copy=True)
        matrix.sum_duplicates()
        values = matrix.data
    else:
        dense = np.asarray(y)
        if dense.ndim == 1:
            dense = dense[:, None]
        if dense.ndim != 2:
            raise UserError(f"y has shape {dense.shape}: give one row a sample and one column a concept")
        values = dense
    if values.dtype.kind not in "biuf":
        raise UserError(f"y holds {values.dtype} values: concepts are 0 or 1")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise UserError("y contains NaN: concepts are 0 or 1, so give 0 where a concept was not found")
    if values.dtype.kind != "b" and not np.isin(values, (0, 1)).all():
        raise UserError("y contains values other than 0 and 1: threshold soft concepts first")
    if not sp.issparse(y):
        matrix = sp.csr_array(dense.astype(np.uint8))
    matrix.eliminate_zeros()
    matrix.sort_indices()
    return sp.csr_array((np.ones(matrix.nnz, np.uint8), matrix.indices, matrix.indptr), shape=matrix.shape)


def _check_counts(counts: ArrayLike | None, size: int) -> Floats:
    if counts is None:
        return np.ones(size)
    array = np.asarray(counts, dtype=np.float64)
    if array.shape != (size,):
        raise UserError(f"counts has shape {array.shape} but there are {size} rows: give one count a row")
    if not np.isfinite(array).all() or (array < 0).any():
        raise UserError("counts holds negative or non-finite values: counts are numbers of samples, at least 0")
    return array


def fingerprint_rows(y: sp.csr_array) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Two 64-bit sums of random words over each row's concepts; equal rows agree, others differ but for 2^-128."""
    words = np.random.default_rng(20240307).integers(0, 2**64, size=(2, max(y.shape[1], 1)), dtype=np.uint64)
    sums = []
    for word in words:
        running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(word[y.indices], dtype=np.uint64)])
        sums.append(running[y.indptr[1:]] - running[y.indptr[:-1]])
    return sums[0], sums[1]


def _merge_rows(s: Floats, y: sp.csr_array, weights: Floats) -> tuple[Floats, sp.csr_array, Floats]:
    """Sort by (s, concepts) and add up the weights of equal rows."""
    first, second = fingerprint_rows(y)
    # One integer for the row of s: few values differ, so ranks are far cheaper to sort than m float columns.
    rank = np.zeros(s.shape[0], np.int64)
    for column in s.T:
        values, inverse = np.unique(column, return_inverse=True)
        rank = rank * (values.size + 1) + inverse
        if rank.max(initial=0) > 2**40:
            rank = np.unique(rank, return_inverse=True)[1]
    order = np.lexsort((second, first, rank))
    first, second, rank = first[order], second[order], rank[order]
    new = np.ones(order.size, bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1]) | (rank[1:] != rank[:-1])
    starts = np.flatnonzero(new)
    keep = order[starts]
    return s[keep], sp.csr_array(y[keep]), np.add.reduceat(weights[order], starts)
