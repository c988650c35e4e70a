"""Primal and dual of a plan from its rates and prices alone: no solver state, float64, the data's own units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balance.m4.system import System

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Certificate:
    """What rates q and prices (v, mu) prove about the optimum of M4.

    Attributes:
        primal: cost of q, an upper bound on the optimum; infinite where q leaves [0, Q] or misses the keep rate.
        dual: value of the dual function at (v, mu), a lower bound.
        gap: (primal - dual) / max(primal, 1e-4 eta^2).
        keep_error: abs(sum p q - eta).
    """

    primal: float
    dual: float
    gap: float
    keep_error: float


def certify_rates(
    system: System, q: Floats, v: Floats, mu: float, keep: float, cap: float, prices: Floats
) -> Certificate:
    """Evaluate both sides.

    Args:
        system: constraints and cells.
        q: (n,) rates.
        v: (J,) prices.
        mu: price of the keep rate.
        keep: eta.
        cap: Q.
        prices: (J,) V_j.
    """
    p, wanted = system.p, keep * system.u
    keep_error = abs(float(p @ q) - keep)
    in_box = bool((q >= -1e-12).all() and (q <= cap * (1 + 1e-12)).all())
    primal = np.inf
    if in_box and keep_error <= 1e-9 * max(1.0, keep):
        broken = np.maximum(system.moments(p * q), 0.0)
        primal = 0.5 * float(p @ (q - wanted) ** 2) + float(prices @ broken)
    dual = -np.inf
    if (v >= 0).all() and (v <= prices * (1 + 1e-12)).all():
        pull = system.scores(v) + mu
        best = np.clip(wanted - pull, 0.0, cap)
        dual = float(p @ (0.5 * (best - wanted) ** 2 + best * pull)) - mu * keep
    gap = (primal - dual) / max(abs(primal), 1e-4 * keep**2) if np.isfinite(primal) else np.inf
    return Certificate(primal, dual, gap, keep_error)
