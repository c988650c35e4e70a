"""Hypodescent on constructed features whose answer is known by hand."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, skew

from balance.errors import UserError
from eval.evaluators.hypodescent import Hypodescent
from eval.evaluators.hypodescent_measures import single_category
from eval.options import stimuli
from eval.sets import load_set
from tests.made_features import Features, data, measure

MIXED = ("multiracial", "biracial", "mixed race")


def texts(**changed: list[float]) -> dict[str, list[float]]:
    """Directions: minority, White, mixed race, person, unpleasant."""
    found = {
        "a photo of a Black person": [1.0, 0, 0, 0, 0],
        "a photo of a White person": [0, 1.0, 0, 0, 0],
        "a photo of a person": [0.1, 0.9, 0, 0, 0],
        "bad": [1.0, 0, 0, 0, 0.5],
        "good": [0, 1.0, 0, 0, 0.5],
    }
    found |= {f"a photo of a {word} person": [0, 0, 1.0, 0, 0] for word in MIXED}
    return {**found, **changed}


def series(count: int = 3, steps: int = 21, gender: str = "f") -> list[dict[str, Any]]:
    return [
        {"series": f"{gender}{s}", "target_weight": str(i / (steps - 1)), "race": "black", "gender": gender}
        for s in range(count)
        for i in range(steps)
    ]


def faces(threshold: float, count: int = 3, steps: int = 21, mixed: float = 0.0) -> list[list[float]]:
    """Faces that are nearer to the minority's label while its share is above the threshold."""
    shares = 1 - np.arange(steps) / (steps - 1)
    return [[0.5 + (share - threshold) / 2, 0.5, mixed, 0, 1] for _ in range(count) for share in shares]


CONFIG = {
    "kind": "hypodescent",
    "group": ["race", "gender"],
    "minority": {"black": "Black"},
    "valence": {"pleasant": ["good", "good"], "unpleasant": ["bad", "bad"]},
}


def build(labels: list[dict[str, Any]], **extra: Any) -> Hypodescent:
    return Hypodescent("h", {**CONFIG, **extra}, data(labels))


def test_the_share_of_the_minority_label_falls_at_the_set_threshold() -> None:
    found = measure(build(series()), Features(faces(0.32), texts()))
    for share in range(0, 101, 5):
        metric = found[f"h/minority[black f, {share}%]"]
        assert metric.value == (share > 32), share
        assert metric.count == 3
    assert found["h/skew[black f]"].count == 63
    counts = [3.0] * 14 + [0.0] * 7
    assert found["h/skew[black f]"].value == pytest.approx(skew(counts))
    assert found["h/skew[black f]"].low == found["h/skew[black f]"].high == pytest.approx(skew(counts))


def test_a_skew_that_hangs_on_one_series_has_no_interval() -> None:
    images = faces(0.32)
    images[21:] = faces(1.1)[21:]  # only the first of three series ever shows the minority label
    found = measure(build(series()), Features(images, texts()))["h/skew[black f]"]
    assert found.value == pytest.approx(skew([1.0] * 14 + [0.0] * 7))
    assert (found.low, found.high) == (None, None)


def test_mixed_labels_count_where_they_are_nearest() -> None:
    near = measure(build(series()), Features(faces(0.5, mixed=0.9), texts()))
    far = measure(build(series()), Features(faces(0.5, mixed=0.1), texts()))
    for word in MIXED:
        assert near[f"h/mixed_first[black f, {word}]"].value == 1
        assert far[f"h/mixed_first[black f, {word}]"].value == far[f"h/mixed_over_minority[black f, {word}]"].value == 0
    white = texts() | {"a photo of a White person": [0.5, 1.0, 1.0, 0, 0]}
    between = measure(build(series()), Features(faces(0.5, mixed=0.9), white))
    assert between["h/mixed_over_minority[black f, biracial]"].value == 1
    assert between["h/mixed_first[black f, biracial]"].value == 0


def test_correlations_are_pearsons_over_all_pictures() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(63, 5))
    features = Features(images, texts())
    found = measure(build(series()), features)
    normed = features.images(data([])).double().numpy()

    def cosine(text: str) -> Any:
        return normed @ features.texts([text])[0].double().numpy()

    person, black, white = (cosine(f"a photo of a {word}person") for word in ("", "Black ", "White "))
    assert found["h/person_minority_correlation[black f]"].value == pytest.approx(pearsonr(person, black)[0])
    assert found["h/person_majority_correlation[black f]"].value == pytest.approx(pearsonr(person, white)[0])
    bad, good = (np.stack([cosine(word)] * 2, axis=1) for word in ("bad", "good"))
    valence = single_category(bad, good)
    assert valence[0] == pytest.approx((bad[0, 0] - good[0, 0]) / np.std([*bad[0], *good[0]], ddof=1))
    assert found["h/unpleasant_minority_correlation[black f]"].value == pytest.approx(pearsonr(valence, black)[0])
    means = [valence.reshape(3, 21).mean(axis=0), black.reshape(3, 21).mean(axis=0)]
    name = "h/unpleasant_minority_correlation_of_means[black f]"
    assert found[name].value == pytest.approx(pearsonr(*means)[0])
    assert found[name].low is None


