"""Several sources for one attribute: confirmed, corrected, or combined by their measured errors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from balance.errors import UserError
from balance.labels.annotate import annotate_shards
from balance.labels.annotators import build_annotator
from balance.labels.attributes import read_attributes
from balance.labels.checking import judge
from balance.labels.summary import Summary, faults_of
from balance.stream.samples import Sample
from tests.shard_tools import write_tar

CAPTIONS = {"kind": "captions", "attributes": ["gender"]}
FIELD = {
    "kind": "json",
    "field": "sex",
    "attribute": "gender",
    "values": {"woman": ["f"], "man": ["m"]},
    "positive": "woman",
}
SOFT = {"kind": "json", "field": "p", "probability": "woman"}
ROWS = [
    ("a woman", "f"),
    ("a woman", "m"),
    ("a man", "m"),
    ("a man", "f"),
    ("a woman", None),
    ("a tree", "f"),
    ("a tree", None),
]


def both(**config: Any) -> dict[str, Any]:
    return {"sources": [{"kind": "both", "sources": [CAPTIONS, FIELD], **config}]}


def samples() -> list[Sample]:
    return [Sample(f"k{i}", b"", (text,), {} if sex is None else {"sex": sex}) for i, (text, sex) in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("agree", [1, np.nan, 0, np.nan, 1, 1, np.nan]), ("last", [1, 0, 0, 1, 1, 1, np.nan])],
)
def test_confirmed_or_corrected(rule: str, expected: list[float]) -> None:
    annotator = build_annotator(both(rule=rule))
    np.testing.assert_array_equal(annotator.annotate(samples())[0][:, 0], expected)
    assert annotator.take_disagreements() == {"woman": [4, 2]}
    assert annotator.take_disagreements() == {"woman": [0, 0]}


def check(folder: Path, name: str, right: int, wrong: int, share: float) -> str:
    """A label check of a source that is right in `right` of `right + wrong` rows of either label."""
    labels = ["woman", "not woman"]
    sizes = {"woman": round(1000 * share), "not woman": round(1000 * (1 - share)), "unknown": 0}
    counts = {labels[k]: {labels[k]: right, labels[1 - k]: wrong} for k in (0, 1)}
    found = judge(labels, sizes, counts).to_dict()
    raw = {"annotator": "x", "attributes": {"woman": found}, "concepts": None}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(raw))
    return str(path)


def test_probability_is_bayes_rule(tmp_path: Path) -> None:
    first, second = check(tmp_path, "a", 80, 20, 0.5), check(tmp_path, "b", 90, 10, 0.5)
    annotator = build_annotator(both(rule="probability", checks=[first, second]))
    s = annotator.annotate(samples())[0][:, 0]
    agreeing, differing = 4 * 9 / (1 + 4 * 9), 4 / 9 / (1 + 4 / 9)  # odds of 4 and of 9, from a prior of one half
    expected = [agreeing, differing, 1 - agreeing, 1 - differing, 0.8, 0.9, np.nan]
    np.testing.assert_allclose(s, expected, rtol=1e-6)


def test_probability_by_simulation(tmp_path: Path) -> None:
    """Among samples with the same two labels, the share of women is the probability given."""
    rng = np.random.default_rng(0)
    women = rng.random(200_000) < 0.3
    a, b = (np.where(rng.random(len(women)) < rate, women, ~women) for rate in (0.8, 0.9))

    def read(labels: np.ndarray, name: str) -> str:
        names = ["woman", "not woman"]
        counts = {
            x: {y: int(((labels == (x == "woman")) & (women == (y == "woman"))).sum()) for y in names} for x in names
        }
        sizes = {"woman": int(labels.sum()), "not woman": int((~labels).sum())}
        raw = {"annotator": "x", "attributes": {"woman": judge(names, sizes, counts).to_dict()}, "concepts": None}
        (tmp_path / name).write_text(json.dumps(raw))
        return str(tmp_path / name)

    annotator = build_annotator(both(rule="probability", checks=[read(a, "a.json"), read(b, "b.json")]))
    s = annotator.annotate(samples())[0][:4, 0]
    truth = [women[(a == x) & (b == y)].mean() for x, y in ((1, 1), (1, 0), (0, 0), (0, 1))]
    np.testing.assert_allclose(s, truth, atol=0.012)


def test_a_source_of_probabilities_needs_no_check(tmp_path: Path) -> None:
    first = check(tmp_path, "a", 80, 20, 0.5)
    config = {"kind": "both", "rule": "probability", "sources": [CAPTIONS, SOFT], "checks": [first, None]}
    annotator = build_annotator({"sources": [config]})
    s = annotator.annotate([Sample("k", b"", ("a woman",), {"p": 0.75})])[0]
    np.testing.assert_allclose(s, [[4 * 3 / (1 + 4 * 3)]], rtol=1e-6)


def test_disagreement_is_told_after_labelling_and_in_the_audit(tmp_path: Path) -> None:
    shard = write_tar(
        tmp_path / "00000.tar",
        [{"key": str(i), "caption": text, "meta": {"sex": sex} if sex else {}} for i, (text, sex) in enumerate(ROWS)],
    )
    summaries: list[Summary] = []
    annotator = build_annotator(both())
    files = annotate_shards([str(shard)], annotator, tmp_path / "out", progress=False, report=summaries.append)
    sentence = "woman: sources differ on 2 of the 4 samples that several know (50.0%)"
    assert sentence in summaries[0].lines()
    assert f"{sentence}." in faults_of(files)
    assert np.isnan(read_attributes(files[0]).s[:, 0]).sum() == 3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sources": [CAPTIONS]}, "a list of two or more"),
        ({"rule": "first"}, "rule='first' is none of agree, last, probability"),
        ({"rules": "last"}, "has no key 'rules'"),
        ({"checks": ["a", "b"]}, "'checks' belongs to rule: probability"),
        ({"rule": "probability"}, "needs 'checks', one for each source"),
        ({"rule": "probability", "checks": [None, None]}, "at least one check"),
        ({"sources": [CAPTIONS, {"kind": "captions", "attributes": ["race"]}]}, "share no attribute"),
        ({"sources": [{**CAPTIONS, "concepts": ["sports"]}, {**CAPTIONS, "concepts": ["sports"]}]}, "the same concept"),
    ],
)
def test_what_can_not_be_combined(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_annotator(both(**config))
