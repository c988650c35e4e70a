"""Plans: saved and loaded whole, a corrupted one caught, rates of new patterns, reports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from balance import Cells, Plan, Problem, solve
from balance.errors import UserError
from balance.m4.explain import constraint_costs, explain
from balance.m4.moments import effective_per_epoch, effective_sample_size
from balance.m4.planfile import load_plan, save_plan
from tests.m4_cases import small_pair


@pytest.fixture(scope="module")
def plan() -> Plan:
    rng = np.random.default_rng(0)
    s = (rng.random((2000, 2)) < 0.35).astype(float)
    y = rng.random((2000, 5)) < 0.15 + 0.3 * s[:, :1] * (np.arange(5) % 2)
    s[rng.random(2000) < 0.25] = np.nan
    cells = Cells.from_arrays(s, y, None, ["woman", "old"], [f"c{r}" for r in range(5)], proxies=["c4"])
    return solve(cells, Problem(target={"woman": 0.5, "old": 0.4}, keep=0.7))


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(pair=small_pair())
def test_saved_and_loaded(pair: tuple[Cells, Problem], tmp_path_factory: pytest.TempPathFactory) -> None:
    saved = solve(*pair)
    folder = tmp_path_factory.mktemp("plan")
    save_plan(saved, folder)
    loaded = load_plan(folder)
    assert loaded.hash == saved.hash
    assert loaded.summary() == pytest.approx(saved.summary(), nan_ok=True)
    assert explain(loaded) == explain(saved)
    np.testing.assert_array_equal(loaded.q, saved.q)
    np.testing.assert_array_equal(loaded.rates(pair[0].s, pair[0].y), saved.rates(pair[0].s, pair[0].y))
    assert sorted(path.name for path in folder.iterdir()) == ["cells.parquet", "plan.json"]


def test_arrays_given_for_each_cell_are_saved(plan: Plan, tmp_path: Path) -> None:
    n = len(plan.cells)
    problem = replace(plan.problem, utility=np.linspace(0.5, 1.5, n), base_weights=np.linspace(1, 2, n))
    saved = solve(plan.cells, problem)
    save_plan(saved, tmp_path)
    loaded = load_plan(tmp_path)
    assert loaded.primal == pytest.approx(saved.primal, rel=1e-12)
    np.testing.assert_array_equal(loaded.rates(plan.cells.s, plan.cells.y), saved.rates(plan.cells.s, plan.cells.y))


def test_certificate_catches_wrong_rates_and_prices(plan: Plan) -> None:
    assert plan.check().gap <= 1e-6
    rng = np.random.default_rng(0)
    moved = plan.q.copy()
    i, j = int(np.argmax(plan.q)), int(np.argmin(plan.q))
    p = plan.cells.counts / plan.cells.total
    moved[i] -= 0.05
    moved[j] += 0.05 * p[i] / p[j] * 0.01
    for corrupt in (
        replace(plan, q=moved),
        replace(plan, q=np.full_like(plan.q, plan.keep)),
        replace(plan, q=plan.q * 1.01),
        replace(plan, q=rng.permutation(plan.q)),
        replace(plan, v=plan.v * 0.9),
        replace(plan, v=-plan.v),
        replace(plan, mu=plan.mu + 0.01),
        replace(plan, certificate=replace(plan.certificate, dual=plan.primal * 2)),
    ):
        with pytest.raises(ValueError, match="corrupted"):
            corrupt.check()


def test_certificate_of_uniform_rates_shows_their_gap(plan: Plan) -> None:
    from balance.m4.certificate import certify_rates
    from balance.m4.system import build_system

    system = build_system(plan.cells, plan.problem)
    uniform = np.full_like(plan.q, plan.keep)
    found = certify_rates(system, uniform, plan.v, plan.mu, plan.keep, 1.0, plan.prices)
    assert found.gap > 0.5
    zero = certify_rates(system, uniform, np.zeros_like(plan.v), 0.0, plan.keep, 1.0, plan.prices)
    assert zero.dual == pytest.approx(0, abs=1e-15)
    assert np.isinf(certify_rates(system, uniform * 1.01, plan.v, plan.mu, plan.keep, 1.0, plan.prices).primal)
    assert np.isinf(certify_rates(system, uniform, plan.prices * 2, 0.0, plan.keep, 1.0, plan.prices).dual)


def test_damaged_folders_are_refused(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no plan\.json"):
        load_plan(tmp_path)
    save_plan(plan, tmp_path)
    table = pq.read_table(tmp_path / "cells.parquet")
    q = table["q"].to_numpy().copy()
    q[0] += 1e-3
    pq.write_table(table.set_column(table.column_names.index("q"), "q", pa.array(q)), tmp_path / "cells.parquet")
    with pytest.raises(UserError, match="corrupted"):
        load_plan(tmp_path)
    save_plan(plan, tmp_path)
    document = json.loads((tmp_path / "plan.json").read_text())
    document["v"][0] += 0.5
    (tmp_path / "plan.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="corrupted"):
        load_plan(tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        load_plan(tmp_path)
    save_plan(plan, tmp_path)
    (tmp_path / "cells.parquet").unlink()
    with pytest.raises(UserError, match="damaged"):
        load_plan(tmp_path)


def test_rates_of_patterns_not_seen_before(plan: Plan) -> None:
    rate = plan.rate([0.5, np.nan], [1, 1, 1, 1, 1])
    table = plan.table
    score = -0.5 * 0  # s = pi: only the tolerance's price counts
    score = sum(table[2, r] + table[4, r] for r in range(6)) + sum(0.0 * table[0, r] for r in range(6))
    assert rate == pytest.approx(float(np.clip(plan.keep - score - plan.mu, 0, 1)), abs=1e-12)
    with pytest.raises(UserError, match="this plan is for 2 attributes and 5 concepts"):
        plan.rates(np.zeros((1, 3)), np.zeros((1, 5)))


def test_summary_and_kept_shares(plan: Plan) -> None:
    cells = plan.cells
    known = ~np.isnan(cells.s).all(axis=1)
    mean = cells.counts / cells.total
    assert plan.kept.known == pytest.approx(mean[known] @ plan.q[known] / mean[known].sum())
    assert plan.kept.unknown == pytest.approx(mean[~known] @ plan.q[~known] / mean[~known].sum())
    assert plan.kept.attributes["woman"][0] == pytest.approx(plan.kept.known)
    summary = plan.summary()
    assert summary["kept_all"] == pytest.approx(0.7)
    assert summary["kept_smallest"] == min(plan.kept.concepts.values())
    ones, zeros = known & (cells.s[:, 0] == 1), known & (cells.s[:, 0] == 0)
    y = cells.y.toarray()
    ab = (
        cells.counts[ones] @ y[ones] / cells.counts[ones].sum()
        - cells.counts[zeros] @ y[zeros] / cells.counts[zeros].sum()
    )
    np.testing.assert_allclose(plan.before.association[0], ab)
    assert summary["rb_before"] == pytest.approx(np.abs(plan.before.representation - [0.5, 0.4]).max())
    assert summary["ab_proxies_before"] == pytest.approx(np.abs(plan.before.association[:, 4]).max())


def test_costs_are_slopes_of_the_optimum() -> None:
    rng = np.random.default_rng(2)
    s = (rng.random((3000, 1)) < 0.3).astype(float)
    y = rng.random((3000, 2)) < 0.2 + 0.3 * s * [1, 0.2]
    cells = Cells.from_arrays(s, y, None, ["woman"], ["a", "b"])
    problem = Problem(target={"woman": 0.5}, eps_association={"a": 0.02, "b": 0.03}, keep=0.5)
    plan = solve(cells, problem, gap=1e-12)
    step = 1e-5
    for label, saving in constraint_costs(plan):
        name = label.partition("|")[2]
        if name:
            eps = dict(problem.eps_association) | {name: problem.eps_association[name] + step}
            wider = solve(cells, replace(problem, eps_association=eps), gap=1e-12)
        else:
            wider = solve(cells, replace(problem, eps_representation=0.01 + step), gap=1e-12)
        assert (plan.primal - wider.primal) / step * 0.01 == pytest.approx(saving, rel=1e-2, abs=1e-7)


def test_effective_sample_size() -> None:
    assert effective_sample_size(np.array([10.0, 10.0]), np.array([0.5, 0.5])) == pytest.approx(20)
    assert effective_sample_size(np.array([10.0, 10.0]), np.array([1.0, 0.0])) == pytest.approx(10)
    assert effective_per_epoch(np.array([10.0, 10.0]), np.array([0.5, 0.5])) == pytest.approx(10)
    # Half of the samples twice, half once: (30)^2 / (10 * 4 + 10)
    assert effective_per_epoch(np.array([10.0, 10.0]), np.array([2.0, 1.0])) == pytest.approx(18)
    assert effective_sample_size(np.array([1.0]), np.array([0.0])) == 0
