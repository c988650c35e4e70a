"""Association tests: the published effect sizes, p-values by hand, and every bad input in one sentence."""

import csv
import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from balance.common.metric import Metric
from balance.errors import UserError
from eval.evaluators.eat import Eat
from eval.evaluators.eat_permutation import count_halves, half_sums, p_value, p_values
from eval.evaluators.eat_statistics import (
    cosines,
    effect_interval,
    effect_size,
    level2,
    level3,
    single_category,
    standardised_difference,
)
from eval.evaluators.eat_stimuli import BUILT_IN, read_definitions, resolve, text_list
from eval.runner import build_suite
from eval.sets import EvalSet
from models.factory import ModelBundle, create
from tests.tiny import picture

AXES = np.eye(4)


def brute_p(x: np.ndarray, y: np.ndarray) -> float:
    """The exact p-value by listing all partitions."""
    pooled = np.concatenate([x, y])
    sums = [math.fsum(pooled[list(rows)]) for rows in itertools.combinations(range(len(pooled)), len(x))]
    return float(np.mean([value >= math.fsum(x) - 1e-9 for value in sums]))


# Published numbers


def published(shared_data: Path) -> list[tuple[dict[str, str], list[np.ndarray]]]:
    folder = shared_data / "eat"
    embeddings = np.load(folder / "ieat_embeddings_igpt.npz")
    tests = read_definitions("ieat").tests
    with open(folder / "ieat_published_results.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["Model"] == "igpt"]
    return [(row, [embeddings[side.replace("/", "__")] for side in tests[row["Test"]].sides]) for row in rows]


def test_all_39_published_effect_sizes_of_igpt(shared_data: Path) -> None:
    rows = published(shared_data)
    assert len(rows) == 39
    for row, sides in rows:
        assert effect_size(*sides) == pytest.approx(float(row["d"]), abs=2e-7), row["Test"]


def test_all_39_published_p_values_of_igpt(shared_data: Path) -> None:
    exact = 0
    for row, sides in published(shared_data):
        found = cosines(*sides)
        p, known, n = p_value(found.x, found.y), float(row["p"]), len(found.x)
        if math.comb(2 * n, n) <= 10_000:
            assert p == pytest.approx(known, abs=1e-12), row["Test"]
            exact += 1
        else:  # two samples of 10,000
            assert abs(p - known) < 4.5 * math.sqrt(2 * max(known * (1 - known), 1e-4) / 10_000), row["Test"]
    assert exact == 12


def test_the_projects_texts_are_the_published_ones(shared_data: Path) -> None:
    folder = shared_data / "eat" / "text" / "clip_bias" / "tests_nrc"
    nrc = {"pleasant_5": "nrc_pleasant", "unpleasant_5": "nrc_unpleasant"}
    for name, test in read_definitions("seat").tests.items():
        published = json.loads((folder / f"sent-{name}.jsonl").read_text(encoding="utf-8"))
        for key, side in zip(("targ1", "targ2"), test.sides, strict=False):
            own = Counter(sentence for _, sentence in text_list(side)[1])
            assert own == Counter(published[key]["examples"]), (name, side)
        if name in {"weat10", "weat11"}:
            for key, side in (("attr1", test.a), ("attr2", test.b)):
                own = Counter(sentence for _, sentence in text_list(nrc[side])[1])
                assert own == Counter(published[key]["examples"]), (name, side)


# Statistics by hand


def test_effect_size_by_hand() -> None:
    a, b = AXES[:1], AXES[1:2]
    # s = 1, 1 for X and -1, -1 for Y: difference 2, deviation sqrt(4 / 3)
    d = effect_size(np.stack([AXES[0]] * 2), np.stack([3 * AXES[1]] * 2), a, b)
    assert d == pytest.approx(2 / math.sqrt(4 / 3))
    assert effect_size(AXES[:1], AXES[:1], a, b) == 0


def test_exact_p_by_hand() -> None:
    assert p_value(np.array([1.0]), np.array([0.0])) == 0.5
    assert p_value(np.array([0.0]), np.array([1.0])) == 1.0
    assert p_value(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == pytest.approx(1 / 6)
    assert p_value(np.ones(4), np.ones(4)) == 1.0, "ties count"
    assert p_value(np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.2, 0.1])) == pytest.approx(14 / 20)


