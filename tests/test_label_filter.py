"""A filter on top of word lists, trained on judged captions."""

import csv
from pathlib import Path

import numpy as np
import pytest

from balance.errors import UserError
from balance.labels.captions import CaptionSource
from balance.labels.learned import BUCKETS, design, features, load_filter, train_filter
from scripts.label_filter import main

THINGS = ("oak", "tin", "blue", "red", "old", "tall", "warm", "cold", "round", "flat")
WRONG = [f"{thing} woman brand number {i}" for i, thing in enumerate(THINGS * 4)]
RIGHT = [f"{thing} woman beside a river {i}" for i, thing in enumerate(THINGS * 4)]


def judged(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    path = folder / "labels.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "key", "attribute", "label", "words", "caption", "truth"])
        writer.writerows(
            [i, i, "woman", label, "woman", caption, truth] for i, (label, caption, truth) in enumerate(rows)
        )
    return path


def test_wrong_labels_fall_and_others_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("woman", text, "n") for text in WRONG] + [("woman", text, "y") for text in RIGHT]
    rows += [("unknown", "a tree", "y"), ("woman", "a woman?", "?"), ("woman", "not read", "")]
    judged(tmp_path, rows)
    out = tmp_path / "gender.npz"
    main([f"read={tmp_path}", "attribute=woman", "list=gender", f"out={out}"])
    said = capsys.readouterr().out
    assert "right before: 0.50" in said
    assert "right after, held out: 1.00" in said
    assert "lost, held out: 0.00" in said
    config = {"kind": "captions", "attributes": ["gender"], "concepts": ["proxies"]}
    plain, learned = CaptionSource(config), CaptionSource({**config, "learned": [str(out)]})
    texts = ["small woman brand number 7", "small woman beside a river", "a woman in a dress beside a river", "a dress"]
    s, y = learned.annotate_texts(texts, np.arange(4), 4)
    np.testing.assert_array_equal(s[:, 0], [np.nan, 1, 1, np.nan])
    np.testing.assert_array_equal(y, plain.annotate_texts(texts, np.arange(4), 4)[1])  # of another list
    assert plain.describe() != learned.describe()


def test_features_and_probability_agree_with_the_regression() -> None:
    model = train_filter("gender", WRONG + RIGHT, [False] * 40 + [True] * 40, 0.5, 1.0)
    row = design(["woman beside a river"]).toarray()[0]
    assert np.flatnonzero(row).tolist() == sorted(features("woman beside a river"))
    assert np.linalg.norm(row) == pytest.approx(1)
    expected = 1 / (1 + np.exp(-(row @ model.weights + model.bias)))
    assert model.probability(["woman beside a river"])[0] == pytest.approx(expected)
    assert len(model.weights) == BUCKETS


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("woman", "a woman", "y")] * 60, "60 of them right, are too few"),
        ([("woman", "a woman", "y"), ("woman", "woman shoes", "n")], "2 judged labels of 'gender'"),
        ([("unknown", "a tree", "y")], "no judged label of 'woman'"),
    ],
)
def test_too_little_to_learn_from(rows: list[tuple[str, str, str]], message: str, tmp_path: Path) -> None:
    judged(tmp_path, rows)
    with pytest.raises(UserError, match=message):
        main([f"read={tmp_path}", "attribute=woman", "list=gender", f"out={tmp_path / 'x.npz'}"])


def test_filters_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no filter that scripts/label_filter\.py wrote"):
        load_filter(tmp_path / "none.npz")
    train_filter("race", WRONG + RIGHT, [False] * 40 + [True] * 40, 0.5, 1.0).save(tmp_path / "race.npz")
    with pytest.raises(UserError, match="filters 'race'; this source has gender"):
        CaptionSource({"kind": "captions", "attributes": ["gender"], "learned": [str(tmp_path / "race.npz")]})
