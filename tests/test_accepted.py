"""What was accepted is held against the plan: a right sampler passes, a wrong one is seen."""

import numpy as np
import pytest

from balance import Cells, Problem, solve
from balance.prepare import Balance
from balance.stream.accepted import AcceptedMoments, over_processes
from balance.stream.balanced import Rates, uniform_rates

SAMPLES = 4000


def people() -> tuple[np.ndarray, np.ndarray]:
    """Gender (a fifth unknown) and two jobs that lean the two ways: s (n, 1), y (n, 2)."""
    rng = np.random.default_rng(5)
    job = rng.integers(0, 3, SAMPLES)
    s = (rng.random(SAMPLES) < np.array([0.75, 0.2, 0.35])[job]).astype(np.float32)
    s[rng.random(SAMPLES) < 0.2] = np.nan
    return s[:, None], np.stack([job == 0, job == 1], axis=1).astype(np.uint8)


@pytest.fixture(scope="module")
def prepared() -> Balance:
    s, y = people()
    cells = Cells.from_arrays(s, y, None, ["woman"], ["nurse", "chef"])
    plan = solve(cells, Problem(target={"woman": 0.5}, keep=0.6, eps_association=0.01))
    known = plan.moments_before[1:2, 1:] * cells.total
    names = cells.s_names, cells.y_names
    return Balance([], plan.rates, SAMPLES, *names, "hash", plan.before, plan.after, plan, known)


def accepted_at(rates: Rates, seed: int, weights: bool = False) -> AcceptedMoments:
    """What a sampler lets through that accepts at some rates; or everything, weighted by them."""
    s, y = people()
    found = AcceptedMoments(["woman"], ["nurse", "chef"])
    rate = rates(s, y)
    if weights:
        found.add(s, y, rate.astype(np.float32))
    else:
        drawn = np.random.default_rng(seed).random(SAMPLES) < rate
        found.add(s[drawn], y[drawn])
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_sampler_that_follows_the_plan_deviates_by_chance_alone(prepared: Balance, seed: int) -> None:
    found = prepared.compare(accepted_at(prepared.rates, seed))
    assert 0 < found["largest_deviation"] < 4
    assert found["planned_share[woman]"] == pytest.approx(0.5, abs=0.02)
    assert found["share[woman]"] == pytest.approx(found["planned_share[woman]"], abs=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_one_that_does_not_is_seen(prepared: Balance, seed: int) -> None:
    found = prepared.compare(accepted_at(uniform_rates, seed))
    assert found["largest_deviation"] > 8
    assert found["share[woman]"] < found["planned_share[woman]"] - 0.03


def test_the_deviation_is_in_standard_errors(prepared: Balance) -> None:
    accepted = AcceptedMoments(["woman"], ["nurse", "chef"])
    planned = prepared.after.concept_share[0, 0]
    women = round(planned * 400) + 60
    s = np.r_[np.ones(women), np.zeros(400 - women), np.full(50, np.nan)].astype(np.float32)[:, None]
    y = np.tile(np.array([1, 0], np.uint8), (450, 1))  # fifty of unknown gender count for nothing
    accepted.add(s, y)
    expected = (women / 400 - planned) / np.sqrt(planned * (1 - planned) / 400)
    assert prepared.compare(accepted)["largest_deviation"] == pytest.approx(expected)


def test_concepts_of_few_samples_are_not_judged(prepared: Balance) -> None:
    accepted = AcceptedMoments(["woman"], ["nurse", "chef"])
    accepted.add(np.ones((20, 1), np.float32), np.tile(np.array([1, 0], np.uint8), (20, 1)))
    assert "largest_deviation" not in prepared.compare(accepted)


def test_weights_count_as_the_samples_that_they_stand_for(prepared: Balance) -> None:
    found = prepared.compare(accepted_at(prepared.rates, 0, weights=True))
    assert found["share[woman]"] == pytest.approx(found["planned_share[woman]"], abs=1e-6)
    assert found["largest_deviation"] < 1e-3


def test_processes_add_up_to_one(prepared: Balance) -> None:
    s, y = people()
    parts = []
    for share in np.array_split(np.arange(SAMPLES), 3):
        part = AcceptedMoments(["woman"], ["nurse", "chef"])
        part.add(s[share], y[share])
        parts.append(part)
    whole = over_processes(parts[0], lambda mine: [part.sums() for part in parts])
    assert prepared.compare(whole) == pytest.approx(prepared.compare(accepted_at(uniform_rates, 0)))
