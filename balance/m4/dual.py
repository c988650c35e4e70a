"""The dual of M4: a concave, piecewise quadratic function of one price for each constraint and one for the keep rate.

In units of the keep rate (q' = q / eta, Q' = Q / eta, V' = V / eta), with prices v in [0, V'] and mu,

    q'_c = clip(u_c - a_c . v - mu, 0, Q')
    D(v, mu) = sum_c p_c [ 1/2 (q'_c - u_c)^2 + q'_c (a_c . v + mu) ] - mu
    dD/dv_j = sum_c p_c q'_c a_cj        dD/dmu = sum_c p_c q'_c - 1

and the primal's optimum is eta^2 times the maximum of D. `balance.m4.ascent` finds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance.m4.system import System

Floats = NDArray[np.float64]
# (n,) over cells: a numpy array, or a torch tensor where the system is on a device; only shared methods are used.
Vector = Any
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
    centre: Vector
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

    def pull(self, v: Floats) -> Vector:
        """(n,) u - a . v, the rates before mu and clipping."""
        return self.centre - self.system.scores(v)

    def evaluate(self, x: Floats) -> tuple[float, Floats, Vector]:
        """D less its constant 1/2 sum p u^2, its gradient (J + 1,), and the curvature (n,) at x = (v, mu).

        The curvature of a cell is p where 0 < q' < Q', else 0.
        """
        raw = self.pull(x[:-1]) - float(x[-1])
        q = raw.clip(0.0, self.cap)
        pq = self.system.p * q
        value = pq @ (0.5 * q - raw)
        gradient = np.append(self.system.moments(pq), 0.0)
        if self.fixed_mean:
            value = value - float(x[-1])
            gradient[-1] = float(pq.sum()) - 1.0
        return float(value), gradient, self.system.p * ((raw > 0) & (raw < self.cap))

    def settle(self, v: Floats, guess: float) -> tuple[float, Vector]:
        """The mu at which the mean of q' is 1, and q' there; by Newton steps kept inside a bracket."""
        raw = self.pull(v)
        if not self.fixed_mean:
            return 0.0, raw.clip(0.0, self.cap)
        return settle_mean(raw, self.system.p, self.cap, guess)


def settle_mean(raw: Vector, p: Vector, cap: float, guess: float = 0.0) -> tuple[float, Vector]:
    """Find mu with sum p clip(raw - mu, 0, cap) = 1; needs cap >= 1."""
    low, high = float(raw.min()) - cap, float(raw.max())
    mu = min(max(guess, low), high)
    q = (raw - mu).clip(0.0, cap)
    for _ in range(200):
        q = (raw - mu).clip(0.0, cap)
        excess = float(p @ q) - 1.0
        if abs(excess) <= 1e-15:
            break
        if excess > 0:
            low = mu
        else:
            high = mu
        slope = float((p * ((q > 0) & (q < cap))).sum())
        step = mu + excess / slope if slope > 0 else np.inf
        following = step if low < step < high else 0.5 * (low + high)
        if following == mu:
            break
        mu = following
    # Where rates are large, mu has no digits left for the last of the excess: take it off the free rates themselves.
    free = (q > 0) & (q < cap)
    if free.any():
        share = (float(p @ q) - 1.0) / float((p * free).sum())
        q = (q - share * free).clip(0.0, cap)
    return mu, q


@dataclass(frozen=True, eq=False)
class Bounds:
    """Primal and dual values at one x, from scratch in float64, in units of the keep rate."""

    primal: float
    dual: float
    mu: float
    q: Vector
    moments: Floats

    @property
    def gap(self) -> float:
        """(primal - dual) / primal; the scale is at least 1e-4 of (mean rate)^2, for optima at or near 0."""
        return (self.primal - self.dual) / max(abs(self.primal), 1e-4)


def certify(dual: Dual, v: Floats, guess: float = 0.0) -> Bounds:
    """Both values at prices `v`: q' meets box and keep rate exactly, so its cost bounds the optimum from above."""
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
    return Bounds(primal, lagrangian, mu, q, moments)


def converged(dual: Dual, certificate: Bounds, v: Floats, gap: float) -> bool:
    """Gap closed, and every constraint that is not at its top price holds in its natural unit."""
    violation = certificate.moments / np.maximum(dual.system.mass, 1e-300)
    slack_price = v < dual.upper * (1 - 1e-9)
    held = not slack_price.any() or float(violation[slack_price].max()) <= HOLDS
    if np.isinf(gap):  # no top price: the gap says nothing, so nothing that is paid for may be slack either
        return bool(held and float(violation[v > 0].min(initial=0.0)) >= -HOLDS)
    return bool(held and certificate.gap <= gap)
