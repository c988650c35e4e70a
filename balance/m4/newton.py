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

from balance.m4.dual import Dual, Vector

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
DENSE_LIMIT = 4000  # free prices up to which the Hessian is formed and factorised


def newton_direction(
    dual: Dual, x: Floats, gradient: Floats, curvature: Vector, distance: float, caution: float, bold: bool
) -> Floats:
    """Solve the quadratic model of D within the bounds, approximately: an active-set loop around linear solves.

    Args:
        dual: the problem.
        x: (J + 1,) where the model is taken.
        gradient: (J + 1,) of D there.
        curvature: (n,) p of the free cells, else 0.
        distance: relative gap there; the farther, the more damped and the less exact the step.
        caution: how strongly, from 1e-6 after full steps to 1e6 after short ones.
        bold: damp relative to the model's own curvature, else to the curvature if all cells were free.
    """
    low, high = dual.lower_bounds - x, dual.upper_bounds - x
    diagonal = np.append(hessian_diagonal(dual, curvature), float(curvature.sum()) if dual.fixed_mean else 1.0)
    # The model changes where cells become free or cease to be. A price that no free cell feels has no curvature to stop
    # it: it moves by a gradient step that caution sets.
    flat = min(0.1 * caution, 0.1)
    whole = np.append(hessian_diagonal(dual, dual.system.p), 1.0)
    damping = min(1e-10 * caution, 1e-2) * diagonal if bold else min(1e-3 * caution * distance, 1e-2) * whole
    ridge = damping + 1e-13 * diagonal + np.where(diagonal <= 1e-9 * whole, flat * whole, 0.0) + 1e-300
    jump = gradient / (diagonal + ridge)
    at_low = (jump <= low) & (gradient <= 0)
    at_high = (jump >= high) & (gradient >= 0)
    direction = np.where(at_low, low, np.where(at_high, high, 0.0))
    open_prices = ~(at_low | at_high)
    if not dual.fixed_mean:
        open_prices[-1] = False
    rest = np.flatnonzero(open_prices)
    if rest.size == 0:
        return direction
    right = gradient[rest]
    if direction.any():
        right = right - hessian_product(dual, curvature, direction)[rest]
    tolerance = min(max(float(np.sqrt(distance)), 1e-5), 0.03)
    model = _dense_model if rest.size <= DENSE_LIMIT else _product_model
    direction[rest] = box_step(*model(dual, curvature, ridge, rest, tolerance), right, low[rest], high[rest])
    return direction


Product = Callable[[Floats], Floats]
Solve = Callable[[Ints, Floats], Floats]


def box_step(product: Product, solve: Solve, rounds: int, right: Floats, low: Floats, high: Floats) -> Floats:
    """Maximise right . d - 1/2 d . H d over low <= d <= high by guessing which bounds bind.

    Args:
        product: d to H d.
        solve: (indices, right side) to the solution of H restricted to the indices.
        rounds: most guesses.
        right: (k,) slope at 0.
        low: (k,) lower bounds.
        high: (k,) upper bounds.

    Returns:
        (k,) the solution, or the first guess cut off at the bounds where the guesses did not settle.
    """
    d, first = np.zeros_like(right), np.zeros_like(right)
    fixed = np.zeros(right.size, bool)
    for attempt in range(rounds):
        free = np.flatnonzero(~fixed)
        if free.size == 0:
            break
        outside = np.where(fixed, d, 0.0)
        d[free] = solve(free, (right - product(outside) if fixed.any() else right)[free])
        if attempt == 0:
            first = np.clip(d, low, high)
        over, under = (d > high) & ~fixed, (d < low) & ~fixed
        slope = right - product(np.clip(d, low, high)) if fixed.any() else right * 0
        release = fixed & (((d == low) & (slope > 0)) | ((d == high) & (slope < 0)))
        if not (over.any() or under.any() or release.any()):
            return d
        d = np.where(over, high, np.where(under, low, d))
        fixed = (fixed | over | under) & ~release
    return first


def hessian_diagonal(dual: Dual, curvature: Vector) -> Floats:
    """(J,) sum over free cells of p a_cj^2."""
    system = dual.system
    return np.maximum(system.squares @ system.operator.moments(curvature).ravel(), 0.0)


def hessian_product(dual: Dual, curvature: Vector, d: Floats) -> Floats:
    """(J + 1,) H d by one pass over the cells and back."""
    slope = curvature * (dual.system.scores(d[:-1]) + (float(d[-1]) if dual.fixed_mean else 0.0))
    return np.append(dual.system.moments(slope), float(slope.sum()) if dual.fixed_mean else 0.0)


def _dense_model(dual: Dual, curvature: Vector, ridge: Floats, rest: Ints, _: float) -> tuple[Product, Solve, int]:
    """The Hessian over `rest`, formed and factorised."""
    hessian = dense_hessian(dual, curvature, rest)

    def solve(free: Ints, right: Floats) -> Floats:
        block = hessian[np.ix_(free, free)]
        block[np.diag_indices(free.size)] += ridge[rest[free]]
        try:
            return np.asarray(cho_solve(cho_factor(block, check_finite=False), right, check_finite=False))
        except LinAlgError:
            return np.asarray(np.linalg.lstsq(block, right, rcond=1e-12)[0])

    return (lambda d: hessian @ d), solve, 10


def dense_hessian(dual: Dual, curvature: Vector, rest: Ints) -> Floats:
    """(k, k) sum over free cells of p a a^T for the prices `rest`; the last of all, J, is mu."""
    weights = np.asarray(curvature if isinstance(curvature, np.ndarray) else curvature.cpu())
    rows = np.flatnonzero(weights)
    prices = rest[rest < dual.system.size]
    bias = dual.system.operator.bias(sp.csr_array(dual.system.matrix[prices]), rows)
    if prices.size < rest.size:
        bias = sp.csr_array(sp.hstack([bias, np.ones((rows.size, 1))]))
    bias.data *= np.sqrt(np.repeat(weights[rows], np.diff(bias.indptr)))
    return np.asarray((bias.T @ bias).toarray())


def _product_model(
    dual: Dual, curvature: Vector, ridge: Floats, rest: Ints, tolerance: float
) -> tuple[Product, Solve, int]:
    """Conjugate gradients on products with the cells, scaled by the diagonal."""
    whole = np.zeros(ridge.size)

    def product(d: Floats) -> Floats:
        whole[:] = 0.0
        whole[rest] = d
        return hessian_product(dual, curvature, whole)[rest]

    diagonal = np.append(hessian_diagonal(dual, curvature), float(curvature.sum()))[rest] + ridge[rest]

    def solve(free: Ints, right: Floats) -> Floats:
        part = np.zeros(rest.size)

        def apply(d: Floats) -> Floats:
            part[:] = 0.0
            part[free] = d
            return product(part)[free] + ridge[rest[free]] * d

        return conjugate_gradients(apply, right, 1.0 / diagonal[free], tolerance)

    return product, solve, 3


def conjugate_gradients(
    apply: Product, right: Floats, preconditioner: Floats, tolerance: float, steps: int = 200
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