values = st.lists(st.sampled_from([-0.3, -0.1, 0.0, 0.1, 0.2, 0.7]), min_size=2, max_size=12)


@given(values)
@settings(max_examples=50)
def test_exact_p_is_what_listing_all_partitions_gives(numbers: list[float]) -> None:
    n = len(numbers) // 2
    x, y = np.array(numbers[:n]), np.array(numbers[n : 2 * n])
    assert p_value(x, y) == pytest.approx(brute_p(x, y), abs=1e-12)


def test_sampled_p_lies_at_the_exact_one() -> None:
    rng = np.random.default_rng(3)
    for n in (9, 10, 13):  # 48,620, 184,756 and 10,400,600 partitions
        x, y = rng.normal(0.2, 1, n), rng.normal(0, 1, n)
        exact, sampled = p_value(x, y, 10**8), p_value(x, y, 40_000)
        assert abs(sampled - exact) < 4.5 * math.sqrt(exact * (1 - exact) / 40_000)


def test_sampled_p_never_is_zero_and_counts_the_phantom() -> None:
    x, y = np.arange(100, 140.0), np.arange(40.0)
    assert p_value(x, y, 1000) == 1 / 1000
    assert p_value(y, x, 1000) == 1.0


def test_random_halves_are_uniform() -> None:
    """Every position as often as any other, every pair too, and each subset of a small case."""
    powers = 2.0 ** np.arange(6)[None]
    drawn = np.concatenate([sums[0] for sums in half_sums(powers, 60_000, np.random.default_rng(0))])
    subsets = Counter(drawn.astype(int).tolist())
    assert len(subsets) == 20
    assert all(subset.bit_count() == 3 for subset in subsets)
    assert stats.chisquare(list(subsets.values())).pvalue > 1e-3
    many = np.concatenate([np.eye(70), np.eye(70)[:, ::-1] + np.eye(70)])  # marks of positions, and of pairs
    sums = np.concatenate(list(half_sums(many, 20_000, np.random.default_rng(1))), axis=1)
    assert (sums[:70].sum(axis=0) == 35).all(), "a half each"
    assert np.abs(sums[:70].mean(axis=1) - 0.5).max() < 5 * 0.5 / math.sqrt(20_000)
    both = (sums[70:] == 2).mean(axis=1)
    assert np.abs(both - 35 * 34 / (70 * 69)).max() < 5 * 0.5 / math.sqrt(20_000)


def test_p_depends_on_neither_order_nor_company() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(0.3, 1, 30), rng.normal(0, 1, 30)
    alone = p_value(x, y, 5000)
    assert p_value(x[::-1], rng.permutation(y), 5000) == alone
    other = (rng.normal(size=30), rng.normal(size=30))
    assert p_values([other, (x, y), (x[:5], y[:5])], 5000)[1] == alone
    assert count_halves(np.sort(np.concatenate([x[:4], y[:4]])), -np.inf) == math.comb(8, 4)


def test_levels_by_hand() -> None:
    to_a, to_b = np.array([[0.5, 0.7], [0.3, 0.5]]), np.array([[0.1, 0.3], [0.1, 0.1]])
    # Means over the targets: 0.4, 0.6 for A and 0.1, 0.2 for B.
    found = level2(to_a, to_b)
    assert found.d == pytest.approx((0.5 - 0.15) / np.std([0.4, 0.6, 0.1, 0.2], ddof=1))
    assert found.p == pytest.approx(1 / 6)
    assert level2(to_b, to_a).p == pytest.approx(1 / 6), "in the direction of d"
    assert level2(to_a, to_b[:, :1]).p is None
    assert level3(to_a) == pytest.approx((0.5, np.std([0.5, 0.7, 0.3, 0.5], ddof=1)))
    assert single_category(to_a[0], to_b[0]) == pytest.approx(0.4 / np.std([0.5, 0.7, 0.1, 0.3], ddof=1))
    assert standardised_difference(np.ones(3), np.ones(3)) == 0


