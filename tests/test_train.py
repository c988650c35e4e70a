"""Whole runs on tiny shards: what they leave behind, and bad input told early."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import train
from balance.common.metric import read_metrics
from balance.errors import UserError
from conf.app.cli import compose
from conf.app.run import resume_command
from eval.report.summary import summarise
from models.checkpoint import best_checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from tests.commands import start
from tests.launching import MODEL, measured, run, tiny_overrides
from tests.tiny import people_meta, people_shards, sample, write_tar


def test_a_run_leaves_what_it_promises(straight: Path) -> None:
    assert {"config.yaml", "metrics.jsonl", "plan", "checkpoints", "report.html"} <= {
        p.name for p in straight.iterdir()
    }
    assert {"plan.json", "cells.parquet", "data.json"} <= {p.name for p in (straight / "plan").iterdir()}
    names = {row["name"] for row in measured(straight)}
    assert {"train/loss", "rb/mean_parity", "ab/max", "job/top1", "retrieval/image_to_text_r5", "data/rb"} <= names
    assert {"step", "epoch", "samples", "name", "value", "low", "high"} <= set(measured(straight)[0])
    epochs = {row["epoch"] for row in measured(straight) if row["name"] == "rb/mean_parity"}
    assert epochs == {0, 1, 2, 3}
    sets = json.loads((straight / "evaluation_sets.json").read_text())
    assert all(found["images"] > 0 and found["left_out"] == {} for found in sets.values())
    page = (straight / "report.html").read_text()
    assert "<svg" in page
    assert "mean parity" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_accepted_samples_follow_the_plan(straight: Path) -> None:
    last = {row["name"]: row["value"] for row in measured(straight)}
    assert abs(last["accepted/share[woman]"] - last["accepted/planned_share[woman]"]) < 0.1
    assert last["accepted/largest_deviation"] < 4
    assert last["data/rb"] <= 0.011


def test_the_best_checkpoint_is_kept_beside_the_newest(world: Path, tmp_path: Path) -> None:
    wanted = ("checkpoint.best=retrieval/image_to_text_r5", "checkpoint.keep=1", "checkpoint.every_steps=3")
    assert run(world, tmp_path, "name=a", *wanted) == 0
    rows = [r for r in measured(tmp_path / "a") if r["name"] == "retrieval/image_to_text_r5" and r["step"] > 0]
    best = max(rows, key=lambda row: row["value"])  # the first of equals
    chosen = best_checkpoint(tmp_path / "a/checkpoints")
    assert chosen is not None
    assert chosen.name == f"step-{best['step']:08d}.pt"
    names = {path.name for path in list_checkpoints(tmp_path / "a/checkpoints")}
    assert names == {chosen.name, f"step-{rows[-1]['step']:08d}.pt"}


def test_what_is_not_finite_stops_the_run_and_overwrites_nothing(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = train.Trainer.step

    def broken(training: train.Trainer, batch: Any) -> torch.Tensor:
        value = original(training, batch)
        if training.progress.step == 5:  # the sixth
            what = training.bundle.model.text_projection if weights else value
            with torch.no_grad():
                what.mul_(float("inf"))  # type: ignore[union-attr, operator]
        return value

    monkeypatch.setattr(train.Trainer, "step", broken)
    for weights, sentence in ((False, "loss is inf at step 6"), (True, "text_projection")):
        name = f"weights{weights}"
        with pytest.raises(UserError, match=sentence):
            run(world, tmp_path, f"name={name}", "checkpoint.every_steps=2", "track.every=100")
        assert list_checkpoints(tmp_path / name / "checkpoints")[-1].name == "step-00000004.pt"


def test_siglip_and_no_balancing(world: Path, tmp_path: Path) -> None:
    config = json.dumps({**MODEL, "init_logit_bias": -10}).replace('"', "")
    assert run(world, tmp_path, "balance=none", "model.loss=siglip", f"model.config={config}", "schedule.epochs=1") == 0
    (folder,) = [path for path in tmp_path.iterdir() if (path / "metrics.jsonl").exists()]
    assert folder.name == "wds-test-none-s0"
    last = {row["name"]: row["value"] for row in measured(folder)}
    assert last["data/kept"] == 1
    assert not (folder / "plan/plan.json").exists()
    assert max(row["samples"] for row in measured(folder)) == 192  # all 200, in whole batches
    weights = load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])["model"]
    assert float(weights["logit_bias"]) != -10  # it is learned
    assert float(weights["logit_bias"]) == pytest.approx(-10, abs=0.5)
    assert last["train/loss"] > 0


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_weights_in_the_loss_see_all_samples_and_follow_the_plan(world: Path, tmp_path: Path, loss: str) -> None:
    config = MODEL | ({"init_logit_bias": -10} if loss == "siglip" else {})
    wanted = ["name=a", "balance.mode=weight", "optim.accumulate=3", f"model.loss={loss}", "schedule.epochs=1"]
    assert run(world, tmp_path, *wanted, f"model.config={json.dumps(config)}".replace('"', "")) == 0
    rows = {row["name"]: row for row in measured(tmp_path / "a")}
    assert rows["accepted/share[woman]"]["samples"] == 192  # all 200, in whole batches
    assert abs(rows["accepted/share[woman]"]["value"] - rows["accepted/planned_share[woman]"]["value"]) < 0.05
    assert rows["accepted/largest_deviation"]["value"] < 4
    assert rows["data/rb"]["value"] <= 0.011


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["data.train=/nowhere/{0..3}.tar"], "there is no folder /nowhere"),
        (["model.config=null", "model.name=ViT-B-33"], "did you mean ViT-B-32"),
        (["device=tpu"], "device=tpu must be auto, cpu or cuda"),
        (["precision=fp8"], "precision=fp8 must be auto, fp32, bf16 or fp16"),
        (["resume=true", "name=none"], "no run to resume"),
        (["balance.target={woman: 1.4}"], "1.4"),
        (["balance.target={wmoan: 0.5}"], "did you mean 'woman'"),
        (["balance.keep=1.5"], "max_repeat"),
        (["balance.mode=loss"], "it is sample or weight"),
        (["optim.accumulate=17"], "it is 1 to 16"),
        (["checkpoint.every_steps=0"], "must be at least 1"),
        (["checkpoint.best_mode=least"], "best_mode=least must be max or min"),
        (["checkpoint.best=rb/mean_partiy"], "is not measured by this run"),
        (["eval.evaluators={rb: {kind: parity, set: nowhere}}"], "is not one of eval.sets"),
        (["eval.evaluators={rb: {kind: partiy, set: faces}}"], "is not known; it is one of"),
        (["data.batch_size=4000"], "does not fill one batch"),
        (["model.loss=siglip"], "needs a logit bias"),
    ],
)
def test_bad_input_is_told_before_anything_is_trained(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], sentence: str
) -> None:
    monkeypatch.setattr(train.Trainer, "step", lambda *a: pytest.fail("training started"))
    with pytest.raises(UserError, match=sentence):
        run(world, tmp_path, *more)


@pytest.mark.parametrize("kept", [None, "launcher.log"])
def test_a_run_that_bad_input_kept_from_beginning_leaves_its_name_free(
    world: Path, tmp_path: Path, kept: str | None
) -> None:
    folder = tmp_path / "a"
    if kept:
        folder.mkdir()
        (folder / kept).write_text("mine")
    for wrong in ("data.batch_size=4000", "balance.target={wmoan: 0.5}", "checkpoint.best_mode=least"):
        with pytest.raises(UserError):
            run(world, tmp_path, "name=a", wrong)
        assert sorted(path.name for path in tmp_path.glob("a/*")) == ([kept] if kept else [])
        assert folder.exists() == bool(kept)


def test_a_run_that_could_not_be_overwritten_stays(world: Path, straight: Path, tmp_path: Path) -> None:
    shutil.copytree(straight, tmp_path / "a")
    before = sorted((path, path.read_bytes()) for path in (tmp_path / "a").rglob("*") if path.is_file())
    for more in (["data.batch_size=4000"], ["resume=true", "data.batch_size=4000"]):
        with pytest.raises(UserError):
            run(world, tmp_path, "name=a", "overwrite=true", *more)
        assert before == sorted((path, path.read_bytes()) for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert run(world, tmp_path, "name=a", "overwrite=true", "schedule.epochs=1") == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".", "a"))) == ["a", "attributes"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_run_is_overwritten_once_its_successor_is_ready(
    world: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def stopped(*arguments: Any, **more: Any) -> Any:
        raise error

    shutil.copytree(straight, tmp_path / "a")
    before = sorted(path for path in tmp_path.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(train, "make_parts", stopped)
        with pytest.raises(error):
            run(world, tmp_path, "name=a", "overwrite=true")
    assert before == sorted(path for path in tmp_path.rglob("*"))


def test_a_run_ends_with_its_headline_figures(world: Path, straight: Path, tmp_path: Path) -> None:
    said = summarise(straight)
    values = [row["value"] for row in read_metrics(straight / "metrics.jsonl") if row["name"] == "rb/mean_parity"]
    assert f"{values[0]:.3f} [" in said
    assert f"{values[-1] - values[0]:+.3f}" in said
    (line,) = (line for line in said.splitlines() if line.startswith("│ rb "))
    assert line.index(f"{values[0]:.3f}") < line.rindex(f"{values[-1]:.3f}")
    config = yaml.safe_load((straight / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert summarise(tmp_path) == ""


def test_what_goes_on_with_a_run_can_be_copied(tmp_path: Path) -> None:
    config = compose(["name=mine"])
    assert resume_command(config) == "python train.py name=mine resume=true"
    config.runs = "my runs"
    assert resume_command(config) == "python train.py name=mine runs='my runs' resume=true"


def test_a_run_of_the_same_name_is_not_overwritten_unasked(world: Path, straight: Path) -> None:
    before = (straight / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="overwrite=true"):
        run(world, straight.parent, "name=a")
    assert (straight / "metrics.jsonl").read_bytes() == before


def test_an_attribute_that_no_sample_bears(tmp_path: Path) -> None:
    people_shards(tmp_path / "train", [40], lambda n: {**people_meta(n), "gender": None})
    people_shards(tmp_path / "eval", [10])
    with pytest.raises(UserError, match="unknown for all 40 samples"):
        run(tmp_path, tmp_path / "runs", "name=a")


def test_bad_samples_are_counted_by_cause_and_too_many_stop_the_run(tmp_path: Path) -> None:
    people_shards(tmp_path / "train", [100])
    people_shards(tmp_path / "eval", [20])
    rows = [("x0", {"jpg": b"no picture", "txt": b"x"}), ("x1", {**sample(1), "txt": b"\xff"}), ("x2", {"txt": b"x"})]
    write_tar(tmp_path / "train/train-00001.tar", rows)
    torn = tmp_path / "train/train-00002.tar"
    write_tar(torn, [(f"y{i}", sample(i, people_meta(i))) for i in range(5)])
    torn.write_bytes(torn.read_bytes()[:4000])
    with pytest.raises(UserError, match=r"undecodable picture 1") as caught:
        run(tmp_path, tmp_path / "runs", "name=a", "data.max_bad=0.01")
    assert "cut short" in str(caught.value)
    assert "caption is not UTF-8 1" in str(caught.value)
    assert run(tmp_path, tmp_path / "runs", "name=b", "data.max_bad=0.5", "schedule.epochs=1") == 0
    notes = json.loads((tmp_path / "runs/b/plan/data.json").read_text())["notes"]
    assert any("3 bad" in note or "4 bad" in note for note in notes), notes


def test_constraints_that_cannot_be_met_are_named(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def notes(name: str, keep: str) -> list[str]:
        assert run(world, tmp_path, f"name={name}", f"balance.keep={keep}", "schedule.epochs=1") == 0
        return json.loads((tmp_path / name / "plan/data.json").read_text())["notes"]

    (said,) = (note for note in notes("a", "1.0") if note.startswith("Over the whole data the share of 'woman'"))
    found = re.search(
        r"stays at (0\.\d+), wanted 0\.500 .*too few samples with 'woman'.*hold at keep <= (0\.\d+)", said
    )
    assert found, said
    assert float(found[1]) < 0.5
    assert said in " ".join(capsys.readouterr().out.split())  # on the terminal, too
    assert not [note for note in notes("b", found[2]) if note.startswith("Over the whole data")]


def test_checkpoints_are_complete_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"step": step, "x": torch.ones(3)})
    assert [path.name for path in list_checkpoints(tmp_path)][1:] == ["step-00000002.pt", "step-00000003.pt"]
    monkeypatch.setattr(torch, "save", lambda state, file: (file.write(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        save_checkpoint(tmp_path, 4, {})
    assert load_checkpoint(list_checkpoints(tmp_path)[-1])["step"] == 3
    (tmp_path / "step-00000009.pt").write_bytes(b"damaged")
    with pytest.raises(UserError, match="can't be read"):
        load_checkpoint(tmp_path / "step-00000009.pt")


@pytest.mark.slow
def test_two_processes_train_and_measure_as_one(world: Path, tmp_path: Path, root: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--master_port=29517",
        str(root / "train.py"),
    ]
    wanted = tiny_overrides(world, tmp_path, "name=two", "data.batch_size=8", "schedule.epochs=1")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *wanted], capture_output=True, text=True, env=environment, cwd=root, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert run(world, tmp_path, "name=one", "schedule.epochs=1") == 0
    one, two = ({(r["name"], r["step"]): r for r in measured(tmp_path / name)} for name in ("one", "two"))
    assert set(one) == set(two)
    # The same model before training: every metric is that of one process.
    for (name, step), row in one.items():
        if step == 0:
            assert two[name, step]["value"] == pytest.approx(row["value"], abs=1e-6)
    assert two["train/loss", 3]["samples"] == one["train/loss", 3]["samples"]


@pytest.mark.slow
def test_the_command_line_and_offline_tracking(world: Path, tmp_path: Path) -> None:
    wanted = tiny_overrides(world, tmp_path, "name=cli", "schedule.epochs=1", "track=offline")
    done = start("train.py", *wanted)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list((tmp_path / "cli/wandb").glob("offline-run-*/*.wandb"))
    wrong = start("train.py", "schedule.epoch=2")
    assert wrong.returncode == 2
    assert wrong.stderr.strip().count("\n") == 0
    assert "did you mean schedule.epochs" in wrong.stderr
    listed = start("train.py", "--help")
    assert "group=choice" in listed.stdout
    assert "tiny_siglip" in listed.stdout


def test_compiling_changes_no_name_of_a_weight(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **kwargs: compiled.append(type(self).__name__))
    names = []
    for name, more in (("plain", ["compile=false"]), ("fast", ["compile=true"])):
        assert run(world, tmp_path, f"name={name}", "schedule.epochs=1", *more) == 0
        names.append(load_checkpoint(list_checkpoints(tmp_path / name / "checkpoints")[-1])["model"].keys())
    assert names[0] == names[1]
    assert compiled == ["AnyLengthCLIP"]
