"""The page of a run: what it says, and how it behaves in a browser."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.report.page import format_number
from eval.report.run_charts import association_test_chart
from eval.report.run_page import render, write_report
from eval.report.run_tables import answer, concept_table, headline_table, verdict
from eval.report.rundata import load_run
from eval.report.summary import summarise
from models.training.provenance import write_provenance
from tests.made_run import make_run


def test_the_page_answers_what_balancing_did(tmp_path: Path) -> None:
    write_report(make_run(tmp_path, "one"))
    page = (tmp_path / "one" / "report.html").read_text()
    assert "Balancing takes RB of the data from 0.170 to 0.010 and AB of the data from 0.100 to 0.020." in page
    assert "of 2 measures of bias 0 are better and 1 is worse" in page
    assert "a sentence" in page
    assert "<b>chef</b>" not in page  # what data hold is text, not markup


def test_a_baseline_that_is_named_stands_beside_the_run(tmp_path: Path) -> None:
    make_run(tmp_path, "base", rb=0.5)
    run = make_run(tmp_path, "mine", rb=0.1, top1=0.5, track={"baseline": "base"})
    page = write_report(run).read_text()
    assert "compared with base" in page
    assert "Against base, of 2 measures of bias 1 is better and 0 are worse" in page
    assert "better (one seed)" in page
    assert "one seed, which is no result yet" in page
    assert "of 1 measures of quality 0 are better and 1 is worse" in page
    shutil.rmtree(tmp_path / "base")
    assert "compared with" not in write_report(run).read_text()


@pytest.mark.parametrize(
    ("one", "other", "direction", "wanted"),
    [
        ((-0.1, -0.2, 0.0), (0.3, 0.25, 0.35), "bias", "better"),
        ((-0.5, -0.6, -0.4), (0.3, 0.25, 0.35), "bias", "worse"),
        ((0.5, 0.4, 0.6), (0.45, 0.4, 0.5), "quality", "within intervals"),
        ((0.9, 0.8, 1.0), (0.45, 0.4, 0.5), "quality", "better"),
        ((0.9, 0.8, 1.0), (0.45, 0.4, 0.5), "other", ""),
        ((0.9, None, None), (0.45, 0.4, 0.5), "quality", ""),
    ],
)
def test_verdicts(one: Any, other: Any, direction: str, wanted: str) -> None:
    keys = ("value", "low", "high")
    assert verdict(dict(zip(keys, one, strict=True)), dict(zip(keys, other, strict=True)), direction) == wanted


def test_bias_is_not_judged_against_a_model_at_chance(tmp_path: Path) -> None:
    untrained = load_run(make_run(tmp_path, "scratch", model={"name": "tiny"}))
    table = headline_table([untrained])
    assert [row["verdict"] for row in table] == ["not comparable", "not comparable", "better"]
    assert "Before training the model was at chance, which is no baseline for bias" in answer([untrained], table)
    assert "measures of bias" not in answer([untrained], table)
    assert "Before training the model was at chance" in summarise(tmp_path / "scratch")
    guessing = make_run(tmp_path, "guessing", top1=0.1)
    path = guessing / "metrics.jsonl"
    rows = [{**json.loads(line), "chance": 0.1} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["name"] != "train/loss"))
    runs = [load_run(guessing), load_run(make_run(tmp_path, "base"))]
    assert [row["verdict"] for row in headline_table(runs)][:2] == ["not comparable"] * 2
    assert "The quality of guessing is at chance, so that its bias is not judged" in render(runs)
    start = load_run(guessing)
    assert start.start_at_chance()
    assert not load_run(tmp_path / "base").start_at_chance(), "nothing is known of its chance"


def test_tables(tmp_path: Path) -> None:
    runs = [load_run(make_run(tmp_path, "a", rb=0.1)), load_run(make_run(tmp_path, "b"))]
    table = headline_table(runs)
    assert [row["direction"] for row in table] == ["bias", "bias", "quality"]
    assert table[0]["change"] == pytest.approx(-0.2)
    concepts = concept_table(runs)
    assert concepts["columns"] == ["a: ab/difference", "b: ab/difference"]
    nurse = next(row for row in concepts["rows"] if row["concept"] == "nurse")
    assert nurse["values"][0]["value"] == 0.1
    assert nurse["before"] == 0.9
    assert "better" in answer(runs, table)


def test_association_tests_of_several_runs_share_a_chart(tmp_path: Path) -> None:
    evaluators = {"weat": {"kind": "eat"}, "rb": {"kind": "parity"}}
    runs = []
    for name, value in (("a", 0.5), ("b", 1.5)):
        folder = make_run(tmp_path, name, eval={"headline": {}, "evaluators": evaluators})
        row = {"step": 10, "epoch": 1, "samples": 1000, "name": "weat/d[flowers]", "value": value, "low": 0, "high": 2}
        with open(folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        runs.append(load_run(folder))
    assert "weat: flowers" in (association_test_chart(runs) or "")
    assert association_test_chart(runs[:1]) is None


def test_provenance_is_kept_over_attempts(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one")
    for _ in range(2):
        write_provenance(run, ["a.tar", "b.tar"], "abc123", torch.device("cpu"), 2)
    found = load_run(run).provenance
    assert found["data and plan"] == "abc123"
    assert found["processes"] == 2
    assert len(found["attempts"]) == 2
    page = write_report(run).read_text()
    assert "2: a.tar … b.tar" in page
    assert found["torch"] in page


def test_numbers_for_people() -> None:
    shown = [format_number(x) for x in (None, 0.0, 0.12345, 1e-5, 12345, 123.45, float("nan"), "x")]
    assert shown == ["–", "0.000", "0.123", "1e-05", "12,345", "123.5", "–", "x"]


def test_figures_of_evaluators_are_kept_for_later_pages(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one")
    write_report(run, {"a curve": "<svg id='curve'></svg>"})
    assert "<svg id='curve'>" in write_report(run).read_text()


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path, "one")).read_text()
    links = re.findall(r'(?:src|href)="([^"#][^"]*)"', page)
    assert [link for link in links if not link.startswith(("data:", "#"))] == []


def test_what_evaluations_left_out_is_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path, "one")
    sets = {
        "held_out": {
            "images": 1200,
            "left_out": {"undecodable picture": 3, "no caption": 1},
            "examples": {"no caption": "x<7>"},
        },
        "faces": {"images": 50, "left_out": {}, "examples": {}},
    }
    (run / "evaluation_sets.json").write_text(json.dumps(sets))
    page = write_report(run, {}, ["ieat is skipped: there is no ../data"]).read_text()
    assert '4 samples of the evaluation sets could not be used and are left out: <a href="#sets">' in page
    assert "3 × undecodable picture; 1 × no caption <small>(such as x&lt;7&gt;)</small>" in page
    assert "ieat is skipped: there is no ../data" in page
    assert "ieat is skipped" in write_report(run).read_text(), "pages that are made later know it too"


def test_a_run_of_an_earlier_version_is_drawn_too(tmp_path: Path) -> None:
    run = make_run(tmp_path, "old")
    data = json.loads((run / "plan/data.json").read_text())
    for row in (row for attribute in data["inside"] for row in attribute["rows"]):
        del row["known"]
    (run / "plan/data.json").write_text(json.dumps(data))
    assert "Share of" in render([load_run(run)])
