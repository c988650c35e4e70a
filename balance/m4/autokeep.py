"""keep="auto": the largest keep rate, at most 1, at which every constraint holds.

All constraints of M4 are homogeneous in q, so what holds at one rate holds at every lower one, and the largest rate
is a linear programme in q' = q / Q:

    maximise  Q sum_c p_c q'_c   subject to  sum_c p_c q'_c a_c <= 0,  0 <= q' <= 1.

Few cells go to HiGHS. Many are solved as min 1/2 sum p (q' - tau)^2 under the same constraints, with the machinery of
`balance.m4.ascent`: from some finite tau on this has a solution of the programme as its own (Mangasarian and Meyer,
"Nonlinear perturbation of linear programs", 1979). Any prices v bound the rate from above by
Q sum_c p_c [1 - a_c . v / tau]_+, so the answer comes with a bound on its error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.optimize import linprog

from balance.m4.ascent import maximise
from balance.m4.dual import HOLDS, Dual, Vector
from balance.m4.system import System

Floats = NDArray[np.float64]
SMALL = 2_000_000  # cells times constraints up to which a general solver is quicker
TAUS = (2.0, 20.0, 200.0, 2e3)


@dataclass(frozen=True)
class LargestRate:
    """The largest rate at which the held constraints hold, between two bounds."""

    low: float
    high: float


def largest_rate(system: System, cap: float, held: NDArray[np.bool_], tolerance: float = 1e-4) -> LargestRate:
    """Solve the linear programme over the constraints in `held`; stops where a rate of 1 is reached.

    Args:
        system: constraints and cells.
        cap: Q.
        held: (J,) which constraints must hold.
        tolerance: relative distance of the bounds at which to stop.
    """
    if system.size * system.p.shape[0] <= SMALL and isinstance(system.p, np.ndarray):
        return _by_simplex(system, cap, held)
    v = np.zeros(system.size)
    upper = np.where(held, np.inf, 0.0)
    low, high, before = 0.0, np.inf, 1.0
    for tau in TAUS:
        dual = Dual(system, system.u * 0 + tau, 1.0, upper, fixed_mean=False)
        x, _ = maximise(dual, np.append(v * (tau / before), 0.0), gap=np.inf, warm=tau > TAUS[0])
        v, before = x[:-1], tau
        pull = dual.pull(v)
        q = pull.clip(0.0, 1.0)
        if not (broken(system, q) & held).any():
            low = max(low, cap * float(system.p @ q))
        high = min(high, cap * float(system.p @ (pull / tau).clip(0.0, None)))
        if low >= 1.0 or high - low <= tolerance * high or high < 1e-9:
            break
    return LargestRate(min(low, high), high)


def _by_simplex(system: System, cap: float, held: NDArray[np.bool_]) -> LargestRate:
    """The programme by HiGHS, which is quick and exact where there are few cells."""
    bias = system.operator.bias(sp.csr_array(system.matrix[np.flatnonzero(held)]))
    rows = sp.csr_array(bias.T.multiply(system.p)) if bias.shape[1] else None
    right = np.zeros(bias.shape[1]) if bias.shape[1] else None
    found = linprog(-system.p, A_ub=rows, b_ub=right, bounds=(0.0, cap), method="highs")
    rate = max(-float(found.fun), 0.0) if found.status == 0 else 0.0
    return LargestRate(rate, rate)


def broken(system: System, q: Vector) -> NDArray[np.bool_]:
    """(J,) which constraints rates `q` of any mean break beyond rounding, in units of that mean."""
    mean = max(float(system.p @ q), 1e-300)
    return np.asarray(system.moments(system.p * q) > 10 * HOLDS * mean * system.mass)
