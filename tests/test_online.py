"""Streams: the online table converges to the offline plan, merges over workers, follows drift; the paper's updates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from balance import Cells, Problem, solve
from balance.errors import UserError
from balance.m4.online import OnlineBalancer
from balance.m4.stochastic import PaperUpdates

NAMES: dict[str, Any] = {"s_names": ["woman"], "y_names": ["a", "b", "c"]}
PROBLEM = Problem(target={"woman": 0.5}, keep=0.5)


def batch(rng: np.random.Generator, n: int, women: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    s = (rng.random((n, 1)) < women).astype(float)
    y = (rng.random((n, 3)) < np.where(s > 0, [0.4, 0.1, 0.2], [0.1, 0.3, 0.2])).astype(np.uint8)
    s[rng.random(n) < 0.2] = np.nan
    return s, y


def all_patterns() -> tuple[np.ndarray, np.ndarray]:
    grid = np.array([[s, a, b, c] for s in (0, 1, np.nan) for a in (0, 1) for b in (0, 1) for c in (0, 1)])
    return grid[:, :1], grid[:, 1:].astype(np.uint8)


def test_converges_to_the_offline_plan() -> None:
    rng = np.random.default_rng(0)
    online = OnlineBalancer(PROBLEM, **NAMES, every=2000)
    s, y = batch(rng, 40_000)
    solves = 0
    for start in range(0, len(s), 500):
        online.observe(s[start : start + 500], y[start : start + 500])
        solves += online.sync()
    assert solves == 20
    offline = solve(Cells.from_arrays(s, y, None, **NAMES), PROBLEM)
    assert online.table is not None
    assert online.table.hash == offline.cells.hash
    grid = all_patterns()
    np.testing.assert_allclose(online.rates(*grid), offline.rates(*grid), atol=1e-4)


def test_before_the_first_solve_rates_are_uniform() -> None:
    online = OnlineBalancer(PROBLEM, **NAMES, every=100)
    s, y = batch(np.random.default_rng(0), 10)
    np.testing.assert_array_equal(online.observe(s, y), 0.5)
    assert not online.sync()
    assert OnlineBalancer(Problem(target={"woman": 0.5}, keep="auto"), **NAMES).rates(s, y).tolist() == [1.0] * 10
    # Nothing known yet: nothing to balance, whatever the number of samples.
    unknown = OnlineBalancer(PROBLEM, **NAMES, every=5)
    unknown.observe(np.full((10, 1), np.nan), y)
    assert not unknown.sync()


def test_workers_and_ranks_agree_with_one() -> None:
    rng = np.random.default_rng(1)
    s, y = batch(rng, 8000)
    single = OnlineBalancer(PROBLEM, **NAMES, every=4000)
    parts: list[Cells | None] = []
    workers = [OnlineBalancer(PROBLEM, **NAMES, every=4000, gather=lambda _: parts) for _ in range(3)]
    for start in range(0, 8000, 4000):
        rows = slice(start, start + 4000)
        single.observe(s[rows], y[rows])
        single.sync()
        for i, worker in enumerate(workers):
            worker.observe(s[rows][i::3], y[rows][i::3])
        parts[:] = [worker.take_new() for worker in workers]
        assert all(worker.sync() for worker in workers)
    assert single.plan is not None
    for worker in workers:
        assert worker.plan is not None
        assert worker.plan.hash == workers[0].plan.hash  # type: ignore[union-attr]
        assert worker.table is not None
        assert single.table is not None
        assert worker.table.hash == single.table.hash
        np.testing.assert_allclose(worker.plan.q, single.plan.q, atol=1e-6)


def test_follows_a_drifting_stream() -> None:
    rng = np.random.default_rng(2)
    forgetful = OnlineBalancer(PROBLEM, **NAMES, every=1000, half_life=2000)
    stubborn = OnlineBalancer(PROBLEM, **NAMES, every=1000)
    for step in range(60):
        part = batch(rng, 500, women=0.3 if step < 30 else 0.7)
        for online in (forgetful, stubborn):
            online.observe(*part)
            online.sync()
    s, y = batch(rng, 20_000, women=0.7)
    known = ~np.isnan(s[:, 0])

    def gap(online: OnlineBalancer) -> float:
        q = online.rates(s, y)
        return abs(float(q[known] @ s[known, 0] / q[known].sum()) - 0.5)

    assert gap(forgetful) < 0.04
    assert gap(stubborn) > 0.1


def test_resumes_where_it_stopped() -> None:
    rng = np.random.default_rng(3)
    parts = [batch(rng, 700) for _ in range(6)]
    online = OnlineBalancer(PROBLEM, **NAMES, every=1000)
    for part in parts[:4]:
        online.observe(*part)
        online.sync()
    resumed = OnlineBalancer(PROBLEM, **NAMES, every=1000)
    resumed.load_state_dict(online.state_dict())
    for part in parts[4:]:
        np.testing.assert_array_equal(resumed.observe(*part), online.observe(*part))
        assert resumed.sync() == online.sync()
    assert resumed.table is not None
    assert online.table is not None
    assert resumed.table.hash == online.table.hash
    fresh = OnlineBalancer(PROBLEM, **NAMES)
    fresh.load_state_dict(OnlineBalancer(PROBLEM, **NAMES).state_dict())
    assert fresh.plan is None


def test_stochastic_updates_come_near_the_exact_plan() -> None:
    s, y = batch(np.random.default_rng(4), 20_000)
    cells = Cells.from_arrays(s, y, None, **NAMES)
    exact = solve(cells, PROBLEM)
    rough = solve(cells, PROBLEM, "stochastic", samples=60_000, batch=100)
    assert float(cells.counts @ rough.q) / cells.total == pytest.approx(0.5, abs=1e-9)
    distance = np.sqrt(cells.counts @ (rough.q - exact.q) ** 2 / cells.total)
    uniform = np.sqrt(cells.counts @ (0.5 - exact.q) ** 2 / cells.total)
    assert distance < 0.15 * uniform
    assert rough.dual <= exact.primal
    assert rough.primal >= exact.dual
    assert rough.gap > exact.gap


def test_stochastic_updates_on_an_open_stream() -> None:
    rng = np.random.default_rng(5)
    updates = PaperUpdates(PROBLEM, **NAMES)
    for _ in range(800):
        updates.update(*batch(rng, 100))
    s, y = batch(rng, 30_000)
    exact = solve(Cells.from_arrays(s, y, None, **NAMES), PROBLEM)
    assert np.sqrt(np.mean((updates.rates(s, y) - exact.rates(s, y)) ** 2)) < 0.05
    with pytest.raises(UserError, match="needs a number for keep"):
        PaperUpdates(Problem(target={"woman": 0.5}, keep="auto"), **NAMES)
    with pytest.raises(UserError, match="target 'data' needs the data"):
        PaperUpdates(Problem(target={"woman": "data"}), **NAMES)
    with pytest.raises(UserError, match="has no option 'stepp'"):
        solve(exact.cells, PROBLEM, "stochastic", stepp=1.0)
