"""Comparing runs: pairs by seed, their statistics, and the command."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from balance.errors import UserError
from eval.report.rundata import load_run
from eval.treatments import paired_table, treatments
from scripts.compare import main
from tests.conftest import ROOT
from tests.made_run import make_run

ONE, OTHER = [0.10, 0.12, 0.08, 0.05], [0.30, 0.28, 0.35, 0.20]


def runs(folder: Path) -> list[Path]:
    found = []
    for name, values, method in (("balanced", ONE, "dual"), ("plain", OTHER, "none")):
        for seed, value in enumerate(values):
            # the side that a bias leans to does not matter, its size does
            rb = -value if seed == 1 else value
            found.append(make_run(folder, f"{name}-s{seed}", rb=rb, seed=seed, balance={"method": method}))
    return found


def test_runs_are_paired_by_seed_and_compared_as_scipy_does(tmp_path: Path) -> None:
    loaded = [load_run(folder) for folder in runs(tmp_path)]
    assert {name: sorted(group) for name, group in treatments(loaded).items()} == {
        "balanced": [0, 1, 2, 3],
        "plain": [0, 1, 2, 3],
    }
    row = next(row for row in paired_table(loaded[::-1]) if row["label"] == "model RB")
    assert (row["first"], row["second"], row["n"]) == ("plain", "balanced", 4)
    expected = stats.ttest_rel(OTHER, ONE)
    assert row["mean"] == pytest.approx(np.mean(np.subtract(OTHER, ONE)))
    assert row["p_t"] == pytest.approx(expected.pvalue)
    assert (row["low"], row["high"]) == pytest.approx(expected.confidence_interval(0.95))
    assert row["p_wilcoxon"] == pytest.approx(0.125)  # 2^(1 - 4): the smallest there is for four pairs
    same = next(row for row in paired_table(loaded) if row["label"] == "AB")
    assert (same["p_t"], same["p_wilcoxon"]) == (None, None)


def test_equal_differences_have_no_t_test_whatever_rounding_says(tmp_path: Path) -> None:
    loaded = []
    for seed, rb in enumerate((0.1, 0.2, 0.7)):
        loaded += [load_run(make_run(tmp_path, f"plain-s{seed}", rb=rb, seed=seed, balance={"method": "none"}))]
        loaded += [load_run(make_run(tmp_path, f"balanced-s{seed}", rb=rb + 0.1, seed=seed))]
    row = next(row for row in paired_table(loaded) if row["label"] == "model RB")
    assert row["low"] == pytest.approx(row["high"])
    assert row["p_t"] is None


def test_starts_named_by_their_seed_are_one_treatment(tmp_path: Path) -> None:
    starts = {seed: "runs/biased" + (f"-s{seed}" if seed else "") for seed in range(3)}
    loaded = [
        load_run(make_run(tmp_path, f"a-s{seed}", seed=seed, model={"name": "tiny", "init_from": start}))
        for seed, start in starts.items()
    ]
    assert [sorted(group) for group in treatments(loaded).values()] == [[0, 1, 2]]


def test_one_seed_gives_no_statistics(tmp_path: Path) -> None:
    assert paired_table([load_run(folder) for folder in (runs(tmp_path)[0], tmp_path / "plain-s0")]) == []


def test_the_command_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*map(str, runs(tmp_path)), f"out={tmp_path / 'page.html'}", "title=Two treatments"]) == 0
    told = capsys.readouterr().out
    assert "Paired by seed" in told
    assert "over seeds" in told
    page = (tmp_path / "page.html").read_text()
    assert "<h1>Two treatments</h1>" in page
    assert "Over seeds" in page


def test_runs_of_a_sweep_may_have_a_value_in_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [make_run(tmp_path, name) for name in ("lr=0.1", "lr=0.2")]
    monkeypatch.chdir(tmp_path / made[0].parent)
    monkeypatch.setattr(sys, "argv", ["compare.py", *(folder.name for folder in made), f"out={tmp_path / 'page.html'}"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "scripts" / "compare.py"), run_name="__main__")
    assert end.value.code == 0
    assert "lr=0.1" in capsys.readouterr().out


def test_runs_of_other_lengths_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [make_run(tmp_path, name) for name in ("short", "long")]
    page = tmp_path / "page.html"
    assert main([*map(str, folders), f"out={page}"]) == 0
    assert "The runs differ" not in page.read_text() + capsys.readouterr().out
    last = {"step": 50, "epoch": 2.0, "samples": 6_400, "name": "train/loss", "value": 1.0, "low": None, "high": None}
    for folder, more in zip(folders, ({}, {"samples": 7_680}), strict=True):
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(last | more) + "\n")
    assert main([*map(str, folders), f"out={page}"]) == 0
    said = (
        "The runs differ in samples and samples of an epoch, which may explain other differences. "
        "short: 6,400 samples, 3,200 samples of an epoch; long: 7,680 samples, 3,840 samples of an epoch."
    )
    assert said in page.read_text()
    assert f"note: {said}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["one"], "at least two runs"),
        (["nowhere", "else"], "There is no run at nowhere"),
        (["a", "b", "into=x"], "into=x is no option and is not there; the options are out=, title= and picture="),
        (["a", "b", "out=x", "out=y"], "out is given 2 times"),
    ],
)
def test_bad_arguments(arguments: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        main(arguments)


def test_a_run_without_an_evaluation_is_named(tmp_path: Path) -> None:
    folders = [make_run(tmp_path, "a"), make_run(tmp_path, "b")]
    (folders[1] / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="b has no evaluation yet"):
        main([str(folder) for folder in folders])
