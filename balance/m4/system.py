"""The constraints of M4 as one sparse map, over the cells of one data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from balance.errors import UserError
from balance.m4.cells import Cells
from balance.m4.operator import Operator, make_operator
from balance.m4.problem import Problem, suggest
from balance.m4.targets import (
    Target,
    association_tolerance,
    check_association_names,
    product_columns,
    resolve_targets,
    tolerance_of,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
REPRESENTATION, ASSOCIATION, FLOOR = 0, 1, 2
FLOOR_PRICE = 100.0  # times the penalty: where a floor and tolerances conflict, the floor wins


@dataclass(frozen=True, eq=False)
class System:
    """Bias vectors a_cj of J constraints, each at most 0 in the mean over p q where it holds.

    Attributes:
        operator: products with the cells' features and concepts.
        p: (n,) shares of the cells.
        u: (n,) prior utility.
        targets: the m balanced columns.
        kind: (J,) REPRESENTATION, ASSOCIATION or FLOOR.
        attribute: (J,) index of the target, -1 for floors.
        concept: (J,) index of the concept, -1 for representation.
        sign: (J,) +1 or -1, the side of the constraint.
        eps: (J,) tolerance, or rho for floors.
        matrix: (J, F N) sparse; row j holds a_j as coefficients of (feature, concept column).
        squares: (J, F N) sparse; the same for a_j^2.
        mass: (J,) share of the data that a constraint speaks of, to turn moments into natural units.
    """

    operator: Operator
    p: Floats
    u: Floats
    targets: list[Target]
    kind: Ints
    attribute: Ints
    concept: Ints
    sign: Floats
    eps: Floats
    matrix: sp.csr_array
    squares: sp.csr_array
    mass: Floats

    @property
    def size(self) -> int:
        """Number of constraint sides J."""
        return self.kind.size

    def labels(self, concepts: Sequence[str]) -> list[str]:
        """(J,) names of the constraints: `woman+` (share too high), `woman-|nurse`, `floor|nurse`."""
        names = []
        for kind, k, r, sign in zip(self.kind, self.attribute, self.concept, self.sign, strict=True):
            head = "floor" if kind == FLOOR else self.targets[k].name + ("+" if sign > 0 else "-")
            names.append(head if kind == REPRESENTATION else f"{head}|{concepts[r]}")
        return names

    def prices(self, penalty: float) -> Floats:
        """(J,) V for tolerances, FLOOR_PRICE V for floors."""
        return np.where(self.kind == FLOOR, FLOOR_PRICE * penalty, penalty)

    def scores(self, v: Floats) -> Floats:
        """(n,) a_c . v."""
        return self.operator.scores((self.matrix.T @ v).reshape(self.operator.shape))

    def with_concept_means(self, means: Floats) -> System:
        """The same constraints with rho `means`_r in the floors; (c,) E[y_r]."""
        floors = np.flatnonzero(self.kind == FLOOR)
        constant = 2 * len(self.targets) * self.operator.shape[1]
        matrix = self.matrix.tolil()
        matrix[floors, constant] = self.eps[floors] * means[self.concept[floors]]
        return replace(self, matrix=sp.csr_array(matrix))

    def moments(self, weights: Floats) -> Floats:
        """(J,) sum_c weights_c a_cj."""
        return self.matrix @ self.operator.moments(weights).ravel()


def base_shares(cells: Cells, problem: Problem) -> Floats:
    """(n,) p: counts times base weights, normalised."""
    weights = cells.counts
    if problem.base_weights is not None:
        given = np.asarray(problem.base_weights, np.float64)
        if given.shape != weights.shape:
            raise UserError(f"base_weights has shape {given.shape} but there are {len(cells)} cells: give one a cell")
        if not np.isfinite(given).all() or (given < 0).any() or not given.any():
            raise UserError("base_weights must be finite, at least 0, and not all 0")
        weights = weights * given
    return np.asarray(weights / weights.sum(), np.float64)


def utility_of(
    problem: Problem, s: Floats, y: sp.csr_array, s_names: tuple[str, ...], y_names: tuple[str, ...]
) -> Floats | None:
    """(rows,) u from the factors of labels; None where utility is given for each cell instead."""
    u = np.ones(s.shape[0])
    if problem.utility is None:
        return u
    if not isinstance(problem.utility, Mapping):
        return None
    for name, factor in problem.utility.items():
        if not np.isfinite(factor) or factor < 0:
            raise UserError(f"utility.{name}={factor} must be a number of at least 0.")
        if name in y_names:
            u *= np.where(y[:, [y_names.index(name)]].toarray()[:, 0] > 0, factor, 1.0)
        elif name in s_names:
            u *= factor ** np.nan_to_num(s[:, s_names.index(name)])
        else:
            known = [*s_names, *y_names]
            raise UserError(f"utility names {name!r}, which is no attribute or concept{suggest(name, known)}")
    return u


def cell_utility(cells: Cells, problem: Problem) -> Floats:
    """(n,) u of each cell."""
    u = utility_of(problem, cells.s, cells.y, cells.s_names, cells.y_names)
    if u is not None:
        return u
    given = np.asarray(problem.utility, np.float64)
    if given.shape != (len(cells),):
        raise UserError(f"utility has shape {given.shape} but there are {len(cells)} cells: give one number a cell")
    if not np.isfinite(given).all() or (given < 0).any():
        raise UserError("utility holds negative or non-finite values: give numbers of at least 0")
    return given


def build_system(cells: Cells, problem: Problem) -> System:
    """The constraints of `problem` on `cells`; those that no sample can touch are left out.

    Raises:
        UserError: a name or a value in the problem does not fit the data.
    """
    p = base_shares(cells, problem)
    targets = resolve_targets(cells, problem, p)
    check_association_names(problem, targets, cells.y_names)
    for name in problem.proxies:
        if name not in cells.y_names:
            raise UserError(f"proxy {name!r} is not among the concepts{suggest(name, cells.y_names)}")
    s_runs = product_columns(cells.s[cells.pattern_starts[:-1]], cells.s_names, [t.factors for t in targets])
    operator = make_operator(cells, s_runs, np.array([t.pi for t in targets]))
    means = operator.moments(p)
    rows = _Rows(operator.shape, len(targets))
    _add_tolerances(rows, cells, problem, targets, means)
    _add_floors(rows, cells, problem, means)
    return rows.system(operator, p, cell_utility(cells, problem), targets)


def open_system(problem: Problem, s_names: Sequence[str], y_names: Sequence[str]) -> System:
    """The constraints without data: all of them, with E[y_r] = 1 until `with_concept_means` says otherwise.

    Raises:
        UserError: a target refers to the data, or a name is unknown.
    """
    if "data" in problem.target.values():
        raise UserError("target 'data' needs the data: give a number for each attribute of an open stream")
    one = Cells.from_arrays(np.zeros((1, len(s_names))), np.ones((1, len(y_names))), None, s_names, y_names)
    return build_system(one, replace(problem, min_concept_samples=0.0))


def _add_tolerances(rows: _Rows, cells: Cells, problem: Problem, targets: list[Target], means: Floats) -> None:
    m = len(targets)
    for k, target in enumerate(targets):
        for r in range(-1, len(cells.y_names)):
            mass = means[m + k, r + 1]
            eps = target.eps if r < 0 else association_tolerance(problem, target, cells.y_names[r])
            few = r >= 0 and mass * cells.total < problem.min_concept_samples - 1e-9
            if mass <= 0 or np.isinf(eps) or (few and not problem.hold_rare):
                continue
            joint = r >= 0 and problem.association == "joint"
            if few:  # held at its own distance from the target in the data, whatever the form
                joint, eps = False, max(0.0 if joint else eps, abs(means[k, r + 1]) / mass)
            for sign in (1.0, -1.0):
                rows.add_tolerance(k, r, sign, eps, 0 if joint else r + 1, means[m + k, 0] if joint else mass)


def _add_floors(rows: _Rows, cells: Cells, problem: Problem, means: Floats) -> None:
    for r, name in enumerate(cells.y_names):
        rho = tolerance_of(problem.min_concept_kept, name)
        mean = means[2 * rows.m, r + 1]
        if np.isfinite(rho) and rho > 0 and mean > 0:
            rows.add_floor(r, rho, mean)


class _Rows:
    """Collects the rows of a `System`."""

    def __init__(self, shape: tuple[int, int], m: int) -> None:
        self.shape, self.m = shape, m
        self.labels: list[tuple[int, int, int, float, float, float]] = []
        self.linear: list[tuple[int, int, float]] = []
        self.square: list[tuple[int, int, float]] = []

    def add_tolerance(self, k: int, r: int, sign: float, eps: float, eps_column: int, mass: float) -> None:
        """±d_k y_r - eps k_k y_r, or with eps_column = 0 the paper's ±d_k y_r - eps k_k."""
        j, m, width, column = len(self.labels), self.m, self.shape[1], r + 1
        known = (m + k) * width
        self.labels.append((REPRESENTATION if r < 0 else ASSOCIATION, k, r, sign, eps, mass))
        self.linear += [(j, k * width + column, sign), (j, known + eps_column, -eps)]
        squares = [(2 * m + 1 + k) * width + column, k * width + column, known + eps_column]
        self.square += list(zip((j,) * 3, squares, (1.0, -2 * sign * eps, eps * eps), strict=True))

    def add_floor(self, r: int, rho: float, mean: float) -> None:
        """Rho E[y_r] - y_r."""
        j, constant = len(self.labels), 2 * self.m * self.shape[1]
        bound = rho * mean
        self.labels.append((FLOOR, -1, r, -1.0, rho, mean))
        self.linear += [(j, constant + r + 1, -1.0), (j, constant, bound)]
        self.square += [(j, constant + r + 1, 1 - 2 * bound), (j, constant, bound * bound)]

    def system(self, operator: Operator, p: Floats, u: Floats, targets: list[Target]) -> System:
        kind, attribute, concept, sign, eps, mass = (np.array(column) for column in _columns(self.labels, 6))
        shape = (len(self.labels), self.shape[0] * self.shape[1])
        return System(
            operator,
            p,
            u,
            targets,
            kind.astype(np.int64),
            attribute.astype(np.int64),
            concept.astype(np.int64),
            sign.astype(np.float64),
            eps.astype(np.float64),
            _sparse(self.linear, shape),
            _sparse(self.square, shape),
            mass.astype(np.float64),
        )


def _columns(rows: list[tuple[int, int, int, float, float, float]], width: int) -> list[list[float]]:
    return [[row[i] for row in rows] for i in range(width)]


def _sparse(entries: list[tuple[int, int, float]], shape: tuple[int, int]) -> sp.csr_array:
    rows, columns, values = ([entry[i] for entry in entries] for i in range(3))
    return sp.csr_array((np.array(values, np.float64), (rows, columns)), shape=shape)
