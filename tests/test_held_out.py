"""Pictures that a run holds out: labels as their captions word them, parity of those that name nobody."""

from pathlib import Path
from typing import Any

import pytest

import train
from balance.common.metric import read_metrics
from balance.errors import UserError
from conf.app.cli import compose
from eval.evaluators.parity import Parity
from eval.foreseen import check_measured
from eval.runner import build_suite
from eval.sets import HeldOut, MissingSet, load_set
from eval.wording import labels_by_wording
from tests.launching import model_overrides
from tests.made_features import Features, data, measure
from tests.tiny import sample, write_tar

PROMPTS = {"man": "man", "woman": "woman"}
AXES = {"man": [1.0, 0.0], "woman": [0.0, 1.0]}


@pytest.mark.parametrize(
    ("captions", "label"),
    [
        (["A woman walks."], "woman"),
        (["A boat.", "Two boats."], "not mentioned"),
        (["A man.", "Somebody.", "A guy rides."], "man"),
        (["A man and a woman."], "several"),
        (["A man.", "A woman."], "several"),
        (["A man.", "A man.", "A woman."], "man"),
        (["A woman cooks."] * 2 + ["A person."] * 3, "woman"),
    ],
)
def test_a_label_is_what_the_captions_agree_on(captions: list[str], label: str) -> None:
    assert labels_by_wording([captions], ["gender"]) == [{"caption_gender": label}]


def test_a_picture_without_captions_has_no_label_and_several_lists_have_one_each() -> None:
    found = labels_by_wording([(), ("An old man.",)], ["gender", "age_group"])
    assert found == [{}, {"caption_gender": "man", "caption_age_group": "old"}]


def test_a_set_keeps_the_labels_that_it_has(tmp_path: Path) -> None:
    fields = {"gender": "man", "race": "A"}
    write_tar(tmp_path / "t.tar", [("a", sample(1, fields) | {"txt": b"A woman."})])
    (labels,) = load_set("s", {"path": str(tmp_path / "t.tar"), "words": "gender"}).labels
    assert labels == {**labels, **fields, "caption_gender": "woman"}


@pytest.mark.parametrize("words", ["gendre", ["occupations"]])
def test_word_lists_that_can_not_be_labels_are_told(tmp_path: Path, words: Any) -> None:
    write_tar(tmp_path / "t.tar", [("a", sample(1, {}))])
    with pytest.raises(UserError, match=r"^eval\.sets\.s\.words: "):
        load_set("s", {"path": str(tmp_path / "t.tar"), "words": words})


def test_parity_of_some_pictures() -> None:
    labels = [{"g": 0, "r": "A"}, {"g": 1, "r": "A"}, {"g": 0, "r": "B"}, {"r": "C"}]
    features = Features([[1, 0], [0, 1], [0, 1], [0, 1]], AXES)
    options = {"kind": "parity", "prompts": PROMPTS, "by": "r", "where": {"g": "0"}}
    found = measure(Parity("rb", options, data(labels)), features)
    assert found["rb/mean_parity"].value == pytest.approx(0)
    assert found["rb/mean_parity"].count == 2
    assert found["rb/mean_parity[r=A]"].value == pytest.approx(1)
    assert found["rb/mean_parity[r=B]"].value == pytest.approx(-1)
    assert "rb/mean_parity[r=C]" not in found
    both = {**options, "where": {"g": [0, 1], "r": "A"}}
    assert measure(Parity("rb", both, data(labels)), features)["rb/mean_parity"].count == 2


def test_parity_of_no_picture() -> None:
    options = {"kind": "parity", "prompts": PROMPTS}
    with pytest.raises(MissingSet, match=r"no picture of the set set has g=2\|3\."):
        Parity("rb", {**options, "where": {"g": [3, 2]}}, data([{"g": 1}]))
    with pytest.raises(UserError, match="has the label 'h'; it has g"):
        Parity("rb", {**options, "where": {"h": 1}}, data([{"g": 1}]))


def held_out(folder: Path, captions: list[str]) -> str:
    """A shard of pictures with these captions."""
    path = folder / "held-out.tar"
    write_tar(path, [(f"p{n}", sample(n, {}) | {"txt": text.encode()}) for n, text in enumerate(captions)])
    return str(path)


SETS = {"held_out": {"words": ["gender"]}, "gone": {"path": "/nowhere"}}
HELD = {"kind": "parity", "set": "held_out", "where": {"caption_gender": "not mentioned"}, "prompts": PROMPTS}


def test_what_lacks_the_same_is_told_once() -> None:
    gone = {"kind": "parity", "set": "gone", "prompts": PROMPTS}
    suite = build_suite(SETS, {"a": gone, "held": HELD, "b": gone})
    assert [sentence.partition(":")[0] for sentence in suite.skipped] == ["a, b are skipped", "held is skipped"]
    assert suite.skipped[1] == "held is skipped: neither data.eval nor data.holdout names pictures held out."


def test_a_set_where_everybody_has_a_gender_leaves_the_rest(tmp_path: Path) -> None:
    suite = build_suite(SETS, {"held": HELD}, held_out=HeldOut([held_out(tmp_path, ["A man.", "A woman."])]))
    assert [evaluator.name for evaluator in suite.evaluators] == ["retrieval"]
    why = r"held is skipped: no picture of the set held_out has caption_gender=not mentioned"
    with pytest.raises(UserError, match=why):
        check_measured([("stop.targets.held/mean_parity", "held/mean_parity")], suite)


def test_unlearning_on_shards_of_ones_own_needs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the paths and the start are given; targets and bounds are measured on what is held out."""
    monkeypatch.setenv("COUNTERBALANCE_DATA", str(tmp_path / "nothing"))
    captions = ["A man runs.", "A woman runs.", "A red boat.", "Two dogs."] * 10
    (tmp_path / "train").mkdir()
    held_out(tmp_path / "train", captions)
    common = ["data=wds", "data.workers=0", "data.batch_size=8", "attributes=captions", "track=none", "device=cpu"]
    common += ["precision=fp32", f"runs={tmp_path / 'runs'}", f"data.train={tmp_path / 'train'}", "eval.bootstrap=20"]
    common += [f"data.eval={held_out(tmp_path, captions)}", "balance.min_concept_samples=1", "schedule.epochs=1"]
    assert train.main(compose([*common, *model_overrides(), "name=start"])) == 0
    unlearn = ["experiment=unlearn", "name=unlearned", f"model.init_from={tmp_path / 'runs/start'}"]
    assert train.main(compose([*common, *unlearn, "schedule.epoch_samples=16"])) == 0
    names = {row["name"]: row for row in read_metrics(tmp_path / "runs/unlearned/metrics.jsonl")}
    assert names["parity_held_out/mean_parity"]["count"] == 20
    assert {"retrieval/image_to_text_r5", "stop/bias", "stop/quality"} <= set(names)
