import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, fisher_exact

from balance import Cells, Problem, solve
from balance.audit import data_bias
from balance.changes import compare
from balance.errors import UserError
from balance.intersections import intersections
from balance.intervals import (
    adjust_p_values,
    clopper_pearson,
    difference_p_values,
    largest_by_chance,
    newcombe,
)
from balance.labels.annotate import annotate_shards
from balance.labels.attributes import build_annotator
from balance.m4.counting import count_parquet
from balance.m4.planfile import save_plan
from scripts.audit import main
from tests.commands import start
from tests.shard_tools import write_tar

NAN = np.nan


def small() -> Cells:
    """100 samples: 60 men (6 nurses), 20 women (10 nurses, 10 doctors), 20 unknown (all doctors)."""
    s = [[0], [0], [1], [1], [NAN]]
    y = [[1, 0], [0, 0], [1, 0], [0, 1], [0, 1]]
    return Cells.from_arrays(s, y, [6, 54, 10, 10, 20], ["woman"], ["nurse", "doctor"])


def test_known_answers() -> None:
    bias = data_bias(small())
    assert bias.rb.value[0] == pytest.approx(0.5 - 20 / 80)
    assert bias.unknown[0] == pytest.approx(0.2)
    np.testing.assert_allclose(bias.association.value, [[10 / 20 - 6 / 60, 10 / 20 - 0 / 60]])
    assert bias.ab.value[0] == pytest.approx(0.5)
    np.testing.assert_allclose(bias.concept_share.value, [[10 / 16, 1.0]])
    assert bias.concept_count.tolist() == [16, 30]
    assert bias.known_count.tolist() == [[16, 10]]
    assert bias.effective == pytest.approx(100)
    assert bias.tests == 2
    assert bias.order() == [(0, 1), (0, 0)]
    assert bias.exact


def test_what_is_not_sure_comes_after_what_is() -> None:
    bias = data_bias(small())
    assert abs(bias.association.value[0, 1]) > abs(bias.association.value[0, 0])
    unsure = replace(bias, p_adjusted=np.array([[0.01, 0.2]]))
    assert unsure.order() == [(0, 0), (0, 1)]
    assert replace(bias, p_adjusted=np.array([[np.nan, 0.2]])).order() == [(0, 1), (0, 0)]


def test_of_what_is_not_sure_few_samples_come_last() -> None:
    """Three samples with a difference of 1 do not stand before hundreds with one of 0.1."""
    rng = np.random.default_rng(0)
    woman = np.arange(2000) % 2 == 0
    job = rng.random(2000) < np.where(woman, 0.11, 0.10)
    rare = np.isin(np.arange(2000), (0, 2, 4))
    cells = Cells.from_arrays(woman[:, None], np.stack([job, rare], axis=1), None, ["woman"], ["job", "rare"])
    bias = replace(data_bias(cells), p_adjusted=np.array([[0.4, 1.0]]))
    large = replace(bias, association=replace(bias.association, value=np.array([[0.01, 0.5]])))
    assert large.order() == [(0, 0), (0, 1)]
    assert replace(large, p_adjusted=np.array([[0.4, 0.01]])).order() == [(0, 1), (0, 0)], "sure in spite of few"


def test_exact_intervals_and_tests() -> None:
    bias = data_bias(small())
    expected = binomtest(20, 80).proportion_ci(0.95, "exact")
    assert (bias.representation.low[0], bias.representation.high[0]) == pytest.approx((expected.low, expected.high))
    expected = binomtest(10, 16).proportion_ci(0.95, "exact")
    assert bias.concept_share.low[0, 0] == pytest.approx(expected.low)
    assert bias.p[0, 0] == pytest.approx(fisher_exact([[10, 10], [6, 54]]).pvalue)
    np.testing.assert_allclose(bias.p_adjusted[0], np.maximum.accumulate(np.sort(bias.p[0]) * [2, 1])[::-1], rtol=1e-9)


def test_newcombe_against_his_paper() -> None:
    # Newcombe 1998, table II, method 10: 56/70 - 48/80, 9/10 - 3/10, 10/10 - 0/10.
    counts = np.array([[56.0, 9, 10], [70, 10, 10], [48, 3, 0], [80, 10, 10]])
    low, high = newcombe(*counts, 0.95)
    np.testing.assert_allclose(low, [0.0524, 0.1705, 0.6075], atol=1e-4)
    np.testing.assert_allclose(high, [0.3339, 0.8090, 1.0], atol=1e-4)


