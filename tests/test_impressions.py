"""Facial impressions: known answers on planted embeddings, planted regressions, and bad input in one sentence."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from balance.common.metric import Metric
from balance.errors import UserError
from eval.evaluators.impressions import Impressions, similarities
from eval.evaluators.impressions_charts import dendrograms
from eval.evaluators.impressions_ratings import (
    agreement_with_published,
    built_in_attributes,
    mean_ratings,
    reliability_from_raw,
    reliability_from_table,
)
from eval.evaluators.impressions_regression import paired_contrast, similarity_regression
from eval.evaluators.impressions_structure import correlation_matrix, frobenius_similarity, ward_clusters
from eval.evaluators.portraits import Portraits, f1_interval, predict
from eval.runner import build_suite
from eval.sets import EvalSet
from models.factory import create
from tests.tiny import picture

ATTRIBUTES = {
    "kind": {"positive": "kind", "negative": "unkind", "reliability": 0.9},
    "calm": {"positive": "calm", "negative": "someone", "reliability": 0.8},
    "odd": {"positive": "odd", "negative": "someone", "reliability": 0.1},
}
AXES = np.eye(8)
# Prompts on axes of their own: assoc of `kind` is coordinate 0 minus 1, of `calm` 2 minus 4, of `odd` 3 minus 4.
PROMPTS = {"kind": AXES[0], "unkind": AXES[1], "calm": AXES[2], "odd": AXES[3], "someone": AXES[4]}


def write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return str(path)


def faces(count: int, name: str = "faces", keys: Sequence[str] | None = None) -> EvalSet:
    keys = list(keys or [f"{n + 1}.jpg" for n in range(count)])
    return EvalSet(name, [b""] * len(keys), [{}] * len(keys), [()] * len(keys), keys=keys)


class Planted:
    """An embedder that gives planted features."""

    def __init__(self, features: dict[str, np.ndarray]) -> None:
        self.features = features

    def images(self, data: EvalSet) -> torch.Tensor:
        return torch.from_numpy(np.stack([self.features[key] for key in data.keys]))

    def texts(self, texts: list[str]) -> torch.Tensor:
        return torch.from_numpy(np.stack([PROMPTS[text] for text in texts]))


def planted(ratings: np.ndarray) -> dict[str, np.ndarray]:
    """Faces whose associations are monotone in the ratings of `kind`, reversed for `calm`, constant for `odd`."""
    found = {}
    for n, row in enumerate(ratings):
        feature = np.zeros(8)
        feature[0], feature[2], feature[3] = row[0] ** 3, -row[1], 0.5
        found[f"{n + 1}.jpg"] = feature
    return found


def measure(tmp_path: Path, data: EvalSet, ratings: np.ndarray, **more: Any) -> tuple[Impressions, dict[str, Metric]]:
    table = write_csv(tmp_path / "means.csv", ["stimulus", *ATTRIBUTES], [[n + 1, *r] for n, r in enumerate(ratings)])
    config = {"kind": "impressions", "set": "faces", "ratings": table, "attributes": ATTRIBUTES, **more}
    evaluator = Impressions("faces", config, data)
    embed: Any = Planted(planted(ratings))
    return evaluator, {m.name: m for m in evaluator(embed, np.random.default_rng(0), 50)}


def test_planted_impressions(tmp_path: Path) -> None:
    ratings = np.random.default_rng(0).uniform(1, 9, (40, 3))
    evaluator, found = measure(tmp_path, faces(40), ratings)
    assert found["faces/similarity[kind]"].value == pytest.approx(1)
    assert found["faces/similarity[calm]"].value == pytest.approx(-1)
    assert found["faces/similarity[odd]"].value == 0
    assert found["faces/p[odd]"].value == 1
    assert found["faces/p[kind]"].value < 1e-10
    assert found["faces/mean_similarity"].value == pytest.approx(0)
    assert found["faces/learned"].value == pytest.approx(1 / 3), "negative is not learned"
    # reliabilities 0.9, 0.8, 0.1 against 1, -1, 0: ranks 3, 2, 1 against 3, 1, 2
    assert found["faces/societal_consistency"].value == pytest.approx(0.5)
    assert found["faces/similarity[kind]"].low == pytest.approx(1)
    assert "<svg" in evaluator.pages["which attributes go together"]
    assert evaluator.pages["impressions by attribute"].count("<tr>") == 4


def test_order_of_faces_makes_no_difference(tmp_path: Path) -> None:
    ratings = np.random.default_rng(1).uniform(1, 9, (30, 3)).round(1)
    turned = faces(30, keys=[f"{n}.jpg" for n in np.random.default_rng(2).permutation(30) + 1])
    one, other = (measure(tmp_path, data, ratings)[1] for data in (faces(30), turned))
    for name, metric in one.items():
        for field in ("value", "low", "high"):
            assert getattr(other[name], field) == pytest.approx(getattr(metric, field), abs=1e-12), name


def test_spearman_counts_ties_as_scipy_does() -> None:
    rng = np.random.default_rng(0)
    ratings = rng.integers(0, 5, (50, 2)).astype(float)
    rho, p = similarities(ratings, ratings + rng.normal(0, 2, (50, 2)))
    assert (np.abs(rho) < 1).all()
    assert (p < 1).all()
    assert similarities(ratings, ratings)[0] == pytest.approx(1)


def test_structure_by_hand() -> None:
    assert frobenius_similarity(np.eye(3), np.eye(3)) == pytest.approx(1)
    assert frobenius_similarity(np.ones((3, 3)), np.eye(3)) == pytest.approx(3 / (3 * np.sqrt(3)))
    one, other = np.array([[1, 0.5], [0.5, 1]]), np.array([[1, -0.5], [-0.5, 1]])
    assert frobenius_similarity(one, other) == pytest.approx((2 - 0.5) / 2.5)
    # two pairs that go together: they are merged first, and last with each other
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 200))
    values = np.stack([a, a + 0.01 * rng.normal(size=200), b, b + 0.01 * rng.normal(size=200)], axis=1)
    links = ward_clusters(correlation_matrix(values))
    assert {frozenset(row[:2].astype(int)) for row in links[:2]} == {frozenset({0, 1}), frozenset({2, 3})}
    constant = correlation_matrix(np.stack([a, np.ones(200), b], axis=1))
    assert np.isfinite(constant).all()
    assert constant[1, 1] == 1
    svg = dendrograms(links, links, ["a", "b", "c", "d"], ("people", "tiny"))
    assert svg.startswith("<svg")
    assert "tiny" in svg


def test_reliability_from_raw_ratings(tmp_path: Path) -> None:
    """With face variance 1 and rater variance v/n in each half, r is 1 / (1 + v / n)."""
    rng = np.random.default_rng(0)
    rows = []
    for attribute, spread in (("clear", 0.0), ("fair", 3.0), ("noise", None)):
        truth = rng.normal(size=300)
        for face, value in enumerate(truth):
            for _ in range(18):
                rows.append([face, attribute, rng.normal() if spread is None else value + spread * rng.normal()])
    path = Path(write_csv(tmp_path / "raw.csv", ["stimulus", "attribute", "rating"], rows))
    found = reliability_from_raw(path, np.random.default_rng(0), splits=5)
    assert found["clear"] == pytest.approx(1)
    assert found["fair"] == pytest.approx(0.25, abs=0.06)  # v / n = 9 / 9: r = 1 / 2
    assert found["noise"] < 0.03


def test_repeated_ratings_count_as_published_unless_left_out(tmp_path: Path) -> None:
    """A rater who answers again agrees with himself: halves that share raters agree more than people do."""
    rng = np.random.default_rng(0)
    names, rows = ("happy", "godly", "smug"), []
    for spread, attribute in zip((1.0, 3.0, 5.0), names, strict=True):
        for face, truth in enumerate(rng.normal(size=200)):
            for _rater in range(10):
                value = truth + spread * rng.normal()
                rows += [[face, attribute, value, "normal"], [face, attribute, value, "repeat"]]
    path = Path(write_csv(tmp_path / "raw.csv", ["stimulus", "attribute", "rating", "rating_type"], rows))
    every = reliability_from_raw(path, np.random.default_rng(0), 5)
    once = reliability_from_raw(path, np.random.default_rng(0), 5, {"rating_type": ["repeat"]})
    assert all(every[name] > once[name] + 0.02 for name in names)
    for without, sentence in (({"kind": ["x"]}, "names kind"), ({"rating_type": ["again"]}, "no line has again")):
        with pytest.raises(UserError, match=sentence):
            reliability_from_raw(path, np.random.default_rng(0), 5, without)
    published = {a.name: a.reliability for a in built_in_attributes() if a.reliability is not None}
    same = agreement_with_published(published)
    assert same is not None
    assert (same.count, same.rank, same.rms, same.largest) == pytest.approx((34, 1, 0, 0))
    off = agreement_with_published({**published, "godly": published["godly"] + 0.1})
    assert off is not None
    assert (off.attribute, off.largest) == ("godly", pytest.approx(0.1))
    assert off.rms == pytest.approx(0.1 / np.sqrt(34))
    assert agreement_with_published({"mine": 0.5}) is None


def test_reliabilities_from_raw_ratings_say_how_they_compare(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    attributes = dict(zip(("happy", "godly", "smug"), ATTRIBUTES.values(), strict=True))
    names, ratings = list(attributes), rng.normal(size=(8, 3))
    table = write_csv(tmp_path / "means.csv", ["stimulus", *names], [[n + 1, *row] for n, row in enumerate(ratings)])
    rows = [
        [face + 1, name, ratings[face, k] + rng.normal(), kind]
        for k, name in enumerate(names)
        for face in range(8)
        for kind in ("normal", "normal", "repeat", "fill-in")
    ]
    raw = write_csv(tmp_path / "raw.csv", ["stimulus", "attribute", "rating", "rating_type"], rows)
    config = {"kind": "impressions", "ratings": table, "attributes": attributes, "raw": raw}
    config["raw_without"] = {"rating_type": "repeat"}
    evaluator = Impressions("i", config, faces(8))
    embed: Any = Planted(planted(ratings))
    found = {m.name for m in evaluator(embed, np.random.default_rng(0), 20)}
    assert {"i/reliability_rank_correlation", "i/reliability_rms_difference"} <= found
    assert any(name.startswith("i/reliability_largest_difference[") for name in found)
    with pytest.raises(UserError, match="raw_without=3 must be"):
        Impressions("i", {**config, "raw_without": 3}, faces(8))


def test_the_published_attributes_and_reliabilities(shared_data: Path) -> None:
    own = built_in_attributes()
    assert len(own) == 34
    published = reliability_from_table(shared_data / "omi" / "reliability.csv")
    assert {a.name: a.reliability for a in own} == pytest.approx(published)
    for file, side in (("attributes.txt", "positive"), ("attributes_opposites.txt", "negative")):
        lines = (shared_data / "omi" / "prompts" / file).read_text(encoding="utf-8").split("\n")
        prompts = dict(line.strip().split(":", 1) for line in lines if ":" in line)
        for a in own:
            assert getattr(a, side) == prompts[a.name].strip(), a.name


def test_real_ratings_match_the_real_faces(shared_data: Path) -> None:
    names = sorted(path.name for path in (shared_data / "omi" / "images").glob("*.jpg"))
    found = mean_ratings(shared_data / "omi" / "attribute_means.csv", faces(0, keys=names), ["age", "white"])
    assert found.shape == (704, 2)
    assert found[names.index("1.jpg")][0] == pytest.approx(50.40425532)


def test_a_real_model_gives_the_same_whatever_the_batches(root: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    wanted = yaml.safe_load((root / "conf/model/tiny.yaml").read_text())
    bundle = create(wanted["name"], wanted["config"], wanted.get("preprocess"))
    (tmp_path / "faces").mkdir()
    for n in range(12):
        (tmp_path / "faces" / f"{n}.jpg").write_bytes(picture(n))
    names = [a.name for a in built_in_attributes()]
    rows = [[n, *np.random.default_rng(n).uniform(0, 100, len(names))] for n in range(12)]
    table = write_csv(tmp_path / "means.csv", ["stimulus", *names], rows)
    sets = {"faces": {"path": str(tmp_path / "faces")}}
    evaluators = {"impressions": {"kind": "impressions", "set": "faces", "ratings": table}}
    results = []
    for size in (5, 64):
        metrics = build_suite(sets, evaluators, 20, size).run(bundle, torch.device("cpu"))
        results.append({m.name: m.value for m in metrics if m.name != "eval/seconds"})
    assert results[0] == pytest.approx(results[1], abs=1e-3)
    assert len(results[0]) == 2 * 34 + 5


# Regression over models


def zoo(noise: float) -> list[dict[str, float]]:
    """Six models and 34 attributes with planted coefficients."""
    rng = np.random.default_rng(0)
    rows = []
    for data, samples, image, text in (
        (2320, 34, 86, 63),
        (407, 13, 86, 63),
        (80, 13, 304, 123),
        (2320, 13, 304, 63),
        (407, 34, 87, 123),
        (80, 3, 304, 63),
    ):
        for irr in rng.uniform(0.2, 1, 34):
            similarity = (
                0.1 + 0.2 * data / 2320 - 0.1 * samples / 34 + 0.05 * image / 304 + 0.3 * text / 123 + 0.7 * irr
            )
            facts = {"data": data, "total_samples": samples, "image_mparams": image, "text_mparams": text}
            rows.append({**facts, "human_irr": irr, "similarity": similarity + noise * rng.normal()})
    return rows


def test_regression_recovers_planted_coefficients() -> None:
    exact = similarity_regression(zoo(1e-6))
    assert {c.name: c.value for c in exact.coefficients} == pytest.approx(
        {
            "constant": 0.1,
            "data": 0.2,
            "total_samples": -0.1,
            "image_mparams": 0.05,
            "text_mparams": 0.3,
            "human_irr": 0.7,
        },
        abs=1e-4,
    )
    noisy = similarity_regression(zoo(0.1))
    irr = noisy.coefficients[-1]
    assert irr.low < 0.7 < irr.high
    assert irr.t > 10
    assert noisy.degrees == 6 * 34 - 6
    same = similarity_regression([{**row, "data": 80} for row in zoo(0.1)])
    assert same.left_out == ("data",)


def test_paired_contrast_by_hand() -> None:
    found = paired_contrast(np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0, 1.0]))
    assert found.d == pytest.approx((5 / 3) / np.std([1, 2, 4, 0, 1, 1], ddof=1))
    assert found.t == pytest.approx((5 / 3) / (np.std([1, 1, 3], ddof=1) / np.sqrt(3)))
    assert paired_contrast(np.ones(3), np.ones(3)).p == 1
    assert paired_contrast(np.array([1.0, 2.0]), np.array([0.0, 1.0])).p == 0


# Generated portraits


def portrait_set(attributes: Sequence[str], count: int) -> EvalSet:
    keys = [f"{a}/{side}/{n}.png" for a in attributes for side in ("positive", "negative") for n in range(count)]
    return faces(0, "portraits", keys)


@pytest.mark.parametrize("predictor", ["ridge", "paper"])
def test_portraits_that_show_what_their_prompts_say(tmp_path: Path, predictor: str) -> None:
    names = [a.name for a in built_in_attributes()]
    rng = np.random.default_rng(0)
    features = rng.normal(size=(120, 40))
    # Each attribute is a coordinate; centred ratings, so that the source's predictor works, too.
    ratings = features[:, : len(names)]
    table = write_csv(tmp_path / "means.csv", ["stimulus", *names], [[n + 1, *r] for n, r in enumerate(ratings)])
    by_key = {f"{n + 1}.jpg": feature for n, feature in enumerate(features)}
    shown = ["happy", "white", "black", "godly"]
    portraits = portrait_set(shown, 6)
    for key in portraits.keys:
        name, side, _ = key.split("/")
        feature = 0.05 * rng.normal(size=40)
        sign = {"positive": 1, "negative": -1}[side]
        # `godly` shows the opposite of what was asked for.
        feature[names.index(name)] += sign * (-1 if name == "godly" else 1)
        by_key[key] = feature
    config = {"kind": "portraits", "sets": {}, "ratings": table, "predictor": predictor}
    evaluator = Portraits("t2i", config, {"faces": faces(120), "portraits": portraits})
    embed: Any = Planted(by_key)
    found = {m.name: m.value for m in evaluator(embed, np.random.default_rng(0), 50)}
    assert found["t2i/f1[happy]"] == 1
    assert found["t2i/f1[godly]"] == 0
    assert found["t2i/mean_f1"] == pytest.approx(0.75)
    assert found["t2i/contrast_d[white]"] > 1.5
    assert found["t2i/contrast_d[black]"] < -1.5
    assert found["t2i/contrast_p[white]"] < 1e-6
    assert "t2i/reliability_correlation" in found
    assert "4 of 34 attributes" in evaluator.skipped[0]


def test_ridge_does_not_depend_on_where_ratings_have_their_zero() -> None:
    rng = np.random.default_rng(0)
    features, portraits = rng.normal(size=(60, 10)) + 3, rng.normal(size=(20, 10)) + 3
    ratings = features[:, :2] * 10 + 50
    shifted = predict(features, ratings + 1000, portraits, "ridge")
    assert shifted == pytest.approx(predict(features, ratings, portraits, "ridge"), abs=1e-6)
    assert ((shifted > 0) == (portraits[:, :2] > features[:, :2].mean(axis=0))).mean() > 0.95


def test_f1_by_hand() -> None:
    value, low, high = f1_interval(
        np.array([True, True, False]), np.array([True, False, False]), np.random.default_rng(0), 500
    )
    assert value == pytest.approx(2 / 3)
    assert low < value < high


# Bad input


def test_bad_input_is_told_in_a_sentence(tmp_path: Path) -> None:
    ratings = np.random.default_rng(0).uniform(1, 9, (5, 3))
    with pytest.raises(UserError, match=r"2 of 7 pictures of the set faces have no row .*such as 6\.jpg"):
        measure(tmp_path, faces(7), ratings)
    with pytest.raises(UserError, match="at least 3 are needed"):
        measure(tmp_path, faces(2), ratings[:2])
    with pytest.raises(UserError, match=r"ratings of calm .* same for all faces"):
        measure(tmp_path, faces(5), np.where([False, True, False], 1.0, ratings))
    with pytest.raises(UserError, match=r"rating of odd of 3\.jpg is 'nan', not a number"):
        measure(tmp_path, faces(5), np.where(np.arange(15).reshape(5, 3) == 8, np.nan, ratings))
    with pytest.raises(UserError, match="did you mean ratings"):
        measure(tmp_path, faces(5), ratings, rating="x")
    with pytest.raises(UserError, match="'brave' is not one of trustworthy"):
        measure(tmp_path, faces(5), ratings, attributes=["brave"])
    with pytest.raises(UserError, match="must give `positive`"):
        measure(tmp_path, faces(5), ratings, attributes={"brave": {"positive": "x"}})
    with pytest.raises(UserError, match="no column 'brave'"):
        measure(tmp_path, faces(5), ratings, attributes={"brave": {"positive": "kind", "negative": "odd"}})
    table = write_csv(tmp_path / "irr.csv", ["attribute", "share"], [["kind", 0.5]])
    with pytest.raises(UserError, match="needs the columns attribute and published"):
        measure(tmp_path, faces(5), ratings, reliability=table)
    with pytest.raises(UserError, match="calm has no reliability"):
        measure(tmp_path, faces(5), ratings, reliability=table, reliability_column="share")
    with pytest.raises(UserError, match="no column attribute"):
        reliability_from_raw(
            Path(write_csv(tmp_path / "raw.csv", ["stimulus", "rating"], [[1, 2]])), np.random.default_rng(0)
        )
    absent = {"kind": "impressions", "ratings": str(tmp_path / "absent.csv")}
    evaluator = Impressions("faces", absent, faces(5))
    assert "absent.csv" in evaluator.skipped[0]
    embed: Any = None
    assert not list(evaluator(embed, np.random.default_rng(0), 50))


def test_bad_regressions_are_told_in_a_sentence() -> None:
    rows = zoo(0.1)
    with pytest.raises(UserError, match="needs a number for text_mparams in every row"):
        similarity_regression([{k: v for k, v in row.items() if k != "text_mparams"} for row in rows])
    with pytest.raises(UserError, match="more rows than its 6 coefficients"):
        similarity_regression(rows[::40])
    with pytest.raises(UserError, match="not independent"):
        similarity_regression([{**row, "text_mparams": 2 * row["image_mparams"]} for row in rows])
    with pytest.raises(UserError, match="it has 2 and 3"):
        paired_contrast(np.ones(2), np.ones(3))


def test_bad_portraits_are_told_in_a_sentence(tmp_path: Path) -> None:
    names = [a.name for a in built_in_attributes()]
    table = write_csv(tmp_path / "means.csv", ["stimulus", *names], [[n + 1, *range(n, n + 34)] for n in range(3)])
    config = {"kind": "portraits", "sets": {}, "ratings": table}

    def build(portraits: EvalSet, **more: Any) -> Portraits:
        return Portraits("t2i", {**config, **more}, {"faces": faces(3), "portraits": portraits})

    with pytest.raises(UserError, match="for one side of happy only"):
        build(faces(0, "portraits", ["happy/positive/1.png"]))
    with pytest.raises(UserError, match="has no folder <attribute>/positive/"):
        build(faces(3))
    with pytest.raises(UserError, match="neither ridge nor paper"):
        build(portrait_set(["happy"], 2), predictor="forest")
    with pytest.raises(UserError, match="must name `faces` and `portraits`"):
        Portraits("t2i", config, {"faces": faces(3)})
    assert "no portraits of white and black" in build(portrait_set(["happy"], 2)).skipped[1]