def test_interval_covers_as_often_as_it_says() -> None:
    """Large samples of one population: the interval of d holds the population's d in about 95 %."""
    rng = np.random.default_rng(0)
    a, b = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    hits = 0
    for _ in range(100):
        angles = rng.normal(0, 0.1, (2, 60)) + np.array([[math.pi / 4 - 0.05], [math.pi / 4 + 0.05]])
        x, y = (np.stack([np.cos(side), np.sin(side)], axis=1) for side in angles)
        low, high = effect_interval(cosines(x, y, a, b), rng, 300)
        # s is about -sqrt(2) (angle - 45°): means apart by 0.1, pooled deviation sqrt(0.1² + 0.05²)
        hits += low <= 0.1 / math.sqrt(0.0125) <= high
    assert hits >= 86


def test_interval_depends_on_clusters_but_not_on_order() -> None:
    rng = np.random.default_rng(2)
    x, y, a, b = (rng.normal(size=(n, 8)) for n in (12, 12, 6, 7))
    groups = np.repeat(np.arange(4), 3)
    turn = rng.permutation(12)

    def interval(rows: np.ndarray, numbers: np.ndarray | None) -> tuple[float, float]:
        return effect_interval(cosines(x[rows], y, a, b), np.random.default_rng(0), 400, (numbers, None, None, None))

    assert interval(turn, None) == pytest.approx(interval(np.arange(12), None))
    assert interval(turn, groups[turn]) == pytest.approx(interval(np.arange(12), groups))
    assert interval(turn, groups[turn]) != pytest.approx(interval(turn, None))


# Definitions


def test_built_in_tests_are_whole() -> None:
    assert {name: len(read_definitions(name).tests) for name in BUILT_IN} == {
        "ieat": 39,
        "valence26": 26,
        "weat": 17,
        "seat": 17,
    }
    orders = Counter(test.order for test in read_definitions("valence26").tests.values())
    assert orders == {"all text": 8, "text as target": 8, "image as target": 5, "all image": 5}
    for name in ("weat", "seat", "valence26"):
        definitions = read_definitions(name)
        for test in definitions.tests.values():
            texts = [side for side in (test.x, test.y) if side and "/" not in side]
            assert len({len(resolve(definitions, side, {})) for side in texts}) <= 1, "X and Y can be permuted"
            assert test.turned == (name == "valence26" and test.group == "Gender")


def test_sentences_are_put_together_rightly() -> None:
    sentences = {sentence for _, sentence in text_list("pleasant")[1]}
    assert {"This is an honor.", "Miracles are things.", "Families are things.", "There is love."} <= sentences
    assert "The men are here." in {sentence for _, sentence in text_list("male_terms")[1]}
    assert len(text_list("nrc_pleasant")[1]) == 150


# The evaluator


def folder_set(counts: dict[str, int]) -> EvalSet:
    keys = [f"{folder}/{n}.jpg" for folder, count in counts.items() for n in range(count)]
    labels = [{"rating": str(n)} for n in range(len(keys))]
    return EvalSet("pictures", [picture(n) for n in range(len(keys))], labels, [()] * len(keys), keys=keys)


class Planted:
    """An embedder that gives features planted by key or text."""

    def __init__(self, features: dict[str, np.ndarray]) -> None:
        self.features = features

    def images(self, data: EvalSet) -> torch.Tensor:
        return torch.from_numpy(np.stack([self.features[key.split("/")[0]] for key in data.keys]))

    def texts(self, texts: list[str]) -> torch.Tensor:
        return torch.from_numpy(np.stack([self.features[text.split()[0]] for text in texts]))


