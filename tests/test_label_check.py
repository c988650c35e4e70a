"""Labels held against a reader: what is drawn, what judgements give, and the commands around it."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from balance.errors import UserError
from balance.labels.annotators import build_annotator
from balance.labels.check_file import read_check
from balance.labels.checking import CONCEPT, NONE, UNKNOWN, attribute_values, judge, right_shares
from balance.labels.drawing import draw
from balance.stream.samples import Sample
from scripts.label_check import main
from tests.shard_tools import write_tar

SOURCES = {"sources": [{"kind": "captions", "attributes": ["gender"], "concepts": ["occupations"]}]}


def samples(*captions: str) -> list[Sample]:
    return [Sample(f"k{i}", b"", (caption,)) for i, caption in enumerate(captions)]


def test_values_of_columns() -> None:
    assert attribute_values(["woman", "age=child", "age=old"]) == {
        "woman": ["woman", "not woman"],
        "age": ["child", "old"],
    }


def test_strata_are_drawn_evenly_with_the_words_that_made_them() -> None:
    captions = ["a woman"] * 30 + ["two men"] * 5 + ["a tree"] * 100 + ["a nurse and a chef"] * 10
    drawn = draw(build_annotator(SOURCES), samples(*captions), per_label=8, seed=0)
    assert drawn.samples == 145
    assert drawn.sizes == {("woman", "woman"): 30, ("woman", "not woman"): 5, ("woman", UNKNOWN): 110,
                           (CONCEPT, CONCEPT): 20, (CONCEPT, NONE): 135}  # fmt: skip
    counts = {stratum: sum(row.stratum == stratum for row in drawn.rows) for stratum in drawn.sizes}
    assert counts == {stratum: min(size, 8) for stratum, size in drawn.sizes.items()}
    assert {row.words for row in drawn.rows if row.label == "not woman"} == {("men",)}
    assert {row.words for row in drawn.rows if row.label == "chef"} <= {("chef",)}
    again = draw(build_annotator(SOURCES), samples(*captions), per_label=8, seed=0)
    assert [row.sample.key for row in again.rows] == [row.sample.key for row in drawn.rows]


def test_a_stratum_is_drawn_at_random() -> None:
    drawn = draw(build_annotator(SOURCES), samples(*["a woman"] * 400), per_label=100, seed=1)
    places = [int(row.sample.key[1:]) for row in drawn.rows if row.attribute == "woman"]
    assert 150 < np.mean(places) < 250  # 200 with a standard error of 10


def test_precision_recall_and_confusion_by_hand() -> None:
    # 100 samples labelled a of which 80 % are; 50 labelled b, all right; 850 unknown of which 10 % are b.
    sizes = {"a": 100, "b": 50, UNKNOWN: 850}
    counts = {"a": {"a": 8, "b": 1, NONE: 1}, "b": {"b": 5}, UNKNOWN: {NONE: 18, "b": 2}}
    found = judge(["a", "b"], sizes, counts)
    assert found.precision["a"].value == pytest.approx(0.8)
    assert (found.precision["a"].low, found.precision["a"].high) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson
    assert found.recall["a"].value == pytest.approx(1)
    assert found.recall["b"].value == pytest.approx(50 / (50 + 10 + 85))
    assert found.known.value == pytest.approx((80 + 50) / 150)
    assert found.shares["a"].value == pytest.approx(80 / (80 + 10 + 50 + 85))
    assert found.confusion["b"] == pytest.approx({"a": 0.01, "b": 0.05, UNKNOWN: 0.085})
    assert sum(sum(row.values()) for row in found.confusion.values()) == pytest.approx(1)
    for share in (found.recall["b"], found.known, found.shares["a"]):
        assert share.low < share.value < share.high


def test_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(0)
    sizes = {"a": 300, "b": 200, UNKNOWN: 500}
    truth = {"a": [0.7, 0.1, 0.2], "b": [0.05, 0.9, 0.05], UNKNOWN: [0.1, 0.1, 0.8]}
    right = sizes["a"] * 0.7 / sum(n * truth[label][0] for label, n in sizes.items())
    hits = 0
    for i in range(200):
        drawn = {label: dict(zip(["a", "b", NONE], rng.multinomial(40, p).tolist(), strict=True)) for label, p in
                 truth.items()}  # fmt: skip
        recall = judge(["a", "b"], sizes, drawn, seed=i).recall["a"]
        hits += recall.low <= right <= recall.high
    assert 180 <= hits <= 198  # 190 expected, standard error 3


def test_strata_that_nobody_read_say_nothing() -> None:
    found = judge(["a", "b"], {"a": 10, "b": 10, UNKNOWN: 10}, {"a": {"a": 4}})
    assert found.precision["b"].judged == 0
    assert np.isnan(found.precision["b"].value)
    assert found.confusion["b"] == {"a": 0, "b": 0, UNKNOWN: 0}


def test_words_most_judged_first() -> None:
    found = right_shares([("x", True), ("y", True), ("x", False)])
    assert list(found) == ["x", "y"]
    assert found["x"].value == 0.5


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    captions = [
        "a woman reads",
        "Women love it, says a nurse",
        "a man",
        "<b>a tree</b>",
        '=HYPERLINK("x") a man',
        "sky",
    ]
    return write_tar(tmp_path / "00000.tar", [{"key": f"{i}", "caption": c} for i, c in enumerate(captions)])


def draw_command(shard: Path, out: Path) -> None:
    main([f"data.train={shard}", "attributes=captions", f"out={out}"])


def fill(folder: Path, answers: dict[tuple[str, str], list[str]]) -> None:
    with (folder / "labels.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        given = answers.get((row["attribute"], row["label"]), [])
        row["truth"] = given.pop(0) if given else ""
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_drawn_filled_in_and_read_back(shard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "check"
    draw_command(shard, out)
    page = (out / "labels.html").read_text()
    assert "data:image/jpeg;base64," in page
    assert "<b>a tree</b>" not in page  # captions are text
    assert "'=HYPERLINK" in (out / "labels.csv").read_text(encoding="utf-8-sig")
    fill(out, {("woman", "woman"): ["y", "N"], ("woman", "not woman"): ["Yes", "?"], ("woman", UNKNOWN): ["woman", "y"],
               (CONCEPT, "nurse"): ["y"], (CONCEPT, NONE): ["y", "y"]})  # fmt: skip
    main([f"read={out}"])
    result = json.loads((out / "label_check.json").read_text())
    woman = result["attributes"]["woman"]
    assert woman["precision"]["woman"][::3] == [0.5, 2]
    assert woman["precision"]["not woman"][::3] == [1, 1]
    assert woman["recall"]["woman"][0] == pytest.approx(1 / (1 + 1))  # one of two labelled, one of two unknown
    assert result["concepts"]["precision"][::3] == [1, 1]
    assert ["woman", "woman", "women", 0.0] in [row[:4] for row in result["words"]] or [
        "woman", "woman", "woman", 0.0] in [row[:4] for row in result["words"]]  # fmt: skip
    assert "Labels against the reader" in capsys.readouterr().out
    check = read_check(out)
    notes = check.notes(["woman"])
    assert "too poor to balance on" in notes[1]
    assert check.share("woman") is not None


def test_what_is_filled_in_is_not_overwritten(shard: Path, tmp_path: Path) -> None:
    draw_command(shard, tmp_path / "check")
    with pytest.raises(UserError, match="may be filled in"):
        draw_command(shard, tmp_path / "check")


@pytest.mark.parametrize(
    ("answers", "message"),
    [({}, "no row with a 'truth'"), ({("woman", "woman"): ["lady"]}, "truth is 'lady'; write y, n, . or one of woman")],
)
def test_bad_answers(answers: dict[tuple[str, str], list[str]], message: str, shard: Path, tmp_path: Path) -> None:
    draw_command(shard, tmp_path / "check")
    fill(tmp_path / "check", answers)
    with pytest.raises(UserError, match=message):
        main([f"read={tmp_path / 'check'}"])


@pytest.mark.parametrize("arguments", [[], ["out=a", "read=b"]])
def test_draw_or_read(arguments: list[str]) -> None:
    with pytest.raises(UserError, match="Give out="):
        main(arguments)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape("no folder that scripts/label_check.py drew into")):
        main([f"read={tmp_path}"])
    with pytest.raises(UserError, match=re.escape("no file that scripts/label_check.py read=... wrote")):
        read_check(tmp_path)


def test_the_audit_shows_the_check(shard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from scripts.audit import main as audit

    out = tmp_path / "check"
    draw_command(shard, out)
    fill(out, {("woman", "woman"): ["n", "n"], ("woman", "not woman"): ["y", "y"], ("woman", UNKNOWN): ["y", "y"]})
    main([f"read={out}"])
    capsys.readouterr()
    data = [f"data.train={shard}", "attributes=captions"]
    audit([*data, f"out={tmp_path / 'audit'}", f"label_check={out}", "bootstrap=100"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Labels of 'woman' are too poor to balance on" in said
    assert "without the labels' errors" in said
    assert "concepts with at least 30 samples of known woman" in said
    page = (tmp_path / "audit" / "audit.html").read_text()
    assert "too poor to balance on" in page
    assert "Only 0 of" in page
