"""The dual of M4: a concave, piecewise quadratic function of one price for each constraint and one for the keep rate.

In units of the keep rate (q' = q / eta, Q' = Q / eta, V' = V / eta), with prices v in [0, V'] and mu,

    q'_c = clip(u_c - a_c . v - mu, 0, Q')
    D(v, mu) = sum_c p_c [ 1/2 (q'_c - u_c)^2 + q'_c (a_c . v + mu) ] - mu
    dD/dv_j = sum_c p_c q'_c a_cj        dD/dmu = sum_c p_c q'_c - 1

and the primal's optimum is eta^2 times the maximum of D. L-BFGS-B on columns scaled to unit curvature comes near;
then projected semismooth Newton steps (Hessian: the same sums over the cells with 0 < q' < Q') finish, because the
penalty turns a violation of 1e-9 into a visible gap, which first-order steps do not close.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import minimize

from balance.system import System

Floats = NDArray[np.float64]
DENSE_LIMIT = 1500  # free prices up to which the Hessian is formed and factorised
# L-BFGS-B iterations, then Newton steps; another round where the steps stall. A warm start tries Newton steps first.
ROUNDS = ((0, 6), (60, 20), (200, 30), (1000, 60))
HOLDS = 1e-7  # a constraint with slack price holds to this in its natural unit


@dataclass(frozen=True, eq=False)
class Dual:
    """One dual problem over the cells of a `System`.

    Attributes:
        system: constraints and cells.
        centre: (n,) the rates that q' is drawn to.
        cap: Q'.
        upper: (J,) V' of each constraint (may be inf).
        fixed_mean: whether the mean of q' must be 1 (mu free) or is left open (mu = 0).
    """

    system: System
    centre: Floats
    cap: float
    upper: Floats
    fixed_mean: bool = True

    @property
    def lower_bounds(self) -> Floats:
        """(J + 1,) bounds of (v, mu)."""
        return np.append(np.zeros(self.upper.size), -np.inf if self.fixed_mean else 0.0)

    @property
    def upper_bounds(self) -> Floats:
        """(J + 1,) bounds of (v, mu)."""
        return np.append(self.upper, np.inf if self.fixed_mean else 0.0)

    def pull(self, v: Floats) -> Floats:
        """(n,) u - a . v, the rates before mu and clipping."""
        return self.centre - self.system.scores(v)

    def evaluate(self, x: Floats) -> tuple[float, Floats, Floats]:
        """D, its gradient (J + 1,), and the unclipped rates (n,) at x = (v, mu)."""
        raw = self.pull(x[:-1])
        raw -= x[-1]
        q = np.clip(raw, 0.0, self.cap)
        pq = self.system.p * q
        value = pq @ (0.5 * q - raw) + 0.5 * (self.system.p @ self.centre**2)
        gradient = np.append(self.system.moments(pq), 0.0)
        if self.fixed_mean:
            value -= x[-1]
            gradient[-1] = pq.sum() - 1.0
        return float(value), gradient, raw

    def settle(self, v: Floats, guess: float) -> tuple[float, Floats]:
        """The mu at which the mean of q' is 1, and q' there; by Newton steps kept inside a bracket."""
        raw = self.pull(v)
        if not self.fixed_mean:
            return 0.0, np.clip(raw, 0.0, self.cap)
        return settle_mean(raw, self.system.p, self.cap, guess)


def settle_mean(raw: Floats, p: Floats, cap: float, guess: float = 0.0) -> tuple[float, Floats]:
    """Find mu with sum p clip(raw - mu, 0, cap) = 1; needs cap >= 1."""
    low, high = float(raw.min()) - cap, float(raw.max())
    mu = min(max(guess, low), high)
    q = np.empty_like(raw)
    for _ in range(200):
        np.clip(raw - mu, 0.0, cap, out=q)
        excess = float(p @ q) - 1.0
        if abs(excess) <= 1e-15:
            break
        if excess > 0:
            low = mu
        else:
            high = mu
        slope = float(p[(q > 0) & (q < cap)].sum())
        step = mu + excess / slope if slope > 0 else np.inf
        following = step if low < step < high else 0.5 * (low + high)
        if following == mu:
            break
        mu = following
    # Where rates are large, mu has no digits left for the last of the excess: take it off the free rates themselves.
    free = (q > 0) & (q < cap)
    if free.any():
        q[free] -= (float(p @ q) - 1.0) / float(p[free].sum())
        np.clip(q, 0.0, cap, out=q)
    return mu, q


@dataclass(frozen=True, eq=False)
class Certificate:
    """Primal and dual values at one x, from scratch in float64, in units of the keep rate."""

    primal: float
    dual: float
    mu: float
    q: Floats
    moments: Floats

    @property
    def gap(self) -> float:
        """(primal - dual) / primal; the scale is at least 1e-4 of (mean rate)^2, for optima at or near 0."""
        return (self.primal - self.dual) / max(abs(self.primal), 1e-4)


def certify(dual: Dual, v: Floats, guess: float = 0.0) -> Certificate:
    """Certificate at prices `v`: q' meets box and keep rate exactly, so its cost bounds the optimum from above."""
    mu, q = dual.settle(v, guess)
    system = dual.system
    pq = system.p * q
    moments = system.moments(pq)
    violation = np.maximum(moments, 0.0)
    priced = violation > 0
    primal = 0.5 * float(system.p @ (q - dual.centre) ** 2) + float(dual.upper[priced] @ violation[priced])
    # Everything below uses q and v alone: D at its own maximiser over the box for this (v, mu).
    lagrangian = 0.5 * float(system.p @ (q - dual.centre) ** 2) + float(v @ moments)
    if dual.fixed_mean:
        lagrangian += mu * (float(pq.sum()) - 1.0)
    return Certificate(primal, lagrangian, mu, q, moments)