INLINE: dict[str, Any] = {
    "folders": "pictures",
    "stimuli": {
        "good": {"texts": ["good 1", "good 2"]},
        "bad": {"texts": ["bad 1", "bad 2"]},
        "top": {"role": "pictures", "highest": 2, "by": "rating"},
        "bottom": {"role": "pictures", "lowest": 2, "by": "rating"},
    },
    "tests": {
        "across": ["cats/a", "dogs/a", "good", "bad"],
        "back": {"x": "cats/a", "y": "dogs/a", "a": "good", "b": "bad", "turned": True},
        "rated": ["bottom", "top", "good", "bad"],
        "one": {"x": "good", "a": "top", "b": "bottom"},
    },
}
FEATURES = {
    "cats": AXES[0] + 0.0,
    "dogs": AXES[1] + 0.0,
    "good": AXES[0] + 0.0,
    "bad": AXES[1] + 0.0,
    "birds": AXES[2] + 0.0,
}


def measure(config: dict[str, Any], sets: dict[str, EvalSet]) -> tuple[Eat, dict[str, Metric]]:
    evaluator = Eat("eat", {"kind": "eat", **config}, sets)
    planted: Any = Planted(FEATURES)
    return evaluator, {metric.name: metric for metric in evaluator(planted, np.random.default_rng(0), 50)}


def test_the_evaluator_on_planted_embeddings() -> None:
    evaluator, found = measure({"tests": INLINE, "levels": True}, {"pictures": folder_set({"cats/a": 3, "dogs/a": 3})})
    full = 2 / math.sqrt(6 / 5)  # s = 1 three times, -1 three times
    assert found["eat/d[across]"].value == pytest.approx(full)
    assert found["eat/d[back]"].value == pytest.approx(-full)
    assert found["eat/p[across]"].value == pytest.approx(1 / 20)
    assert found["eat/p[back]"].value == 1
    assert found["eat/d[rated]"].value == pytest.approx(2 / math.sqrt(4 / 3)), "the lowest two are cats"
    assert found["eat/single[one]"].value == pytest.approx(-1 / math.sqrt(1 / 3))
    assert found["eat/single[one: good 1]"].value == pytest.approx(-1 / math.sqrt(1 / 3))
    assert found["eat/significant"].value == 0
    assert found["eat/level3_mean[across: cats/a, good]"].value == pytest.approx(1)
    assert found["eat/level2_d[across: dogs/a]"].value == pytest.approx(-1 / math.sqrt(1 / 3))
    assert not evaluator.skipped
    assert "across" in evaluator.pages["association tests"]
    assert evaluator.pages["Effect sizes"].startswith("<svg")


def test_missing_pictures_leave_tests_out_and_the_rest_runs() -> None:
    config = {"tests": {**INLINE, "counts": {"cats/a": 4}}}
    evaluator, found = measure(config, {"pictures": folder_set({"cats/a": 3, "birds/a": 3})})
    assert "eat/d[across]" not in found
    assert "2 of 4 tests of tests are left out (across, back)" in evaluator.skipped[0]
    assert "no pictures in dogs/a" in evaluator.skipped[0]
    assert "cats/a has 3 pictures, not the published 4" in evaluator.skipped[1]
    evaluator, found = measure({"tests": INLINE}, {})
    assert "no set is given for the role pictures" in evaluator.skipped[0]
    assert not found
    evaluator, found = measure(
        {"tests": INLINE, "only": ["across"]}, {"pictures": folder_set({"cats/a": 3, "dogs/a": 2})}
    )
    assert "cats/a has 3 and dogs/a 2" in evaluator.skipped[0]