@given(st.integers(0, 40), st.integers(0, 40))
def test_clopper_pearson_is_scipys(successes: int, more: int) -> None:
    trials = successes + more
    low, high = clopper_pearson(np.array([float(successes)]), np.array([float(trials)]), 0.9)
    if trials == 0:
        assert np.isnan(low[0])
    else:
        expected = binomtest(successes, trials).proportion_ci(0.9, "exact")
        np.testing.assert_allclose([low[0], high[0]], [expected.low, expected.high], atol=1e-12)


def test_p_values_by_size() -> None:
    one = np.array([3.0, 300.0]), np.array([5.0, 1000.0]), np.array([1.0, 250.0]), np.array([9.0, 1000.0])
    p = difference_p_values(*one)
    assert p[0] == pytest.approx(fisher_exact([[3, 2], [1, 8]]).pvalue)
    assert p[1] == pytest.approx(0.01229, abs=1e-4)  # pooled z = 2.504
    np.testing.assert_allclose(adjust_p_values(np.array([0.01, NAN, 0.04, 0.03])), [0.03, NAN, 0.04, 0.04])


def test_largest_by_chance() -> None:
    rng = np.random.default_rng(0)
    errors = np.array([0.01, 0.03, 0.02, 0.0, NAN])
    largest = np.abs(rng.normal(0, errors[:3], (20_000, 3))).max(axis=1)
    assert largest_by_chance(errors, 0.95) == pytest.approx(np.quantile(largest, 0.95), rel=0.03)
    assert largest_by_chance(errors[3:], 0.95) == 0


def random_cells(seed: int, n: int = 4000, soft: bool = False) -> Cells:
    rng = np.random.default_rng(seed)
    woman = (rng.random(n) < 0.3).astype(float)
    old = (rng.random(n) < 0.2 + 0.2 * woman).astype(float)
    y = np.column_stack([rng.random(n) < 0.05 + 0.2 * woman, rng.random(n) < 0.3 - 0.1 * woman, rng.random(n) < 0.1])
    s = np.column_stack([woman, old])
    if soft:
        s[:, 0] = np.where(woman == 1, 0.9, 0.2)
    s[rng.random(n) < 0.1, 0] = NAN
    names = ["nurse", "cook", "dress"]
    return Cells.from_arrays(s, y.astype(np.uint8), None, ["woman", "old"], names, proxies=["dress"])


@pytest.mark.parametrize("soft", [False, True])
def test_agrees_with_the_solvers_own_moments(soft: bool) -> None:
    cells = random_cells(1, soft=soft)
    plan = solve(cells, Problem(target={"woman": 0.5, "old": 0.4}, keep=0.5))
    for rates, moments in ((None, plan.before), (plan.q, plan.after)):
        bias = data_bias(cells, rates, {"woman": 0.5, "old": 0.4})
        assert bias.rb.value[0] == pytest.approx(moments.representation_bias)
        assert bias.ab.value[0] == pytest.approx(moments.association_bias)
        assert bias.ab_proxies.value[0] == pytest.approx(moments.proxy_association_bias)
        np.testing.assert_allclose(bias.concept_share.value, moments.concept_share)
    assert bias.effective == pytest.approx(plan.effective_sample_size)


def test_bootstrap_intervals_are_near_the_exact_ones() -> None:
    cells = random_cells(2)
    exact = data_bias(cells, resamples=400)
    resampled = data_bias(cells, np.ones(len(cells)), resamples=400)
    assert exact.exact
    assert not resampled.exact
    for name in ("representation", "concept_share", "association"):
        one, two = getattr(exact, name), getattr(resampled, name)
        np.testing.assert_allclose(one.value, two.value)
        np.testing.assert_allclose(one.high - one.low, two.high - two.low, rtol=0.25)


def test_columns_without_a_wanted_share_are_measured_against_the_data() -> None:
    s = [[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1]]
    cells = Cells.from_arrays(s, [[1], [0], [0], [0]], [1, 1, 1, 7], ["woman", "age=young", "age=old"], ["nurse"])
    bias = data_bias(cells)
    assert bias.wanted.tolist() == [True, False, False]
    np.testing.assert_allclose(bias.pi, [0.5, 0.2, 0.8])
    assert data_bias(cells, target={"age=old": 0.5}).rb.value[0] == pytest.approx(0.3)
    only = Cells.from_arrays(np.array(s)[:, 1:], [[1], [0], [0], [0]], None, ["age=young", "age=old"], ["nurse"])
    assert data_bias(only).wanted.all()


def test_intersections() -> None:
    s = [[1, 1], [1, 0], [0, 1], [0, 0], [NAN, 1]]
    cells = Cells.from_arrays(s, np.zeros((5, 1)), [30, 10, 20, 40, 1000], ["woman", "old"], ["nurse"])
    found = {one.names: one for one in intersections(cells)}
    one = found["woman", "old"]
    assert (one.share, one.count) == pytest.approx((0.3, 30))
    assert one.independent == pytest.approx(0.4 * 0.5)
    assert one.low < 0.3 < one.high
    assert len(found) == 4