@dataclass
class Trace:
    """How a solve went: products with the cells, and Newton steps."""

    evaluations: int = 0
    newton_steps: int = 0


def maximise(dual: Dual, x: Floats, gap: float = 1e-6, warm: bool = False) -> tuple[Floats, Trace]:
    """Maximise the dual from x = (v, mu) until `converged`.

    Args:
        dual: the problem.
        x: (J + 1,) where to start.
        gap: relative gap to reach; infinite where only the constraints matter.
        warm: whether x comes from a problem near this one, so that Newton steps are tried first.

    Returns:
        The best x found, and how the solve went.
    """
    trace = Trace()
    if dual.upper.size == 0:
        return np.append(x[:-1], dual.settle(x[:-1], x[-1])[0]), trace
    x = np.clip(x, dual.lower_bounds, dual.upper_bounds)
    for first_order, newton in ROUNDS[0 if warm else 1 :]:
        if first_order:
            x = _first_order(dual, x, first_order, trace)
        x, done = _newton(dual, x, gap, newton, trace)
        if done:
            break
    return x, trace


def converged(dual: Dual, certificate: Certificate, v: Floats, gap: float) -> bool:
    """Gap closed, and every constraint that is not at its top price holds in its natural unit."""
    violation = certificate.moments / np.maximum(dual.system.mass, 1e-300)
    slack_price = v < dual.upper * (1 - 1e-9)
    held = not slack_price.any() or float(violation[slack_price].max()) <= HOLDS
    return bool(held and (np.isinf(gap) or certificate.gap <= gap))


