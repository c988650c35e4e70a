"""Evaluators against answers known by hand, on constructed features."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from balance.errors import UserError
from eval.association import Association
from eval.parity import Parity
from eval.retrieval import Retrieval, best_ranks
from eval.sets import EvalSet
from eval.stats import bootstrap_means, mean_interval, statistic_interval
from eval.zeroshot import ZeroShot


class Features:
    """Stands in for `Embedder`: features are given, not computed."""

    def __init__(self, images: Any, texts: dict[str, Sequence[float]], scale: float = 100.0) -> None:
        self._images = F.normalize(torch.as_tensor(np.asarray(images, np.float32)), dim=1)
        self._texts = {text: F.normalize(torch.tensor(row, dtype=torch.float32), dim=0) for text, row in texts.items()}
        self.scale = scale

    def images(self, data: EvalSet) -> torch.Tensor:
        return self._images

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.stack([self._texts[text] for text in texts])

    def prompts(self, classes: Sequence[Sequence[str]]) -> torch.Tensor:
        return torch.stack([F.normalize(self.texts(prompts).mean(dim=0), dim=0) for prompts in classes])

    def probabilities(self, images: torch.Tensor, classes: Sequence[Sequence[str]]) -> torch.Tensor:
        return (self.scale * images.double() @ self.prompts(classes).double().T).softmax(dim=1)


def data(labels: list[dict[str, Any]], captions: list[tuple[str, ...]] | None = None, **extra: Any) -> EvalSet:
    return EvalSet("set", [b""] * len(labels), labels, captions or [()] * len(labels), **extra)


def measure(evaluator: Any, features: Features) -> dict[str, Any]:
    return {metric.name: metric for metric in evaluator(features, np.random.default_rng(0), 200)}


AXES = {"man": [1.0, 0.0], "woman": [0.0, 1.0]}
PROMPTS = {"man": "man", "woman": "woman"}


@pytest.mark.parametrize(("direction", "answer"), [([1, 0], 1.0), ([0, 1], -1.0), ([1, 1], 0.0)])
def test_parity_of_extremes(direction: list[int], answer: float) -> None:
    found = measure(
        Parity("rb", {"kind": "parity", "prompts": PROMPTS}, data([{}] * 10)), Features([direction] * 10, AXES)
    )
    assert found["rb/mean_parity"].value == pytest.approx(answer, abs=1e-9)
    assert found["rb/share"].value == pytest.approx(abs(answer) / 2)
    assert found["rb/mean_parity"].count == 10


def test_parity_by_label_and_over_many_groups() -> None:
    images = [[1, 0]] * 3 + [[0, 1]] * 5
    labels = [{"race": "A"}] * 3 + [{"race": "B"}] * 5
    found = measure(
        Parity("rb", {"kind": "parity", "prompts": PROMPTS, "by": "race"}, data(labels)), Features(images, AXES)
    )
    assert found["rb/mean_parity[race=A]"].value == pytest.approx(1)
    assert found["rb/mean_parity[race=B]"].value == pytest.approx(-1)
    assert found["rb/mean_parity"].value == pytest.approx(-2 / 8)
    three = {"a": [1.0, 0, 0], "b": [0, 1.0, 0], "c": [0, 0, 1.0]}
    prompts = {name: name for name in three}
    found = measure(
        Parity("rb", {"kind": "parity", "prompts": prompts}, data([{}] * 4)), Features([[1, 0, 0]] * 4, three)
    )
    assert found["rb/rb"].value == pytest.approx(2 / 3)


def association(concepts: list[str], labels: list[dict[str, Any]], **extra: Any) -> Association:
    options = {
        "kind": "association",
        "label": "g",
        "positive": 1,
        "negative": 0,
        "concepts": concepts,
        "templates": ["{c}"],
    }
    return Association("ab", {**options, **extra}, data(labels))


def test_association_of_one_and_of_none() -> None:
    texts = {"nurse": [1.0, 0.0], "doctor": [0.0, 1.0]}
    labels = [{"g": 1}] * 5 + [{"g": 0}] * 7
    apart = measure(association(["nurse", "doctor"], labels), Features([[1, 0]] * 5 + [[0, 1]] * 7, texts))
    assert apart["ab/max"].value == pytest.approx(1)
    assert apart["ab/difference[nurse]"].value == pytest.approx(1)
    assert apart["ab/difference[doctor]"].value == pytest.approx(-1)
    alike = measure(association(["nurse", "doctor"], labels), Features([[1, 2]] * 12, texts))
    assert alike["ab/max"].value == pytest.approx(0, abs=1e-9)


def test_association_is_a_difference_of_means_and_pairs_are_their_own_softmax() -> None:
    texts = {"a": [1.0, 0, 0], "b": [0, 1.0, 0], "c": [0, 0, 1.0]}
    images = np.random.default_rng(0).normal(size=(40, 3))
    labels = [{"g": int(i % 3 == 0)} for i in range(40)]
    features = Features(images, texts, scale=3.0)
    found = measure(association(list(texts), labels, pairs=[["a", "b"]]), features)
    p = features.probabilities(features.images(data(labels)), [["a"], ["b"], ["c"]]).numpy()
    one = np.array([label["g"] for label in labels]) == 1
    expected = p[one].mean(axis=0) - p[~one].mean(axis=0)
    assert found["ab/max"].value == pytest.approx(np.abs(expected).max())
    pair = p[:, 0] / (p[:, 0] + p[:, 1])
    assert found["ab/pair[a/b]"].value == pytest.approx(pair[one].mean() - pair[~one].mean())
    assert found["ab/max"].low <= found["ab/max"].value <= found["ab/max"].high


def test_zero_shot_counts_and_ties_give_no_credit() -> None:
    texts = {name: list(row) for name, row in zip("abcdefg", np.eye(7), strict=True)}
    labels = [{"job": "a"}, {"job": "a"}, {"job": "a"}, {"job": "b"}, {"job": None}]
    images = [np.eye(7)[0], np.eye(7)[0], np.eye(7)[1], np.eye(7)[1], np.eye(7)[2]]
    evaluator = ZeroShot(
        "z", {"kind": "zeroshot", "label": "job", "classes": list(texts), "templates": ["{c}"]}, data(labels)
    )
    found = measure(evaluator, Features(images, texts))
    assert found["z/top1"].value == pytest.approx(3 / 4)
    assert found["z/top1"].count == 4
    assert found["z/mean_per_class"].value == pytest.approx((2 / 3 + 1) / 2)
    constant = measure(evaluator, Features([np.ones(7)] * 5, texts))
    assert constant["z/top1"].value == 0


def test_zero_shot_reads_the_benchmark_layout() -> None:
    labels = [{"cls": 1}, {"cls": 0}]
    found = data(labels, classnames=["cat", "dog"], templates=["a {c}."])
    features = Features([[0, 1], [1, 0]], {"a cat.": [1.0, 0], "a dog.": [0, 1.0]})
    assert measure(ZeroShot("z", {"kind": "zeroshot"}, found), features)["z/top1"].value == 1


def test_recall_of_a_perfect_and_of_a_constant_model() -> None:
    captions = [("a", "b"), ("c",), ("d", "e")]
    texts = {"a": [1.0, 0, 0], "b": [0.9, 0.1, 0], "c": [0, 1.0, 0], "d": [0, 0, 1.0], "e": [0, 0.1, 0.9]}
    evaluator = Retrieval("r", {"kind": "retrieval"}, data([{}] * 3, captions))
    perfect = measure(evaluator, Features(np.eye(3), texts))
    assert perfect["r/image_to_text_r1"].value == perfect["r/text_to_image_r1"].value == 1
    assert perfect["r/text_to_image_r1"].count == 5
    constant = measure(evaluator, Features(np.ones((3, 3)), {key: [1.0, 1.0, 1.0] for key in texts}))
    assert constant["r/image_to_text_r1"].value == constant["r/text_to_image_r1"].value == 0


def test_a_caption_shared_by_two_pictures_matches_both() -> None:
    evaluator = Retrieval("r", {"kind": "retrieval"}, data([{}] * 2, [("same",), ("same",)]))
    found = measure(evaluator, Features([[1, 0], [0, 1]], {"same": [1.0, 0.2]}))
    assert found["r/image_to_text_r1"].value == 1


def test_ranks_equal_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.retrieval.BLOCK", 7)
    rng = np.random.default_rng(1)
    queries, items = torch.tensor(rng.normal(size=(20, 4))), torch.tensor(rng.normal(size=(30, 4)))
    pairs = [(int(q), int(i)) for q in range(20) for i in rng.choice(30, 3, replace=False)]
    ranks = best_ranks(queries, items, *(torch.tensor(c) for c in zip(*pairs, strict=True)))
    for q in range(20):
        order = (queries[q] @ items.T).argsort(descending=True).tolist()
        assert ranks[q] == min(order.index(i) for p, i in pairs if p == q)


def test_the_bootstrap_covers_and_is_stratified() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        _, low, high = mean_interval(rng.normal(size=50), rng, 300)
        covered += low <= 0 <= high
    assert 175 <= covered <= 200
    groups = [np.zeros((5, 1)), np.ones((7, 1))]
    assert all((draws == value).all() for draws, value in zip(bootstrap_means(groups, rng, 50), (0, 1), strict=True))
    value, low, high = statistic_interval(groups, lambda m: m[1] - m[0], rng, 50)
    assert value == low == high == 1


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Parity("p", {"kind": "parity", "prompts": {"a": "x"}}, data([{}])), "at least 2 groups"),
        (lambda: Parity("p", {"kind": "parity"}, data([{}])), "prompts must be given"),
        (lambda: Parity("p", {"kind": "parity", "prompts": PROMPTS, "bye": 1}, data([{}])), "did you mean by"),
        (lambda: Parity("p", {"kind": "parity", "prompts": PROMPTS, "by": "x"}, data([{"y": 1}])), "it has y"),
        (lambda: association(["a"], [{"g": 1}, {"g": 0}]), "at least two concepts"),
        (lambda: association(["a", "b"], [{"g": 1}]), "has g=0"),
        (lambda: association(["a", "b"], [{"g": 1}, {"g": 0}], templates=["x"]), "has no {c}"),
        (lambda: ZeroShot("z", {"kind": "zeroshot", "label": "j"}, data([{"j": "a"}])), "no classnames.txt"),
        (lambda: ZeroShot("z", {"kind": "zeroshot", "label": "j", "classes": ["b"]}, data([{"j": "a"}])), "among its"),
        (lambda: Retrieval("r", {"kind": "retrieval"}, data([{}])), "no captions"),
    ],
)
def test_bad_options_are_told(build: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build()


def test_metrics_are_json(tmp_path: Any) -> None:
    found = measure(Parity("rb", {"kind": "parity", "prompts": PROMPTS}, data([{}] * 4)), Features([[1, 0]] * 4, AXES))
    row = found["rb/mean_parity"].row(step=1, epoch=0.5, samples=8)
    assert json.loads(json.dumps(row))["prompts"] == "man | woman"
