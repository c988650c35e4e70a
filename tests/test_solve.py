"""The dual solver: cvxpy's optimum, exact keep rate, and what must not change a plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import HealthCheck, given, settings

from balance import Cells, Plan, Problem, solve
from balance.errors import UserError
from balance.m4.device import move_system
from balance.m4.explain import explain
from balance.m4.operator import RowOperator
from balance.m4.solve import solve_dual
from balance.m4.system import build_system
from tests.m4_cases import small_pair

TIGHT = {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11, "max_iter": 500}
QUICK = settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))


def assert_certified(plan: Plan) -> None:
    """Feasible to rounding, and proven to be optimal."""
    p = plan.cells.counts / plan.cells.total
    assert abs(float(p @ plan.q) - plan.keep) <= 1e-9
    assert plan.q.min() >= 0
    assert plan.q.max() <= plan.problem.max_repeat * (1 + 1e-12)
    assert plan.gap <= 1e-6
    assert plan.primal >= plan.dual - 1e-12 * max(1.0, abs(plan.primal))


@QUICK
@given(pair=small_pair())
def test_equal_to_cvxpy(pair: tuple[Cells, Problem]) -> None:
    cells, problem = pair
    plan = solve(cells, problem)
    assert_certified(plan)
    reference = solve(cells, problem, "cvxpy", **TIGHT)
    scale = max(abs(reference.primal), 1e-4 * plan.keep**2)
    # The reference's rates are feasible as well, so they can't be cheaper; nor may they be much dearer.
    assert plan.primal <= reference.primal + 1e-6 * scale
    assert reference.primal - plan.primal <= 1e-5 * scale + 1e-7


@settings(QUICK, max_examples=100)
@given(pair=small_pair())
def test_rates_follow_from_prices(pair: tuple[Cells, Problem]) -> None:
    cells, problem = pair
    plan = solve(cells, problem)
    np.testing.assert_allclose(plan.rates(cells.s, cells.y), plan.q, atol=1e-9 * (1 + plan.v.sum()))
    i = len(cells) // 2
    assert plan.rate(cells.s[i], cells.y.toarray()[i]) == pytest.approx(plan.q[i], abs=1e-9 * (1 + plan.v.sum()))


@settings(QUICK, max_examples=60)
@given(pair=small_pair(8))
def test_keep_rate_near_zero_and_at_its_top(pair: tuple[Cells, Problem]) -> None:
    cells, problem = pair
    # Near 0 rounding shows: the price of a floor over eta is 1e10 and more beside rates of 1.
    assert solve(cells, replace(problem, keep=1e-6)).gap <= 1e-3
    tiny = solve(cells, replace(problem, keep=1e-4))
    assert abs(float(cells.counts @ tiny.q) / cells.total - 1e-4) <= 1e-12
    assert tiny.gap <= 1e-5
    # In units of the keep rate it is the problem with eta = 1, Q / eta and V / eta.
    unit = replace(problem, keep=1.0, max_repeat=problem.max_repeat * 1e4, penalty=problem.penalty * 1e4)
    assert solve(cells, unit).primal == pytest.approx(tiny.primal * 1e8, rel=2e-5, abs=2e-9)
    top = solve(cells, replace(problem, keep=problem.max_repeat))
    np.testing.assert_allclose(top.q, problem.max_repeat, rtol=1e-9)
    assert top.gap <= 1e-6


@settings(QUICK, max_examples=60)
@given(pair=small_pair())
def test_invariant_to_order_duplication_and_names(pair: tuple[Cells, Problem]) -> None:
    cells, problem = pair
    plan = solve(cells, problem)
    rng = np.random.default_rng(0)
    order, columns = rng.permutation(len(cells)), rng.permutation(len(cells.y_names))
    renamed = Cells.from_arrays(
        np.vstack([cells.s[order][:, ::-1]] * 2),
        sp.csr_array(sp.vstack([cells.y[order][:, columns]] * 2)),
        np.tile(cells.counts[order], 2),
        [f"{name}-new" for name in cells.s_names[::-1]],
        [f"{cells.y_names[r]}-new" for r in columns],
    )
    target = {f"{name}-new": share for name, share in problem.target.items()}
    other = solve(renamed, replace(problem, target=target))
    assert other.primal == pytest.approx(plan.primal, rel=2e-6, abs=1e-9)
    # The optimum is unique, so rates agree to the square root of the gap.
    rates = other.rates(cells.s[:, ::-1], cells.y[:, columns])
    loose = 3e-3 * max(1.0, np.sqrt(abs(plan.primal)))
    assert float(cells.counts @ (rates - plan.q) ** 2) / cells.total <= loose**2


def made_up(n: int = 3000, m: int = 2, c: int = 8, seed: int = 0) -> Cells:
    """Skewed cells in which everything can be balanced at a middling rate."""
    rng = np.random.default_rng(seed)
    s = (rng.random((n, m)) < 0.35).astype(float)
    odds = 0.25 * np.exp((s - 0.35) @ rng.normal(0, 0.8, (m, c)))
    y = (rng.random((n, c)) < np.minimum(odds, 0.9)).astype(int)
    s[rng.random(n) < 0.3] = np.nan
    return Cells.from_arrays(s, y, None, ["woman", "old"][:m], [f"c{r}" for r in range(c)])


def test_constraints_hold_afterwards() -> None:
    cells = made_up()
    plan = solve(cells, Problem(target={"woman": 0.5, "old": 0.4}, keep=0.4))
    assert_certified(plan)
    assert not plan.violations
    assert explain(plan) == []
    p = cells.counts * plan.q
    for k, pi in ((0, 0.5), (1, 0.4)):
        known = ~np.isnan(cells.s[:, k])
        assert abs(p[known] @ cells.s[known, k] / p[known].sum() - pi) <= 0.01 + 1e-6
        for r in range(8):
            rows = known & (cells.y[:, [r]].toarray()[:, 0] > 0)
            assert abs(p[rows] @ cells.s[rows, k] / p[rows].sum() - pi) <= 0.02 + 1e-6
            assert plan.after.concept_share[k, r] == pytest.approx(p[rows] @ cells.s[rows, k] / p[rows].sum())
    bears = cells.y.toarray()
    kept = p @ bears / (cells.counts @ bears)
    assert (kept >= 0.25 * 0.4 - 1e-9).all()
    np.testing.assert_allclose(list(plan.kept.concepts.values()), kept)


def test_row_and_pattern_forms_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    soft = Cells.from_arrays(
        np.where(rng.random((400, 2)) < 0.2, np.nan, rng.random((400, 2))), rng.random((400, 5)) < 0.3
    )
    for form in ("per_concept", "joint"):
        problem = Problem(target={"s0": 0.6, "s1": 0.5}, keep=0.6, association=form)
        plan = solve(soft, problem)
        monkeypatch.setattr("balance.m4.operator.MAX_PAIRS", 0)
        assert isinstance(build_system(soft, problem).operator, RowOperator)
        rows = solve(soft, problem)
        monkeypatch.undo()
        assert_certified(rows)
        assert rows.primal == pytest.approx(plan.primal, rel=1e-6)
        again = solve(soft, problem, "cvxpy")
        assert again.primal == pytest.approx(plan.primal, rel=1e-5)


def test_one_gender_concept_keeps_its_floor_and_is_named() -> None:
    s = np.concatenate([np.ones(50), np.zeros(150), np.full(20, np.nan)])
    y = np.zeros((220, 2), int)
    y[:30, 0] = y[40:100, 1] = 1
    cells = Cells.from_arrays(s, y, s_names=["woman"], y_names=["nurse", "cook"])
    bare = solve(cells, Problem(target={"woman": 0.5}, keep=0.2, min_concept_kept=0))
    assert bare.kept.concepts["nurse"] == pytest.approx(0, abs=1e-6)
    plan = solve(cells, Problem(target={"woman": 0.5}, keep=0.2))
    assert_certified(plan)
    assert plan.kept.concepts["nurse"] == pytest.approx(0.25 * 0.2, abs=1e-6)
    [violation] = plan.violations
    assert (violation.concept, violation.attribute, violation.kind) == ("nurse", "woman", "association")
    assert violation.amount == pytest.approx(0.48, abs=1e-9)
    sentence, together = explain(plan)
    assert "'nurse'" in sentence
    assert "no keep rate helps" in sentence
    assert "At no keep rate" in together


def test_remedies_are_true() -> None:
    # One concept, 10 women against 90 men: the share can rise to 0.48 only where the men are cut to 10.8.
    s = np.concatenate([np.ones(10), np.zeros(90), np.ones(450), np.zeros(450)])
    y = np.zeros((1000, 1), int)
    y[:100] = 1
    cells = Cells.from_arrays(s, y, s_names=["woman"], y_names=["pilot"])
    problem = Problem(target={"woman": 0.5}, keep=0.95, eps_representation=0.1)
    plan = solve(cells, problem)
    [violation] = plan.violations
    expected = (10 / 0.48) / (0.25 * 100)
    assert violation.keep_needed == pytest.approx(expected)
    assert violation.repeats_needed == pytest.approx(0.95 / expected)
    assert not solve(cells, replace(problem, keep=violation.keep_needed * 0.999)).violations
    assert solve(cells, replace(problem, keep=violation.keep_needed * 1.01)).violations
    assert not solve(cells, replace(problem, max_repeat=violation.repeats_needed * 1.001)).violations
    assert plan.attainable_rate == pytest.approx(expected, rel=1e-5)
    assert "keep <= 0.833 or max_repeat >= 1.14" in explain(plan)[-1]
    wider = violation.tolerance + violation.amount
    assert not solve(cells, replace(problem, eps_association=wider + 1e-6)).violations


def test_per_concept_form_bounds_the_rare_concept_that_the_joint_form_does_not() -> None:
    """The constructed example of docs/m4.md."""
    # 10,000 samples, half women; a concept borne by 100 samples, 90 of them men.
    s = np.concatenate([np.ones(4990), np.zeros(4910), np.ones(10), np.zeros(90)])
    y = np.zeros((10_000, 1), int)
    y[9900:] = 1
    cells = Cells.from_arrays(s, y, s_names=["woman"], y_names=["pilot"])
    joint = solve(cells, Problem(target={"woman": 0.5}, keep=0.8, association="joint"))
    ours = solve(cells, Problem(target={"woman": 0.5}, keep=0.8))
    assert not joint.violations
    assert joint.after.concept_share[0, 0] < 0.13
    assert not ours.violations
    assert ours.after.concept_share[0, 0] == pytest.approx(0.48, abs=1e-6)


def test_groups_intersections_and_tolerances_by_name() -> None:
    rng = np.random.default_rng(1)
    age = rng.choice(3, 2000, p=[0.6, 0.3, 0.1])
    woman = (rng.random(2000) < np.array([0.3, 0.5, 0.4])[age]).astype(float)
    s = np.column_stack([woman, *(age == i for i in range(3))]).astype(float)
    s[rng.random(2000) < 0.2, 0] = np.nan
    s[rng.random(2000) < 0.2, 1:] = np.nan
    y = rng.random((2000, 3)) < 0.2 + 0.2 * woman[:, None]
    names = ["woman", "age=young", "age=adult", "age=old"]
    cells = Cells.from_arrays(s, y, None, names, ["a", "b", "c"])
    problem = Problem(
        target={"woman": 0.5, "age": {"young": 0.4, "adult": 0.4, "old": 0.2}, "woman&age=old": 0.1},
        eps_representation={"woman": 0.0, "age": 0.02, "default": 0.03},
        eps_association={"woman": 0.01, "b": 0.05, "woman|b": 0.03, "age": np.inf, "default": 0.1},
        keep=0.3,
    )
    plan = solve(cells, problem)
    assert_certified(plan)
    assert not plan.violations
    share = dict(zip(plan.after.targets, plan.after.representation, strict=True))
    assert share["woman"] == pytest.approx(0.5, abs=1e-6)
    assert abs(share["age=old"] - 0.2) <= 0.02 + 1e-6
    assert abs(share["woman&age=old"] - 0.1) <= 0.03 + 1e-6
    gaps = dict(zip("abc", plan.after.concept_gap[0], strict=True))
    assert abs(gaps["a"]) <= 0.01 + 1e-6
    assert abs(gaps["b"]) <= 0.03 + 1e-6
    ages = [label for label in plan.labels if label.startswith("age") and "|" in label]
    assert ages
    assert all(label.endswith("|b") for label in ages)  # the concept's own tolerance wins over the attribute's
    assert any(label.startswith("woman&age=old+|c") for label in plan.labels)
    assert solve(cells, problem, "cvxpy").primal == pytest.approx(plan.primal, rel=1e-5)


def test_uniform_and_data_targets() -> None:
    cells = made_up()
    plan = solve(cells, Problem(target={"woman": "data"}, keep=0.5))
    assert plan.targets[0].pi == pytest.approx(plan.before.representation[0])
    groups = Cells.from_arrays([[1, 0], [0, 1], [0, 1]], [[1], [0], [1]], None, ["a=x", "a=y"])
    assert [t.pi for t in solve(groups, Problem(target={"a": "uniform"}, keep=0.5)).targets] == [0.5, 0.5]


def test_utility_and_base_weights() -> None:
    cells = made_up()
    target = {"woman": 0.5, "old": 0.4}
    plain = solve(cells, Problem(target=target, keep=0.4))
    liked = solve(cells, Problem(target=target, keep=0.4, utility={"c0": 1.5}))
    assert liked.kept.concepts["c0"] > plain.kept.concepts["c0"] + 0.05
    assert_certified(liked)
    u = np.where(cells.y[:, [0]].toarray()[:, 0] > 0, 1.5, 1.0)
    by_cell = solve(cells, Problem(target=target, keep=0.4, utility=u))
    np.testing.assert_allclose(by_cell.q, liked.q, atol=1e-9)
    np.testing.assert_allclose(by_cell.rates(cells.s, cells.y), liked.q, atol=1e-9)
    weights = 1.0 + cells.y[:, [1]].toarray()[:, 0]
    weighted = solve(cells, Problem(target=target, keep=0.4, base_weights=weights))
    counted = solve(Cells.from_arrays(cells.s, cells.y, cells.counts * weights, *_names(cells)), plain.problem)
    assert weighted.primal == pytest.approx(counted.primal, rel=1e-6)
    assert solve(cells, liked.problem, "cvxpy").primal == pytest.approx(liked.primal, rel=1e-5)


def _names(cells: Cells) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return cells.s_names, cells.y_names


def test_proxies_are_constrained_but_reported_apart() -> None:
    base = made_up()
    cells = Cells.from_arrays(base.s, base.y, base.counts, *_names(base), proxies=["c0"])
    plan = solve(cells, Problem(target={"woman": 0.5}, keep=0.5, proxies=("c1",)))
    assert plan.before.proxies.tolist() == [True, True] + [False] * 6
    assert np.abs(plan.after.concept_gap[0, :2]).max() <= 0.02 + 1e-6
    assert plan.before.association_bias == pytest.approx(np.abs(plan.before.association[:, 2:]).max())
    assert plan.before.proxy_association_bias == pytest.approx(np.abs(plan.before.association[:, :2]).max())


def test_rounded_probabilities_bound_the_error() -> None:
    rng = np.random.default_rng(0)
    s = np.clip(rng.normal(0.4, 0.3, (3000, 1)), 0, 1)
    y = rng.random((3000, 3)) < 0.1 + 0.4 * s
    exact, rounded = Cells.from_arrays(s, y), Cells.from_arrays(s, y, bins=10)
    assert len(rounded) < len(exact) / 10
    plan = solve(rounded, Problem(target={"s0": 0.5}, keep=0.5))
    assert_certified(plan)
    assert plan.summary()["grouping_error"] == rounded.s_error <= 0.05 + 1e-12
    q = plan.rates(s, y)
    assert q.mean() == pytest.approx(0.5, abs=1e-9)
    assert abs(q @ s[:, 0] / q.sum() - 0.5) <= 0.01 + rounded.s_error
    for r in range(3):
        assert abs(q[y[:, r]] @ s[y[:, r], 0] / q[y[:, r]].sum() - 0.5) <= 0.02 + rounded.s_error


def test_warm_start_and_method_errors() -> None:
    cells = made_up()
    problem = Problem(target={"woman": 0.5, "old": 0.4}, keep=0.4)
    plan = solve(cells, problem)
    warm = solve(cells, replace(problem, keep=0.41), warm_start=plan)
    assert_certified(warm)
    assert warm.primal == pytest.approx(solve(cells, replace(problem, keep=0.41)).primal, rel=1e-6)
    with pytest.raises(UserError, match=r"method=duall is not known \(did you mean 'dual'\?\)"):
        solve(cells, problem, "duall")
    with pytest.raises(UserError, match="has no option 'solver'"):
        solve(cells, problem, solver="SCS")
    with pytest.raises(UserError, match=r"'CLARABELL' is not installed .*'CLARABEL'"):
        solve(cells, problem, "cvxpy", solver="CLARABELL")


@pytest.mark.parametrize("keep", [0.4, "auto"])
def test_torch_form_agrees(keep: float | str) -> None:
    cells = made_up()
    problem = Problem(target={"woman": 0.5, "old": 0.4}, keep=keep)
    plan = solve(cells, problem)
    on_torch = solve_dual(move_system(build_system(cells, problem), "cpu"), problem, 1e-6)
    assert isinstance(on_torch.q, torch.Tensor)
    assert on_torch.keep == pytest.approx(plan.keep, rel=1e-6)
    np.testing.assert_allclose(on_torch.q.numpy(), plan.q, atol=1e-4)


def test_device_that_is_not_there() -> None:
    with pytest.raises(UserError, match="torch has no device 'cuda:77'"):
        solve(made_up(), Problem(target={"woman": 0.5}), device="cuda:77")
