"""One Newton direction for M4's dual within its bounds.

The Hessian is -sum p_c a_c a_c^T over the free cells, those with 0 < q' < Q'. It is formed and factorised where few
prices are free, and otherwise applied to vectors, at the price of one pass over the cells each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from balance.dual import Dual, Vector

Floats = NDArray[np.float64]
DENSE_LIMIT = 1500  # free prices up to which the Hessian is formed and factorised


def newton_direction(dual: Dual, x: Floats, gradient: Floats, curvature: Vector, damping: float) -> Floats:
    """Solve the quadratic model of D within the bounds, approximately: an active-set loop around linear solves."""
    low, high = dual.lower_bounds - x, dual.upper_bounds - x
    diagonal = np.append(hessian_diagonal(dual, curvature), float(curvature.sum()) if dual.fixed_mean else 1.0)
    # A price that no free cell feels moves by the gradient step that would be right if all cells were free.
    whole = np.append(hessian_diagonal(dual, dual.system.p), 1.0)
    ridge = damping * diagonal + np.where(diagonal <= 1e-9 * whole, 0.1 * whole, 0.0) + 1e-300
    jump = gradient / (diagonal + ridge)
    at_low = (jump <= low) & (gradient <= 0)
    at_high = (jump >= high) & (gradient >= 0)
    fixed = at_low | at_high
    if not dual.fixed_mean:
        fixed[-1] = True
    direction = np.where(at_low, low, np.where(at_high, high, 0.0))
    solver = _dense_solver if np.count_nonzero(~fixed) <= DENSE_LIMIT else _iterative_solver
    product, solve = solver(dual, curvature, ridge, np.flatnonzero(~fixed | np.isfinite(low)))
    for _ in range(8):
        rest = np.flatnonzero(~fixed)
        if rest.size == 0:
            break
        outside = np.where(fixed, direction, 0.0)
        direction[rest] = solve(rest, (gradient - product(outside))[rest])
        over, under = direction > high, direction < low
        over[fixed] = under[fixed] = False
        slope = gradient - product(direction)
        release = fixed & (((direction == low) & (slope > 0)) | ((direction == high) & (slope < 0)))
        if not dual.fixed_mean:
            release[-1] = False
        if not (over.any() or under.any() or release.any()):
            break
        direction = np.where(over, high, np.where(under, low, direction))
        fixed = (fixed | over | under) & ~release
    return np.clip(direction, low, high)


def hessian_diagonal(dual: Dual, curvature: Vector) -> Floats:
    """(J,) sum over free cells of p a_cj^2."""
    system = dual.system
    return np.maximum(system.squares @ system.operator.moments(curvature).ravel(), 0.0)


Product = Callable[[Floats], Floats]
Solve = Callable[[NDArray[np.int64], Floats], Floats]


def _dense_solver(dual: Dual, curvature: Vector, ridge: Floats, _: NDArray[np.int64]) -> tuple[Product, Solve]:
    """The Hessian, formed and factorised; falls back on products where the cells' form does not give it."""
    hessian = dense_hessian(dual, curvature)
    if hessian is None:
        return _iterative_solver(dual, curvature, ridge, _)

    def product(d: Floats) -> Floats:
        return hessian @ d

    def solve(rest: NDArray[np.int64], right: Floats) -> Floats:
        block = hessian[np.ix_(rest, rest)] + np.diag(ridge[rest])
        try:
            return np.asarray(cho_solve(cho_factor(block, check_finite=False), right, check_finite=False))
        except LinAlgError:
            return np.asarray(np.linalg.lstsq(block, right, rcond=1e-12)[0])

    return product, solve


def dense_hessian(dual: Dual, curvature: Vector) -> Floats | None:
    """(J + 1, J + 1) sum over free cells of p a a^T, with the row of mu last."""
    gram = dual.system.operator.gram(curvature)
    if gram is None:
        return None
    phi, pairs = gram
    width = dual.system.operator.shape[1]
    spread = sp.csr_array(dual.system.matrix @ sp.kron(phi.T, sp.eye_array(width), format="csr"))
    if dual.fixed_mean:
        ones = np.zeros((phi.shape[0], width))
        ones[:, 0] = 1.0
        spread = sp.csr_array(sp.vstack([spread, sp.csr_array(ones.reshape(1, -1))]))
    else:
        spread = sp.csr_array(sp.vstack([spread, sp.csr_array((1, spread.shape[1]))]))
    return np.asarray((spread @ pairs @ spread.T).toarray())


def _iterative_solver(dual: Dual, curvature: Vector, ridge: Floats, _: NDArray[np.int64]) -> tuple[Product, Solve]:
    """Conjugate gradients on products with the cells, scaled by the diagonal."""
    system = dual.system

    def product(d: Floats) -> Floats:
        slope = curvature * (system.scores(d[:-1]) + (float(d[-1]) if dual.fixed_mean else 0.0))
        return np.append(system.moments(slope), float(slope.sum()) if dual.fixed_mean else 0.0)

    diagonal = np.append(hessian_diagonal(dual, curvature), float(curvature.sum())) + ridge

    def solve(rest: NDArray[np.int64], right: Floats) -> Floats:
        whole = np.zeros(ridge.size)

        def apply(d: Floats) -> Floats:
            whole[rest] = d
            return product(whole)[rest] + ridge[rest] * d

        return conjugate_gradients(apply, right, 1.0 / diagonal[rest])

    return product, solve


def conjugate_gradients(
    apply: Product, right: Floats, preconditioner: Floats, tolerance: float = 1e-4, steps: int = 200
) -> Floats:
    """Preconditioned conjugate gradients from 0 for a symmetric positive semidefinite system."""
    d = np.zeros_like(right)
    residual = right.copy()
    scaled = preconditioner * residual
    search = scaled.copy()
    energy = float(residual @ scaled)
    start = energy
    for _ in range(steps):
        if energy <= tolerance**2 * start:
            break
        image = apply(search)
        curvature = float(search @ image)
        if curvature <= 0:
            break
        length = energy / curvature
        d += length * search
        residual -= length * image
        scaled = preconditioner * residual
        following = float(residual @ scaled)
        search = scaled + (following / energy) * search
        energy = following
    return d
