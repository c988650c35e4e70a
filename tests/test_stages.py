"""Stages: rates change where they should, and a run cut anywhere goes on across the boundary bit for bit."""

import json
import signal
from pathlib import Path

import pytest

from balance.errors import UserError
from balance.stages import split_by_share, stage_specs
from tests.launching import before_step, measured, run, terminate

M4 = {"name": "m4", "method": "dual", "keep": "auto"}


def staged(*more: str) -> list[str]:
    return ["name=a", "stage.share=0.4", "schedule.epoch_samples=80", *more]  # 15 steps, balanced from the 9th on


@pytest.fixture(scope="module")
def staged_run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("staged")
    assert run(world, runs, *staged()) == 0
    return runs / "a"


def test_the_boundary_is_noted_where_it_is(staged_run: Path) -> None:
    stages = [(row["step"], row["value"]) for row in measured(staged_run) if row["name"] == "train/stage"]
    assert stages == [(0, 0), (9, 1)]
    config = (staged_run / "config.yaml").read_text()
    assert "stages:" in config
    assert "share: 0.6" in config


def test_what_is_accepted_is_held_against_the_plan_of_its_stage(staged_run: Path) -> None:
    planned = [r["value"] for r in measured(staged_run) if r["name"] == "accepted/planned_share[woman]"]
    assert len(planned) == 4  # ends of three epochs, and of the first stage within the second
    assert planned[0] == planned[1] < 0.45
    assert planned[2] == planned[3] == pytest.approx(0.5, abs=0.011)


@pytest.mark.parametrize("step", [8, 9, 10])
def test_resume_is_exact_across_the_boundary(world: Path, staged_run: Path, tmp_path: Path, step: int) -> None:
    with before_step(step, terminate):
        assert run(world, tmp_path, *staged()) == 128 + signal.SIGTERM
    assert run(world, tmp_path, *staged("resume=true")) == 0
    assert measured(tmp_path / "a") == measured(staged_run)


def test_a_stage_of_the_whole_run_is_the_run_without_stages(world: Path, tmp_path: Path) -> None:
    assert run(world, tmp_path, "name=a", "stage.share=1", "schedule.epochs=1") == 0
    assert run(world, tmp_path, "name=b", "schedule.epochs=1") == 0
    assert measured(tmp_path / "a") == measured(tmp_path / "b")


def test_three_stages_with_settings_of_their_own(world: Path, tmp_path: Path) -> None:
    stages = "stages=[{share: 0.25, balance: none},{share: 0.5, balance: {keep: 0.5}},{share: 0.25, balance: m4}]"
    assert run(world, tmp_path, "name=a", stages, "schedule.epochs=2") == 0
    assert [r["value"] for r in measured(tmp_path / "a") if r["name"] == "train/stage"] == [0, 1, 2]
    title = json.loads((tmp_path / "a/plan/data.json").read_text())["title"]
    assert "keep rate 0.50" in title  # the first balanced stage stands for the run


def test_specs_of_a_run_without_stages() -> None:
    (spec,) = stage_specs([], M4)
    assert (spec.name, spec.share, spec.balance) == ("m4", 1.0, M4)


@pytest.mark.parametrize(
    ("share", "order", "names"),
    [
        (0.1, "balanced_last", ["none", "m4"]),
        (0.1, "balanced_first", ["m4", "none"]),
        (1.0, "balanced_last", ["m4"]),
        (0.0, "balanced_first", ["none"]),
    ],
)
def test_a_share_makes_two_stages_or_one(share: float, order: str, names: list[str]) -> None:
    specs = stage_specs(split_by_share(share, order, M4), M4)
    assert [spec.name for spec in specs] == names
    assert sum(spec.share for spec in specs) == pytest.approx(1)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["stage.share=1.5"], "at least 0 and at most 1"),
        (["stage.share=0.5", "stage.order=last"], "stage.order=last must be balanced_last or balanced_first"),
        (["stage.share=0.5", "balance=none"], "take balance=m4"),
        (["stages=[{share: 0.5}]"], "add up to 0.5"),
        (["stages=[{share: 0.5, balance: m5},{share: 0.5}]"], "m5 is not known"),
        (["stages=[{balance: m4}]"], "takes share, balance and name"),
        (["stages=[{share: 0.999},{share: 0.001}]"], "shorter than one"),
        (["stages=[{share: 1}]", "stage.share=0.5"], "give one of them"),
    ],
)
def test_bad_stages_are_told(world: Path, tmp_path: Path, more: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        run(world, tmp_path, *more)
