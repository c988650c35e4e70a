"""Solve M4: choose the keep rate, find the prices, and hand back a plan with its certificate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance.errors import UserError
from balance.m4.ascent import maximise
from balance.m4.autokeep import largest_rate
from balance.m4.cells import Cells
from balance.m4.dual import HOLDS, Dual, Vector, settle_mean
from balance.m4.operator import PatternOperator
from balance.m4.plan import Plan, make_plan
from balance.m4.problem import Problem, suggest
from balance.m4.solution import Solution
from balance.m4.system import FLOOR, System, build_system

Floats = NDArray[np.float64]
GPU_PAIRS = 5_000_000  # (cell, concept) pairs from which moving to a GPU pays
METHODS = ("dual", "cvxpy", "stochastic")
HELD_FACTOR = 10.0  # times V: the price of what can hold, where something else cannot
SET_ASIDE_SHARES = [1.0, 0.1, 0.01, 0.0]  # of V: what is set aside pulls at the first of these that breaks nothing else
BELOW = [1e-4, 1e-3, 1e-2, 1e-1]  # of the largest rate


def solve(
    cells: Cells,
    problem: Problem,
    method: str = "dual",
    *,
    gap: float = 1e-6,
    warm_start: Plan | None = None,
    device: str | None = None,
    **options: Any,
) -> Plan:
    """Balance `cells` as `problem` asks.

    Args:
        cells: the data.
        problem: targets, tolerances and keep rate.
        method: `"dual"` (exact), `"cvxpy"` (reference; options `solver=` and those of the solver), `"stochastic"`
            (the paper's updates; options as in `balance.m4.stochastic`).
        gap: relative gap between primal and dual to reach.
        warm_start: a plan for the same constraints on similar data, to start from.
        device: torch device for the dual solver's products with the cells, such as "cuda", or "cpu" for none; by
            default a GPU where there is one and the cells are many enough to gain from it.
        **options: passed on to the reference and the stochastic method.

    Returns:
        The plan. A gap that was not reached is not an error: it is in `plan.gap`, and `balance.m4.explain` says so.

    Raises:
        UserError: the problem does not fit the data, or the method is unknown.
    """
    if method not in METHODS:
        raise UserError(f"method={method} is not known{suggest(method, METHODS)}; it is {' or '.join(METHODS)}.")
    if method == "dual" and options:
        raise UserError(f"method 'dual' has no option {next(iter(options))!r}: it takes gap and warm_start")
    system = build_system(cells, problem)
    start = warm_start.prices_for(system) / warm_start.keep if warm_start is not None else None
    if method == "dual" or problem.keep == "auto":
        rates = solve_dual(_on_device(system, device), problem, gap, start)
        rates = replace(rates, q=np.asarray(rates.q if isinstance(rates.q, np.ndarray) else rates.q.cpu()))
    else:
        nothing = np.zeros(system.size)
        rates = Solution(nothing, nothing, 0.0, float(problem.keep), system.prices(problem.penalty), nothing > 0)
    if method == "cvxpy":
        from balance.m4.reference import solve_reference

        q, v, mu = solve_reference(system, rates.keep, problem.max_repeat, rates.prices, **options)
        rates = replace(rates, q=q, v=v, mu=mu)
    elif method == "stochastic":
        from balance.m4.stochastic import solve_stochastic

        names = (cells.s_names, cells.y_names)
        q, v, mu = solve_stochastic(system, replace(problem, keep=rates.keep), cells.s, cells.y, names, **options)
        rates = replace(rates, q=q, v=v, mu=mu)
    return make_plan(cells, problem, system, rates, method, gap)


def _on_device(system: System, device: str | None) -> System:
    """The system where its products are fastest: in numpy, or in torch on a GPU."""
    if device == "cpu":
        return system
    if device is None:
        # Torch takes seconds to import: ask it only where that pays.
        if not isinstance(system.operator, PatternOperator) or system.operator.pairs.nnz < GPU_PAIRS:
            return system
        import torch

        if not torch.cuda.is_available():
            return system
    from balance.m4.device import move_system

    return move_system(system, device or "cuda")


def solve_dual(system: System, problem: Problem, gap: float, start: Floats | None = None) -> Solution:
    """The exact solution at a given keep rate, or at the largest one that holds."""
    prices = system.prices(problem.penalty)
    nothing = np.zeros(system.size, bool)
    if isinstance(problem.keep, str):
        return _solve_auto(system, problem, gap, start)
    return solve_at(system, problem, float(problem.keep), prices, gap, start, nothing)


def solve_at(
    system: System,
    problem: Problem,
    keep: float,
    prices: Floats,
    gap: float,
    start: Floats | None,
    set_aside: NDArray[np.bool_],
) -> Solution:
    """Solve at one keep rate, in units of it; `start` (J,) are prices in units of theirs."""
    cap = problem.max_repeat / keep
    dual = Dual(system, system.u, cap, prices / keep)
    v0 = np.zeros(system.size) if start is None else start
    x, trace = maximise(dual, np.append(v0, 0.0), 0.1 * gap, warm=start is not None)
    if start is not None and not trace.converged:  # a start from another regime can be worse than none
        x, trace = maximise(dual, np.zeros(system.size + 1), 0.1 * gap)
    mu, q = settle_mean(dual.pull(x[:-1]), system.p, cap, float(x[-1]))
    return Solution(q * keep, x[:-1] * keep, mu * keep, keep, prices, set_aside, trace.converged)


def _solve_auto(system: System, problem: Problem, gap: float, start: Floats | None) -> Solution:
    """The largest rate for what can hold; the rest is set aside, and pulls only as far as what can hold lets it."""
    prices = system.prices(problem.penalty)
    set_aside = np.zeros(system.size, bool)
    rate = largest_rate(system, problem.max_repeat, ~set_aside).low
    eases = [1.0]
    if rate < problem.min_keep:
        lowest = solve_at(system, problem, problem.min_keep, prices, gap, start, set_aside)
        set_aside = violated(system, lowest.q, problem.min_keep) & (system.kind != FLOOR)
        rate = max(largest_rate(system, problem.max_repeat, ~set_aside).low, problem.min_keep)
        eases = SET_ASIDE_SHARES
    rate = min(rate, 1.0, problem.max_repeat)
    for ease, below in [*((ease, BELOW[0]) for ease in eases), *((eases[-1], below) for below in BELOW[1:])]:
        # A hair below the largest rate, where rounding cannot decide; further below only if prices reach V there.
        keep = max(rate * (1 - below), min(problem.min_keep, rate)) if rate < 1.0 or below > BELOW[0] else rate
        asked = np.where(set_aside, prices * ease, prices * HELD_FACTOR) if set_aside.any() else prices
        rates = solve_at(system, problem, keep, asked, gap, start, set_aside)
        if rates.converged and not (violated(system, rates.q, keep) & ~set_aside).any():
            break
        start = np.minimum(rates.v, asked) / keep
    return rates


def violated(system: System, q: Vector, keep: float) -> NDArray[np.bool_]:
    """(J,) which constraints are broken beyond rounding at rates `q` of mean `keep`."""
    moments = system.moments(system.p * q) / keep
    return np.asarray(moments / np.maximum(system.mass, 1e-300) > 10 * HOLDS)
