"""The two products that every M4 solver needs: scores of cells from prices, and moments from rates.

A constraint's bias vector is a_c = (a feature of s_c) times (a concept y_cr, or 1). With the features
d_k = (s_k - pi_k) where s_k is known, else 0; k_k = 1 where s_k is known, else 0; and the constant 1,

    scores   z_c  = sum_f phi_cf ( C_f0 + sum_{r in y_c} C_fr )      C = prices gathered by (feature, concept)
    moments  M_fr = sum_c w_c phi_cf y_cr                            w = p q

Cells with equal attributes share phi, so both are one sparse 0/1 matrix of (pattern, concept) pairs. Where nearly
every cell has attributes of its own (exact probabilities) the features are applied to the cells themselves.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from balance.m4.cells import Cells

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MAX_PAIRS = 20_000_000  # (pattern, concept) pairs beyond which the table of pairs costs more than it saves


class Operator(Protocol):
    """Products with the bias vectors of all cells; F = 3m + 1 features, N = c + 1 columns (column 0 is y = 1)."""

    shape: tuple[int, int]
    size: int

    def scores(self, table: Floats) -> Floats:
        """(F, N) prices to (n,) scores."""

    def moments(self, weights: Floats) -> Floats:
        """(n,) weights to (F, N) moments."""

    def bias(self, matrix: sp.csr_array, rows: Ints | None = None) -> sp.csr_array:
        """(k, F N) coefficients of constraints to their bias vectors (rows, k), sparse; of all rows by default."""


def features(s: Floats, pi: Floats) -> Floats:
    """(rows, 3m + 1) features [d, k, 1, d^2] of rows of attributes; the squares give the Hessian's diagonal."""
    known = ~np.isnan(s)
    d = np.where(known, s - pi, 0.0)
    return np.hstack([d, known, np.ones((s.shape[0], 1)), d * d])


def make_operator(cells: Cells, s_patterns: Floats, pi: Floats) -> Operator:
    """Choose the form that fits the data.

    Args:
        cells: the data; only its concepts and runs of equal attributes are used.
        s_patterns: (P, m) the targeted attributes of each run of equal rows (intersections included).
        pi: (m,) targets.
    """
    phi = features(s_patterns, pi)
    if phi.shape[0] * (cells.y.shape[1] + 1) <= MAX_PAIRS:
        return PatternOperator(phi, cells)
    return RowOperator(phi, cells)


def with_constant(y: sp.csr_array, offset: NDArray[np.int64] | None = None) -> sp.csr_array:
    """Y with a column of ones in front, its columns shifted by `offset` for each row; float64 ones."""
    n, c = y.shape
    lengths = np.diff(y.indptr).astype(np.int64) + 1
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    indices = np.zeros(indptr[-1], np.int32)
    is_concept = np.ones(indptr[-1], bool)
    is_concept[indptr[:-1]] = False
    indices[is_concept] = y.indices + 1
    if offset is not None:
        indices += np.repeat(offset, lengths).astype(np.int32)
    if indptr[-1] < 2**31:
        indptr = indptr.astype(np.int32)
    width = c + 1 if offset is None else int(offset.max()) + c + 1
    return sp.csr_array((np.ones(indices.size), indices, indptr), shape=(n, width))


class PatternOperator:
    """Cells grouped by attributes: one entry a (pattern, concept) pair."""

    def __init__(self, phi: Floats, cells: Cells) -> None:
        runs = np.diff(cells.pattern_starts)
        width = cells.y.shape[1] + 1
        pattern = np.repeat(np.arange(runs.size), runs)
        self.phi = phi
        self.shape = (phi.shape[1], width)
        self.size = len(cells)
        self.pairs = with_constant(cells.y, pattern * width)
        self.pairs_T = self.pairs.T

    def scores(self, table: Floats) -> Floats:
        """See `Operator.scores`."""
        return self.pairs @ (self.phi @ table).ravel()

    def moments(self, weights: Floats) -> Floats:
        """See `Operator.moments`."""
        return self.phi.T @ (self.pairs_T @ weights).reshape(-1, self.shape[1])

    def bias(self, matrix: sp.csr_array, rows: Ints | None = None) -> sp.csr_array:
        """See `Operator.bias`."""
        spread = matrix @ sp.kron(self.phi.T, sp.eye_array(self.shape[1]), format="csr")
        pairs = self.pairs if rows is None else self.pairs[rows]
        return sp.csr_array(pairs @ spread.T)


class RowOperator:
    """Features held for every cell: for attributes that take a value of their own almost everywhere."""

    def __init__(self, phi: Floats, cells: Cells) -> None:
        self.phi = np.repeat(phi, np.diff(cells.pattern_starts), axis=0)
        self.shape = (phi.shape[1], cells.y.shape[1] + 1)
        self.size = len(cells)
        self.y = with_constant(cells.y)
        self.y_T = self.y.T

    def scores(self, table: Floats) -> Floats:
        """See `Operator.scores`."""
        return np.einsum("nf,nf->n", self.phi, self.y @ np.ascontiguousarray(table.T))

    def moments(self, weights: Floats) -> Floats:
        """See `Operator.moments`."""
        return np.ascontiguousarray((self.y_T @ (self.phi * weights[:, None])).T)

    def bias(self, matrix: sp.csr_array, rows: Ints | None = None) -> sp.csr_array:
        """See `Operator.bias`."""
        phi, y = (self.phi, self.y) if rows is None else (self.phi[rows], self.y[rows])
        return sp.csr_array(sp.hstack([y.multiply(column[:, None]) for column in phi.T]) @ matrix.T)
