"""Evaluation data that a command names: what is not there is an error before the start, what was trained on is said."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from balance.errors import UserError
from conf.app.cli import compose, stored_config
from scripts.suite_tools import compose_suite
from tests.conftest import ROOT
from tests.launching import run
from tests.tiny import people_shards


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("eval.root=/nowhere", r"^eval\.root=/nowhere: there is no such folder"),
        ("++eval.root=/nowhere", r"^eval\.root=/nowhere: there is no such folder"),
        ("eval.sets.imagenet.path=/nowhere", r"^eval\.sets\.imagenet\.path: nothing matches '/nowhere'"),
        ("eval.sets.imagenet.path=/nowhere/{a,b}", r"^eval\.sets\.imagenet\.path: nothing matches '/nowhere/a'"),
        ("eval.sets.imagenet.path=[/nowhere/x.tar]", r"^eval\.sets\.imagenet\.path: nothing matches"),
        ("+eval.sets.faces={path: /nowhere}", r"^eval\.sets\.faces\.path: nothing matches '/nowhere'"),
        ("eval.sets={faces: {path: /nowhere/faces}}", r"^eval\.sets\.faces\.path: nothing matches '/nowhere/faces'"),
        (
            "+eval.sets.faces={path: ., labels: none.csv}",
            r"^eval\.sets\.faces\.labels=none\.csv: there is no such file",
        ),
    ],
)
def test_a_set_that_the_command_names_and_is_not_there_is_an_error(override: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        compose(["data=wds", "data.train=x", override])
    with pytest.raises(UserError, match=sentence):
        compose_suite([override], "wds")


def test_what_is_there_or_not_named_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERBALANCE_DATA", "/nowhere")
    (tmp_path / "b").mkdir()
    for named in ([], [f"eval.root={tmp_path}"], [f"eval.sets.imagenet.path={tmp_path}/{{a,b}}"], ["eval.root=null"]):
        assert compose(["data=wds", "data.train=x", *named]).eval.sets


def test_a_suite_file_and_a_run_gone_on_with_are_checked_alike(
    tmp_path: Path, straight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text("root: x\nsets: {faces: {path: '${eval.root}/faces'}}\nevaluators: {}\n")
    assert compose_suite([], str(suite)).eval.root == "x"
    with pytest.raises(UserError, match=r"^eval\.root=/nowhere: there is no such folder"):
        compose_suite(["eval.root=/nowhere"], str(suite))
    command = [f"name={straight.name}", f"runs={straight.parent}", "resume=true"]
    assert stored_config(command) is not None
    with pytest.raises(UserError, match=r"^eval\.sets\.faces\.path: nothing matches '/nowhere'"):
        stored_config([*command, "eval.sets.faces.path=/nowhere"])


def test_the_command_ends_before_anything_loads(tmp_path: Path) -> None:
    """Also for the jobs of a sweep, each of which is composed when its turn comes."""
    command = [sys.executable, "train.py", "data=wds", "data.train=x", f"runs={tmp_path}"]
    for arguments in (["eval.root=/nowhere"], ["-m", "eval.root=/nowhere,/nowhere/else"]):
        ended = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
        assert ended.returncode == 2
        assert "error: eval.root=/nowhere: there is no such folder" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_data_eval_that_was_trained_on_is_said(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = Path(people_shards(tmp_path / "apart", [20])[0])
    (tmp_path / "linked.tar").symlink_to(world / "train" / "train-00001.tar")
    monkeypatch.chdir(tmp_path)
    both = "data.eval=[linked.tar,apart/train-00000.tar]"
    said = "data.eval: 1 of its 2 shards are in data.train, too, such as linked.tar"
    assert run(world, tmp_path / "runs", "name=a", "schedule.epochs=1", both) == 0
    assert f"note: {said}" in capsys.readouterr().out
    assert run(world, tmp_path / "runs", "name=b", "dry_run=true", both) == 0
    assert f"warning: {said}" in capsys.readouterr().out
    assert run(world, tmp_path / "runs", "name=b", "dry_run=true", f"data.eval={apart}") == 0
    assert "are in data.train" not in capsys.readouterr().out