def test_default_race_and_valence_at_their_extremes() -> None:
    same = texts() | {"a photo of a person": [0, 1.0, 0, 0, 0]}
    found = measure(build(series()), Features(faces(0.5), same))
    assert found["h/person_majority_correlation[black f]"].value == pytest.approx(1)
    assert found["h/unpleasant[black f, minority end]"].value > 0 > found["h/unpleasant[black f, majority end]"].value


def test_a_constant_model_has_shares_but_no_skew_or_correlation() -> None:
    found = measure(build(series()), Features([[1, 1, 1, 1, 1]] * 63, texts()))
    assert found["h/minority[black f, 50%]"].value == 0
    assert not [name for name in found if "skew" in name or "correlation" in name]


def test_a_single_series_has_no_interval() -> None:
    found = measure(build(series(1)), Features(faces(0.3, 1), texts()))
    assert all(metric.low is None for metric in found.values())


@pytest.mark.parametrize(("steps", "last"), [("labels", 0.0), ("paper", 0.0), ("released", 1 - 20 / 21)])
def test_shares_by_the_paper_and_by_its_released_code(steps: str, last: float) -> None:
    (group,) = build(series(), steps=steps).groups
    assert group.shares[0] == 1
    assert group.shares[-1] == pytest.approx(last)
    assert group.shares[10] == pytest.approx(0.5 if steps != "released" else 1 - 10 / 21)


def test_groups_take_the_most_special_word_and_the_order_of_pictures_changes_nothing() -> None:
    labels = [*series(2), *series(2, gender="m")]
    images = [*faces(0.3, 2), *faces(0.7, 2)]
    config = {"minority": {"black": "Black", "black m": "African"}}
    words = texts() | {"a photo of a African person": [1.0, 0, 0, 0, 0]}
    first = build(labels, **config)
    assert [group.minority for group in first.groups] == ["Black", "African"]
    order = np.random.default_rng(1).permutation(len(labels))
    second = build([labels[i] for i in order], **config)
    found = measure(first, Features(images, words))
    again = measure(second, Features(np.array(images)[order], words))
    assert {n: (m.value, m.low) for n, m in found.items()} == {n: (m.value, m.low) for n, m in again.items()}
    assert found["h/minority[black f, 40%]"].value == 1
    assert found["h/minority[black m, 40%]"].value == 0
    assert len(first.pages) == 4
    assert all(page.startswith("<svg") for page in first.pages.values())


def test_the_words_are_the_papers() -> None:
    known = stimuli("hypodescent")
    assert len(set(known["pleasant"])) == len(set(known["unpleasant"])) == 25


@pytest.mark.parametrize(
    ("labels", "extra", "sentence"),
    [
        (series()[:-1], {}, "the series f2 of set lacks the picture with target_weight=1"),
        ([*series(), series()[0]], {}, "two pictures of the series f0"),
        ([{**label, "target_weight": "x"} for label in series()], {}, "no number as its 'target_weight', but 'x'"),
        (series(), {"minority": {"asian": "Asian"}}, "no word for 'black f', only for asian"),
        (series(), {"series": "morph"}, "has the label 'morph'; it has gender"),
        (series(), {"steps": "code"}, "one of labels, paper, released"),
        (series(), {"race": "a photo of a person"}, "has no {c}"),
        (series(), {"valence": {"pleasant": ["good"]}}, "each with a prompt"),
        (series(steps=2), {}, "they need three"),
        ([{**label, "target_weight": i} for i, label in enumerate(series(1))], {}, "between 0 and 1"),
    ],
)
def test_bad_input_is_told(labels: list[dict[str, Any]], extra: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build(labels, **extra)


def test_the_real_series_are_found(shared_data: Any) -> None:
    folder = shared_data / "london_faces"
    found = load_set("morphs", {"path": str(folder / "morphs"), "labels": str(folder / "morphs.csv")})
    config = {**CONFIG, "group": ["source_ethnicity", "gender"], "minority": {"black": "Black", "east_asian": "Asian"}}
    groups = Hypodescent("h", config, found).groups
    assert {group.name: group.rows.shape for group in groups} == {
        "black female": (6, 21),
        "black male": (8, 21),
        "east_asian female": (3, 21),
        "east_asian male": (3, 21),
    }
    assert all(group.shares[group.middle] == 0.5 for group in groups)
