"""keep="auto" against a linear programme, and where something cannot hold at any rate."""

from __future__ import annotations

from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from balance import Cells, Problem, solve
from balance.m4.autokeep import largest_rate
from balance.m4.explain import explain
from balance.m4.reference import bias_vectors
from balance.m4.system import build_system
from tests.m4_cases import small_pair

QUICK = settings(deadline=None, max_examples=120, suppress_health_check=list(HealthCheck))


def rate_by_programme(cells: Cells, problem: Problem) -> float:
    """The largest mean rate by HiGHS."""
    system = build_system(cells, problem)
    q = cp.Variable(len(cells))
    constraints = [q >= 0, q <= problem.max_repeat]
    if system.size:
        constraints.append((bias_vectors(system).T.multiply(system.p)).tocsr() @ q <= 0)
    program = cp.Problem(cp.Maximize(system.p @ q), constraints)
    program.solve(solver="HIGHS")
    return float(program.value)


def feasible(cells: Cells, problem: Problem, keep: float) -> bool:
    """Whether all constraints can hold at a rate, by Clarabel."""
    system = build_system(cells, problem)
    q, slack = cp.Variable(len(cells)), cp.Variable(nonneg=True)
    constraints = [q >= 0, q <= problem.max_repeat, system.p @ q == keep]
    scaled = (bias_vectors(system).T.multiply(system.p / system.mass[:, None])).tocsr()
    program = cp.Problem(cp.Minimize(slack), [*constraints, scaled @ q <= slack])
    program.solve(solver="CLARABEL")
    return float(program.value) <= 1e-6


@QUICK
@given(pair=small_pair())
def test_largest_rate_is_that_of_the_linear_programme(pair: tuple[Cells, Problem]) -> None:
    cells, problem = pair
    system = build_system(cells, problem)
    rate = largest_rate(system, problem.max_repeat, np.ones(system.size, bool))
    expected = rate_by_programme(cells, problem)
    assert rate.low <= expected + 1e-6 * problem.max_repeat
    assert min(rate.low, 1.0) >= min(expected, 1.0) - 1.1e-4 * problem.max_repeat
    assert rate.high >= expected - 1e-6 or rate.low >= 1.0


@QUICK
@given(pair=small_pair())
def test_auto_plans_hold_what_can_hold(pair: tuple[Cells, Problem]) -> None:
    cells, problem = pair
    problem = replace(problem, keep="auto", penalty=100.0)
    plan = solve(cells, problem)
    assert plan.gap <= 1e-6
    assert problem.min_keep - 1e-9 <= plan.keep <= 1.0
    if not plan.set_aside.any():
        assert not plan.violations
    aside = {label for label, out in zip(plan.labels, plan.set_aside, strict=True) if out}
    assert {violation.label for violation in plan.violations} <= aside
    assert (len(explain(plan)) == 0) == (not plan.violations)


def skewed(seed: int = 0) -> Cells:
    rng = np.random.default_rng(seed)
    s = (rng.random((4000, 1)) < 0.3).astype(float)
    y = rng.random((4000, 4)) < np.array([0.1, 0.2, 0.05, 0.3]) * np.where(s > 0, [2.0, 0.5, 1.0, 0.3], 1.0)
    return Cells.from_arrays(s, y, None, ["woman"], list("abcd"))


def test_auto_agrees_with_bisection() -> None:
    cells = skewed()
    problem = Problem(target={"woman": 0.5}, keep="auto")
    plan = solve(cells, problem)
    low, high = 0.0, 1.0
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (middle, high) if feasible(cells, problem, middle) else (low, middle)
    assert plan.keep == pytest.approx(low, abs=2e-4)
    assert not solve(cells, replace(problem, keep=plan.keep)).violations
    assert solve(cells, replace(problem, keep=plan.keep + 1e-3)).violations


def test_auto_with_repeats_stops_at_one() -> None:
    cells = skewed()
    plan = solve(cells, Problem(target={"woman": 0.5}, keep="auto", max_repeat=4.0))
    assert plan.keep == 1.0
    assert not plan.violations
    assert plan.q.max() > 1


def test_auto_sets_aside_what_cannot_hold_and_says_so() -> None:
    base = skewed()
    # A concept seen with women alone: its floor forbids dropping it, so its share cannot be moved at any rate.
    only = (base.s[:, 0] > 0) & (np.arange(len(base)) % 2 == 0)
    y = np.column_stack([base.y.toarray(), only])
    cells = Cells.from_arrays(base.s, y, base.counts, ["woman"], list("abcde"))
    without = solve(base, Problem(target={"woman": 0.5}, keep="auto"))
    plan = solve(cells, Problem(target={"woman": 0.5}, keep="auto"))
    assert plan.keep == pytest.approx(without.keep, rel=1e-3)
    assert [violation.concept for violation in plan.violations] == ["e"]
    assert plan.violations[0].set_aside
    assert "no keep rate helps" in " ".join(explain(plan))
    assert plan.kept.concepts["e"] >= 0.25 * plan.keep - 1e-6


def test_min_keep_bounds_what_one_rare_concept_can_cost() -> None:
    base = skewed()
    # 1 woman to 60 men: it could hold only at a rate near 0.14.
    s = np.concatenate([base.s[:, 0], [1.0, 0.0]])
    y = np.vstack([np.column_stack([base.y.toarray(), np.zeros(len(base), int)]), [[0, 0, 0, 0, 1]] * 2])
    cells = Cells.from_arrays(s, y, np.concatenate([base.counts, [1, 60]]), ["woman"], list("abcde"))
    problem = Problem(target={"woman": 0.5}, keep="auto", min_keep=0.05)
    low = solve(cells, problem)
    assert low.keep == pytest.approx((1 / 0.48) / (0.25 * 61), rel=1e-3)
    assert not low.violations
    high = solve(cells, replace(problem, min_keep=0.3))
    assert high.keep == pytest.approx(solve(base, problem).keep, rel=5e-2)
    assert [violation.concept for violation in high.violations] == ["e"]
