"""M4 as written down, handed to a general solver through cvxpy: what the dual solver is checked against."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from balance.errors import UserError
from balance.m4.dual import settle_mean
from balance.m4.problem import suggest
from balance.m4.system import System

Floats = NDArray[np.float64]


def bias_vectors(system: System) -> sp.csr_array:
    """(n, J) sparse matrix of a_cj."""
    return sp.csr_array(system.operator.bias(system.matrix))


def split_constant(system: System) -> tuple[sp.csr_array, Floats]:
    """a_cj as a sparse part (n, J) and a part (J,) equal for all cells, which sum p q = eta turns into a number.

    The floors have such a part; left in place it would make 50 dense columns of their rows.
    """
    column = 2 * len(system.targets) * system.operator.shape[1]
    constant_part = np.asarray(system.matrix[:, [column]].toarray()).ravel()
    rest = system.matrix.tolil()
    rest[:, column] = 0.0
    return system.operator.bias(sp.csr_array(rest)), constant_part


def solve_reference(
    system: System, keep: float, cap: float, prices: Floats, solver: str = "CLARABEL", **options: Any
) -> tuple[Floats, Floats, float]:
    """Solve M4 at one keep rate with cvxpy.

    Args:
        system: constraints and cells.
        keep: eta.
        cap: Q.
        prices: (J,) V_j.
        solver: any solver that cvxpy has installed.
        **options: passed on to the solver.

    Returns:
        Rates (n,), moved onto the box and the keep rate by the smallest shift; prices v (J,); and mu.

    Raises:
        UserError: the solver is not installed, or it failed.
    """
    import cvxpy as cp

    name = solver.upper()
    installed = cp.installed_solvers()
    if name not in installed:
        raise UserError(
            f"solver {solver!r} is not installed{suggest(name, installed)}: choose of {', '.join(installed)}"
        )
    p, root = system.p, np.sqrt(system.p)
    # In x = sqrt(p) q the quadratic is the identity: several times faster, and closer to the optimum, than in q.
    x = cp.Variable(p.size)
    constant = 0.5 * keep**2 * float(p @ system.u**2)
    cost = 0.5 * cp.sum_squares(x) - keep * (root * system.u) @ x + constant
    constraints = [x >= 0, x <= cap * root, root @ x == keep]
    if system.size:
        broken = cp.Variable(system.size, nonneg=True)
        varying, constant_part = split_constant(system)
        constraints.append(sp.csr_array(varying.T.multiply(root)) @ x + keep * constant_part <= broken)
        cost += prices @ broken
    program = cp.Problem(cp.Minimize(cost), constraints)
    try:
        program.solve(solver=name, **options)
    except cp.error.SolverError as error:
        raise UserError(f"{solver} failed on this problem ({error}): try another solver or method 'dual'") from error
    if x.value is None:
        raise UserError(f"{solver} ended without a solution (status {program.status}): try another solver")
    rates = settle_mean(np.asarray(x.value) / root / keep, p, cap / keep)[1] * keep
    v = np.clip(constraints[3].dual_value, 0.0, prices) if system.size else np.zeros(0)
    # The solver's own mu carries its tolerance; the best mu for its v is one sweep away.
    mu = settle_mean(system.u - system.scores(v) / keep, p, cap / keep)[0] * keep
    return rates, v, mu
