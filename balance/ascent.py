"""The maximum of M4's dual: L-BFGS-B to come near, projected semismooth Newton steps to finish.

The penalty turns a violation of 1e-9 into a visible gap, which first-order steps do not close; Newton steps do, since
the dual is piecewise quadratic and they land on the maximum of the right piece.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from balance.dual import Dual, certify, converged
from balance.newton import newton_direction

Floats = NDArray[np.float64]
# L-BFGS-B iterations, then Newton steps; another round where the steps stall. A warm start tries Newton steps first.
ROUNDS = ((0, 6), (60, 20), (200, 30), (1000, 60))


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
        value, gradient, curvature = dual.evaluate(x)
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