UNEQUAL = {"stimuli": {"x": {"texts": ["a"]}, "y": {"texts": ["b", "c"]}}, "tests": {"t": ["x", "y", "x", "y"]}}
EMPTY = {"stimuli": {"x": {"texts": []}}, "tests": {"t": ["x", "x", "x", "x"]}}


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"tests": UNEQUAL}, "test t: X and Y must have equally many stimuli, but x has 1 and y 2"),
        ({"tests": EMPTY}, "'x' of tests are empty"),
        ({"tests": "nothing"}, "no tests 'nothing': name ieat"),
        ({"tests": {"tests": {"t": ["x", "y"]}}}, "test t must be"),
        ({"tests": {"tests": {"t": ["x", "y", "a", "b"]}}}, "no list of texts 'x'"),
        ({"tests": {"stimuli": {"x": {"role": "p"}}, "tests": {"t": ["x"] * 4}}}, "must have texts"),
        ({"tests": "weat", "only": ["weat1", "weat99"]}, "no test 'weat99'"),
        ({"tests": ["weat", "seat"]}, "the test 'weat1' twice"),
        ({"tests": "weat", "level": True}, "did you mean levels"),
    ],
)
def test_bad_definitions_are_told_in_a_sentence(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Eat("eat", {"kind": "eat", **config}, {})


def test_bad_embeddings_are_told_in_a_sentence() -> None:
    bad = AXES.copy()
    bad[2, 1] = np.nan
    with pytest.raises(UserError, match="Stimulus 2 of Y has an embedding with NaN"):
        cosines(AXES, bad, AXES, AXES)
    with pytest.raises(UserError, match="nothing but zeros"):
        effect_size(AXES, AXES, np.zeros((1, 4)), AXES)
    with pytest.raises(UserError, match="at least one stimulus in B"):
        effect_size(AXES, AXES, AXES, np.empty((0, 4)))
    with pytest.raises(UserError, match="it has 2 and 3"):
        p_value(np.ones(2), np.ones(3))
    with pytest.raises(UserError, match="not finite"):
        p_value(np.array([1.0, np.nan]), np.ones(2))
    with pytest.raises(UserError, match="at least one stimulus in X and in Y"):
        p_value(np.ones(0), np.ones(0))
    ratings = EvalSet("oasis", [b""], [{"other": "1"}], [()], keys=["a.jpg"])
    with pytest.raises(UserError, match=r"no label 'Valence_mean': give eval\.sets\.oasis\.labels"):
        Eat("eat", {"kind": "eat", "tests": "valence26"}, {"valence": ratings})


@pytest.fixture(scope="module")
def bundle(root: Path) -> ModelBundle:
    torch.manual_seed(0)
    wanted = yaml.safe_load((root / "conf/model/tiny.yaml").read_text())
    return create(wanted["name"], wanted["config"], wanted.get("preprocess"))


def test_a_real_model_gives_the_same_whatever_the_batches(bundle: ModelBundle, tmp_path: Path) -> None:
    for folder in ("cats/a", "dogs/a"):
        (tmp_path / folder).mkdir(parents=True)
        for n in range(4):
            (tmp_path / folder / f"{n}.jpg").write_bytes(picture(len(folder) * 10 + n + ord(folder[0])))
    tests = {"folders": "pictures", "texts": "sentences", "tests": {"t": ["cats/a", "dogs/a", "math", "arts"]}}
    evaluators = {
        "eat": {"kind": "eat", "tests": tests, "sets": {"pictures": "animals"}},
        "weat": {"kind": "eat", "tests": "weat", "only": ["weat6", "weat9"]},
    }
    results = []
    for size in (3, 256):
        suite = build_suite({"animals": {"path": str(tmp_path)}}, evaluators, 100, size)
        metrics = suite.run(bundle, torch.device("cpu"))
        results.append({m.name: m.value for m in metrics if m.name != "eval/seconds"})
    assert results[0] == pytest.approx(results[1], abs=1e-4)
    assert {"eat/d[t]", "eat/p[t]", "weat/d[weat6]", "weat/p[weat9]"} <= set(results[0])