def _first_order(dual: Dual, x: Floats, iterations: int, trace: Trace) -> Floats:
    """L-BFGS-B on columns scaled to unit mean square."""
    system = dual.system
    square = system.squares @ system.operator.moments(system.p).ravel()
    scale = np.append(1.0 / np.sqrt(np.maximum(square, 1e-300)), 1.0)

    def objective(scaled: Floats) -> tuple[float, Floats]:
        trace.evaluations += 1
        value, gradient, _ = dual.evaluate(scaled * scale)
        return -value, -gradient * scale

    bounds = np.column_stack([dual.lower_bounds / scale, dual.upper_bounds / scale])
    options = {"maxiter": iterations, "maxcor": 20, "ftol": 1e-12, "gtol": 1e-12, "maxls": 10}
    result = minimize(objective, x / scale, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return np.clip(result.x * scale, dual.lower_bounds, dual.upper_bounds)


def _newton(dual: Dual, x: Floats, gap: float, steps: int, trace: Trace) -> tuple[Floats, bool]:
    """Projected semismooth Newton steps with a line search on D; returns x and whether it converged."""
    best, best_gap = x, np.inf
    damping = 1e-10
    for _ in range(steps):
        certificate = certify(dual, x[:-1], x[-1])
        x = np.append(x[:-1], certificate.mu)
        trace.evaluations += 1
        if certificate.gap < best_gap:
            best, best_gap = x, certificate.gap
        if converged(dual, certificate, x[:-1], gap):
            return x, True
        value, gradient, raw = dual.evaluate(x)
        curvature = np.where((raw > 0) & (raw < dual.cap), dual.system.p, 0.0)
        direction = newton_direction(dual, x, gradient, curvature, damping)
        x, step = _search(dual, x, value, gradient, direction, trace)
        damping = min(damping * 100, 1e-2) if step < 0.1 else max(damping / 100, 1e-13)
        trace.newton_steps += 1
    certificate = certify(dual, x[:-1], x[-1])
    if converged(dual, certificate, x[:-1], gap):
        return np.append(x[:-1], certificate.mu), True
    return (x if certificate.gap < best_gap else best), False


def _search(
    dual: Dual, x: Floats, value: float, gradient: Floats, direction: Floats, trace: Trace
) -> tuple[Floats, float]:
    """Backtrack along the projection arc until D has risen by a share of what its slope promises."""
    step = 1.0
    trial = x
    for _ in range(30):
        trial = np.clip(x + step * direction, dual.lower_bounds, dual.upper_bounds)
        trace.evaluations += 1
        risen = dual.evaluate(trial)[0] - value
        # Near the optimum the rise drowns in rounding: then a full Newton step is the best that can be done.
        if risen >= 1e-4 * float(gradient @ (trial - x)) - 1e-13 * max(abs(value), 1e-3):
            break
        step *= 0.5
    return trial, step


def newton_direction(dual: Dual, x: Floats, gradient: Floats, curvature: Floats, damping: float) -> Floats:
    """Solve the quadratic model of D within the bounds, approximately: an active-set loop around linear solves."""
    low, high = dual.lower_bounds - x, dual.upper_bounds - x
    diagonal = np.append(hessian_diagonal(dual, curvature), curvature.sum() if dual.fixed_mean else 1.0)
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


def hessian_diagonal(dual: Dual, curvature: Floats) -> Floats:
    """(J,) sum over free cells of p a_cj^2."""
    system = dual.system
    return np.maximum(system.squares @ system.operator.moments(curvature).ravel(), 0.0)


Product = Callable[[Floats], Floats]
Solve = Callable[[NDArray[np.int64], Floats], Floats]


def _dense_solver(dual: Dual, curvature: Floats, ridge: Floats, _: NDArray[np.int64]) -> tuple[Product, Solve]:
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


def dense_hessian(dual: Dual, curvature: Floats) -> Floats | None:
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


def _iterative_solver(dual: Dual, curvature: Floats, ridge: Floats, _: NDArray[np.int64]) -> tuple[Product, Solve]:
    """Conjugate gradients on products with the cells, scaled by the diagonal."""
    system = dual.system

    def product(d: Floats) -> Floats:
        slope = system.scores(d[:-1])
        if dual.fixed_mean:
            slope += d[-1]
        slope *= curvature
        return np.append(system.moments(slope), slope.sum() if dual.fixed_mean else 0.0)

    diagonal = np.append(hessian_diagonal(dual, curvature), curvature.sum()) + ridge

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