def test_comparison_finds_what_changed_and_nothing_else() -> None:
    a, b = data_bias(random_cells(3)), data_bias(random_cells(4))
    assert min(change.p_adjusted for change in compare(a, b)) > 0.05
    cells = random_cells(5)
    nurses = cells.y[:, [0]].toarray()[:, 0] == 1
    fewer = Cells.from_arrays(
        cells.s, cells.y, np.where(nurses & (cells.s[:, 0] == 1), np.ceil(cells.counts / 8), cells.counts),
        cells.s_names, cells.y_names,
    )  # fmt: skip
    first = compare(a, data_bias(fewer))[0]
    assert (first.attribute, first.concept) == ("woman", "nurse")
    assert first.p_adjusted < 1e-3
    assert first.difference < 0
    with pytest.raises(UserError, match="no attribute in common"):
        compare(a, data_bias(Cells.from_arrays([[1.0]], [[1]], None, ["other"], ["nurse"])))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_sums_hold_for_any_data(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 12))
    s = rng.integers(0, 2, (n, 2)).astype(float)
    s[rng.random((n, 2)) < 0.3] = NAN
    cells = Cells.from_arrays(s, rng.integers(0, 2, (n, 3)), rng.integers(1, 9, n))
    bias = data_bias(cells, resamples=100)
    for one in (bias.representation, bias.concept_share):
        known = np.isfinite(one.value)
        assert (one.value[known] >= one.low[known] - 1e-12).all()
        assert (one.value[known] <= one.high[known] + 1e-12).all()
    assert ((bias.p[np.isfinite(bias.p)] >= 0) & (bias.p[np.isfinite(bias.p)] <= 1)).all()


def test_bad_input() -> None:
    with pytest.raises(UserError, match=r"'women'.*these are: woman"):
        data_bias(small(), target={"women": 0.5})
    with pytest.raises(UserError, match=r"woman=1.5 must lie"):
        data_bias(small(), target={"woman": 1.5})
    with pytest.raises(UserError, match="too few"):
        data_bias(small(), resamples=10)


def annotated(tmp_path: Path, women: int) -> Path:
    captions = ["a woman nurse"] * women + ["a man"] * 30 + ["a nurse, a man"] * 5 + ["a dog"] * 10
    url = write_tar(tmp_path / f"{women}.tar", [{"key": f"{i}", "caption": c} for i, c in enumerate(captions)])
    source = {"kind": "captions", "attributes": ["gender", "age_group"], "concepts": ["occupations", "objects"]}
    config = {"sources": [source]}
    annotate_shards([str(url)], build_annotator(config), tmp_path / f"attributes-{women}", progress=False)
    return tmp_path / f"attributes-{women}"


def test_the_command_before_and_after_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = annotated(tmp_path, 20)
    save_plan(solve(count_parquet(str(folder)), Problem(target={"woman": 0.5}, keep=0.6)), tmp_path / "plan")
    main([str(folder), f"plan={tmp_path}/plan", f"out={tmp_path}/audit", "bootstrap=100"])
    assert "RB (woman)" in capsys.readouterr().out
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert "<svg" in page
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", page), "the page must hold all it shows"
    rows = list(csv.DictReader((tmp_path / "audit" / "associations.csv").read_text().splitlines()))
    nurse = next(row for row in rows if row["concept"] == "nurse" and row["attribute"] == "woman")
    assert float(nurse["share"]) == pytest.approx(20 / 25)
    assert float(nurse["share_after"]) < 0.76
    assert {"attributes.csv", "intersections.csv"} <= {path.name for path in (tmp_path / "audit").iterdir()}


def test_the_command_compares_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(annotated(tmp_path, 30)), str(annotated(tmp_path, 5)), f"out={tmp_path}/audit"])
    assert "Surest of" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "audit" / "changes.csv").read_text().splitlines()))
    assert rows[0]["attribute"] == "woman"
    assert float(rows[0]["p_adjusted"]) < 0.05


def test_the_command_tells_what_is_wrong(tmp_path: Path) -> None:
    done = start("scripts/audit.py", str(tmp_path / "nothing"), f"out={tmp_path}/audit")
    assert done.returncode == 2
    assert "no attribute files" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_concepts_and_no_bias() -> None:
    cells = Cells.from_arrays([[0.0], [1.0]], np.zeros((2, 0)), [500, 500], ["woman"], [])
    bias = data_bias(cells)
    assert (bias.rb.value[0], bias.rb.low[0]) == (0, 0)
    assert 0 < bias.rb.high[0] < 0.05
    assert np.isnan(bias.ab.value[0])
    assert bias.order() == []
