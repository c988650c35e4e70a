"""The maximum of M4's dual: L-BFGS-B to come near, projected semismooth Newton steps to finish.

The penalty turns a violation of 1e-9 into a visible gap, which first-order steps do not close; Newton steps do, since
the dual is piecewise quadratic and they land on the maximum of the right piece.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from balance.m4.dual import Bounds, Dual, certify, converged
from balance.m4.newton import newton_direction

Floats = NDArray[np.float64]
EASY_TOP, HUGE_TOP = 1e4, 1e7  # tops of prices, in units of the keep rate, that need no stages, and that need them
PATIENCE = 4  # Newton steps in which, if any is short, the distance must fall 10 times, or a round ends
# L-BFGS-B iterations, Newton steps, and whether those are bold; another round where the steps stall. A warm start
# tries Newton steps first.
ROUNDS = ((0, 6, True), (60, 20, True), (150, 20, False), (400, 40, True), (1000, 40, False), (3000, 60, True))


@dataclass
class Trace:
    """How a solve went: products with the cells, and Newton steps."""

    evaluations: int = 0
    newton_steps: int = 0
    converged: bool = False


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
        trace.converged = True
        return np.append(x[:-1], dual.settle(x[:-1], x[-1])[0]), trace
    if not float(dual.upper.max()) > HUGE_TOP:
        found = _rounds(dual, x, gap, warm, trace)
        if trace.converged:
            return found, trace
        x = found if np.isinf(dual.upper).any() else x
    shares = price_stages(dual)
    before, passed = x, 0.0
    for share, following in itertools.pairwise([*shares, 1.0]):
        after = _rounds(replace(dual, upper=dual.upper * share), x, gap, warm, trace)
        # The maximum is piecewise linear in the tops of the prices: follow the line through the last two.
        slope = (after - before) / (share - passed) if passed else 0.0 * x
        x, before, passed, warm = after + slope * (following - share), after, share, True
    return _rounds(dual, x, gap, warm, trace), trace


def price_stages(dual: Dual) -> list[float]:
    """Shares of the tops of prices to solve with first, where they are huge (a keep rate near 0); empty otherwise."""
    top = float(dual.upper.max())
    if not np.isfinite(top) or top <= EASY_TOP:
        return []
    easy = EASY_TOP / top
    return [0.5 * easy, *(easy * 100.0 ** np.arange(np.ceil(-np.log(easy) / np.log(100.0)))).tolist()]


def _rounds(dual: Dual, x: Floats, gap: float, warm: bool, trace: Trace) -> Floats:
    """Rounds of first-order and Newton steps until `converged`."""
    x = np.clip(x, dual.lower_bounds, dual.upper_bounds)
    for first_order, newton, bold in ROUNDS[0 if warm else 1 :]:
        if first_order:
            x = _first_order(dual, x, first_order, trace)
        x, done = _newton(dual, x, gap, newton, bold, trace)
        trace.converged = done
        if done:
            break
    return x


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
    x = result.x * scale
    # Scaling there and back leaves prices a rounding short of their top, where they would count as free.
    return np.where(x > dual.upper_bounds * (1 - 1e-12), dual.upper_bounds, np.maximum(x, dual.lower_bounds))


def _newton(dual: Dual, x: Floats, gap: float, steps: int, bold: bool, trace: Trace) -> tuple[Floats, bool]:
    """Projected semismooth Newton steps with a line search on D; returns x and whether it converged."""
    best, nearest = x, np.inf
    caution, short, checkpoint = 1.0, 0, np.inf
    for count in range(steps):
        certificate = certify(dual, x[:-1], x[-1])
        x = np.append(x[:-1], certificate.mu)
        trace.evaluations += 1
        distance = distance_left(dual, certificate, x[:-1])
        if distance < nearest:
            best, nearest = x, distance
        if converged(dual, certificate, x[:-1], gap):
            return x, True
        if count % PATIENCE == 0:
            if short and nearest > 0.1 * checkpoint:
                break  # the pieces that hold the maximum are not found yet: first-order steps find them faster
            short, checkpoint = 0, nearest
        value, gradient, curvature = dual.evaluate(x)
        direction = newton_direction(dual, x, gradient, curvature, distance, caution, bold)
        x, step = _search(dual, x, value, gradient, direction, trace)
        caution = min(caution * 100, 1e6) if step < 0.1 else max(caution / 10, 1e-6)
        trace.newton_steps += 1
        short += step < 0.1
    return best, False


def distance_left(dual: Dual, certificate: Bounds, v: Floats) -> float:
    """How far from the maximum, at most 1: the relative gap, or the largest slope left where prices have no top."""
    if np.isfinite(dual.upper).all():
        return min(abs(certificate.gap), 1.0)
    violation = certificate.moments / np.maximum(dual.system.mass, 1e-300)
    too_much = float(violation[v < dual.upper].max(initial=0.0))
    return min(max(too_much, -float(violation[v > 0].min(initial=0.0))), 1.0)


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
