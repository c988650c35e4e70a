"""Retrieval bias against rankings whose answer is known by hand, and against a plain loop."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balance.errors import UserError
from eval.evaluators.retrieval_bias import RetrievalBias, ranking_bias
from eval.options import stimuli
from tests.made_features import Features, data, measure


def one_ranking(ranked: list[int], k: int) -> dict[str, float]:
    found = ranking_bias(np.array([ranked]), max(ranked) + 1, [k])
    return {name: float(values[0]) for name, values in found.items()}


def test_the_best_and_the_worst_ranking_of_two_groups() -> None:
    best, worst = one_ranking([0, 1] * 50, 10), one_ranking([0] * 50 + [1] * 50, 10)
    assert best["maxskew@10_uniform"] == pytest.approx(0)
    assert worst["maxskew@10_uniform"] == pytest.approx(math.log(2))
    # Alternating: even prefixes are fair, an odd one holds (i + 1) / 2 against (i - 1) / 2.
    z = sum(1 / math.log2(i + 1) for i in range(1, 101))
    odd = sum(kl([(i + 1) / 2 / i, (i - 1) / 2 / i], [0.5, 0.5]) / math.log2(i + 1) for i in range(1, 101, 2))
    assert best["ndkl_uniform"] == pytest.approx(odd / z)
    first = sum(math.log(2) / math.log2(i + 1) for i in range(1, 51))
    rest = sum(kl([50 / i, 1 - 50 / i], [0.5, 0.5]) / math.log2(i + 1) for i in range(51, 101))
    assert worst["ndkl_uniform"] == pytest.approx((first + rest) / z)


def test_a_missing_group_counts_as_one_in_k() -> None:
    found = one_ranking([1] * 9 + [0], 4)
    # Base rate 0.1 and 0.9: the missing group has 1/4 by convention, which exceeds its share of 1/10 most.
    assert found["maxskew@4_base_rate"] == pytest.approx(math.log(0.25 / 0.1))
    assert found["maxskew@4_uniform"] == pytest.approx(math.log(2))


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


@given(st.lists(st.integers(0, 2), min_size=4, max_size=40), st.integers(1, 4))
def test_both_measures_equal_a_plain_loop(ranked: list[int], k: int) -> None:
    ranked = [0, 1, 2, *ranked]
    n = len(ranked)
    base = [ranked.count(g) / n for g in range(3)]
    found = one_ranking(ranked, k)
    for fair, desired in (("uniform", [1 / 3] * 3), ("base_rate", base)):
        top = [max(ranked[:k].count(g), 1) / k for g in range(3)]
        assert found[f"maxskew@{k}_{fair}"] == pytest.approx(
            max(math.log(a / b) for a, b in zip(top, desired, strict=True))
        )
        total = sum(
            kl([ranked[:i].count(g) / i for g in range(3)], desired) / math.log2(i + 1) for i in range(1, n + 1)
        )
        z = sum(1 / math.log2(i + 1) for i in range(1, n + 1))
        assert found[f"ndkl_{fair}"] == pytest.approx(total / z)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ranked = np.random.default_rng(0).permuted(np.tile(np.arange(30) % 3, (20, 1)), axis=1)
    whole = ranking_bias(ranked, 3, [5, 10])
    monkeypatch.setattr("eval.evaluators.retrieval_bias.BLOCK_CELLS", 200)
    parts = ranking_bias(ranked, 3, [5, 10])
    assert all(np.allclose(whole[name], parts[name], rtol=1e-12) for name in whole)


def build(labels: list[dict[str, Any]], **extra: Any) -> RetrievalBias:
    config = {"kind": "retrieval_bias", "label": "g", "concepts": ["a", "b"], "templates": ["{c}", "very {c}"], "k": 10}
    found = data(labels, keys=[str(label["id"]) for label in labels])
    return RetrievalBias("rb", {**config, **extra}, found)


TEXTS = {"a": [1.0, 0.0], "very a": [1.0, 0.1], "b": [0.0, 1.0], "very b": [0.1, 1.0]}


def test_a_model_that_ranks_by_group_and_one_that_does_not() -> None:
    labels = [{"g": "m" if i % 2 else "w", "id": i} for i in range(40)]
    apart = [[1, 0] if i % 2 else [0, 1] for i in range(40)]
    found = measure(build(labels, per_concept=True), Features(apart, TEXTS))
    assert found["rb/maxskew@10_uniform"].value == pytest.approx(math.log(2))
    assert found["rb/maxskew@10_uniform[b]"].value == pytest.approx(math.log(2))
    assert found["rb/ndkl_uniform"].value > 3 * found["rb/ndkl_uniform_chance"].value
    alike = measure(build(labels, k=40), Features([[1, 1]] * 40, TEXTS))
    # Equal scores are ranked by the pictures' own hashes, that is at random: no bias, and none beyond chance.
    assert alike["rb/ndkl_uniform"].value < 2 * alike["rb/ndkl_uniform_chance"].value
    assert alike["rb/maxskew@40_base_rate"].value == pytest.approx(0)


def test_ties_and_the_order_of_pictures_change_nothing() -> None:
    rng = np.random.default_rng(0)
    labels = [{"g": "xyz"[i % 3], "id": i} for i in range(60)]
    images = rng.integers(0, 2, (60, 2)) + 1.0
    order = rng.permutation(60)
    first = measure(build(labels), Features(images, TEXTS))
    second = measure(build([labels[i] for i in order]), Features(images[order], TEXTS))
    assert {n: m.value for n, m in first.items()} == pytest.approx({n: m.value for n, m in second.items()})


def test_the_prompts_of_the_project_are_319() -> None:
    known = stimuli("retrieval_bias")
    prompts = {t.replace("{c}", c) for t in known["templates"] for c in known["concepts"]}
    assert len(known["templates"]) == 11
    assert len(known["concepts"]) == 29
    assert len(prompts) == 319


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ({"k": 7}, "at least 1 and at most 4"),
        ({"label": "h"}, "no sample of the set set has the label 'h'"),
        ({"label": "same"}, "one group only"),
        ({"templates": ["a face"]}, "has no {c}"),
        ({"concepts": {"a": []}}, "'a' has no words"),
    ],
)
def test_bad_options_are_told(extra: dict[str, Any], sentence: str) -> None:
    labels = [{"g": i % 2, "id": i, "same": 1} for i in range(4)]
    with pytest.raises(UserError, match=sentence):
        build(labels, **{"k": 2, **extra})
