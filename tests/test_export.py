"""From a run back to open_clip: exported folders, cards, mixtures with the start; and runs that start from runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

import train
from balance.common.metric import read_metrics
from balance.errors import UserError
from conf.app.cli import compose
from eval.report.rundata import load_run
from models.checkpoint import list_checkpoints, load_checkpoint
from models.export import export
from models.factory import create
from models.weights import read_weights
from scripts import export as export_script
from scripts import interpolate
from tests.launching import before_step, data_overrides, measured, power_cut, run
from tests.small_model import CONFIG, build, features
from tests.wandb_file import read_offline


def start_run(world: Path, runs: Path, *more: str) -> None:
    assert run(world, runs, "schedule.epochs=1", *more) == 0


@pytest.fixture(scope="module")
def runs(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`first`, from random weights, and `second`, which adapts it."""
    runs = tmp_path_factory.mktemp("runs")
    start_run(world, runs, "name=first")
    wanted = [f"model.init_from={runs / 'first'}", "model.lora={rank: 2, alpha: 8}", "model.ema=0.5", "optim.lr=0.05"]
    given = [*data_overrides(world, runs), "balance.min_concept_samples=5", "schedule.epochs=2"]
    assert train.main(compose([*given, "name=second", "model=from", "optim.layer_decay=0.9", *wanted])) == 0
    return runs


def loaded(folder: Path) -> tuple[torch.nn.Module, Any]:
    """What open_clip makes of a folder."""
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval(), open_clip.get_tokenizer(f"local-dir:{folder}")


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_open_clip_loads_what_is_exported_and_finds_the_same_features(loss: str, tmp_path: Path) -> None:
    config = CONFIG if loss == "clip" else {**CONFIG, "init_logit_bias": -10}
    torch.manual_seed(0)
    ours = create("small", config, {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "resize_mode": "squash"})
    folder = tmp_path / "out"
    export(ours, folder, "# card")
    model, tokenizer = loaded(folder)
    texts = ["a photo of a nurse", "zwei Hunde"]
    assert torch.equal(tokenizer(texts), ours.tokenizer(texts))
    pixels = torch.randn(3, 3, 32, 32)
    ours.model.eval()
    assert torch.equal(model.encode_image(pixels), ours.model.encode_image(pixels))  # type: ignore[operator]
    assert torch.equal(model.encode_text(tokenizer(texts)), ours.model.encode_text(ours.tokenizer(texts)))  # type: ignore[operator]
    for scalar in ("logit_scale", "logit_bias") if loss == "siglip" else ("logit_scale",):
        assert torch.equal(model.state_dict()[scalar], ours.model.state_dict()[scalar])
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # whoever may read one file may read all
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    assert tuple(map(tuple, (transform.transforms[-1].mean, transform.transforms[-1].std))) == (ours.mean, ours.std)
    assert [str(t) for t in transform.transforms[: len(ours.resize.transforms)]] == [  # type: ignore[attr-defined]
        str(t)
        for t in ours.resize.transforms  # type: ignore[attr-defined]
    ]


def test_an_export_is_complete_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr("models.export.preprocessing", lambda facts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(build(), out, "")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    export(build(), out, "old")
    with pytest.raises(UserError, match="overwrite=true"):
        export(build(), out, "new")
    assert (out / "README.md").read_text() == "old"
    export(build(), out, "new", overwrite=True)
    assert (out / "README.md").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is no exported model"):
        export(build(), tmp_path / "mine", "", overwrite=True)


def test_a_run_adapts_another(runs: Path) -> None:
    first, second = (load_run(runs / name) for name in ("first", "second"))
    # It starts where the other ended: equal metrics before its first step, adapters and all.
    for name, rows in first.evaluated().items():
        assert second.series[name][0]["value"] == pytest.approx(rows[-1]["value"], abs=1e-5)
    model = second.config["model"]
    assert model["name"] == "first"
    assert model["config"] == first.config["model"]["config"]
    state = load_checkpoint(list_checkpoints(runs / "second/checkpoints")[-1])
    assert state["lora_scale"] == 4
    assert all(".lora_" in name or name == "logit_scale" for name in state["ema"]["average"])


def test_an_adapted_run_goes_on_bit_for_bit_without_its_start(world: Path, runs: Path, tmp_path: Path) -> None:
    source = tmp_path / "start.pt"
    torch.save(read_weights(list_checkpoints(runs / "first/checkpoints")[-1], "x").tensors, source)
    wanted = [f"model.init_from={source}", "model.lora={rank: 2}", "model.ema=0.9", "model.freeze={image: 0}"]
    start_run(world, tmp_path, "name=whole", *wanted)
    with before_step(3, power_cut), pytest.raises(RuntimeError, match="power cut"):
        start_run(world, tmp_path, "name=cut", "checkpoint.every_steps=1", *wanted)
    source.unlink()
    start_run(world, tmp_path, "name=cut", "checkpoint.every_steps=1", "resume=true", *wanted)
    assert measured(tmp_path / "cut") == measured(tmp_path / "whole")


def test_the_script_exports_what_was_measured(runs: Path, tmp_path: Path) -> None:
    out = export_script.run([f"run={runs / 'second'}", f"out={tmp_path / 'out'}", "license=apache-2.0"])
    model, tokenizer = loaded(out)
    ours = create("from", init_from=str(runs / "second"))
    assert torch.equal(model.encode_text(tokenizer(["a nurse"])), ours.model.eval().encode_text(tokenizer(["a nurse"])))  # type: ignore[operator]
    again = create("from", init_from=str(out))
    assert torch.equal(features(again), features(ours))
    raw = export_script.run([f"run={runs / 'second'}", f"out={tmp_path / 'raw'}", "ema=false"])
    assert not torch.equal(features(create("from", init_from=str(raw))), features(ours))

    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == "open_clip"
    assert card.data.license == "apache-2.0"
    results = {(r.dataset_name, r.metric_type): r for r in card.data.eval_results or []}
    row = load_run(runs / "second").series["rb/mean_parity"][-1]
    result = results["faces", "mean_parity"]
    assert result.metric_value == pytest.approx(row["value"], abs=1e-6)
    assert result.metric_args["low"] == row["low"]
    assert result.metric_args["count"] == row["count"]
    for text in ("## Measured bias", "## Measured quality", "## Training data", "## Limits", "RB: largest gap"):
        assert text in card.text
    head = yaml.safe_load((out / "README.md").read_text().split("---")[1])
    assert head["model-index"][0]["name"] == "second"
    assert str(runs) not in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["out=x"], "Name the run"),
        (["run=nowhere", "out=x"], "There is no run at nowhere"),
        (["run={runs}/first", "out=x", "checkpoint=99"], "'99' is none of"),
        (["run={runs}/first", "out=x", "cehckpoint=9"], "is not an option"),
    ],
)
def test_what_cannot_be_exported(runs: Path, arguments: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        export_script.run([argument.format(runs=runs) for argument in arguments])
    assert not Path("x").exists()


def test_an_export_is_kept_in_wandb(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "second"
    shutil.copytree(runs / "second", run)
    export_script.run([f"run={run}", f"out={tmp_path / 'out'}", "wandb=offline"])
    found = read_offline(run)
    assert found["artifacts"]["second-model"] == "model"
    assert found["run"]["job_type"] == "export"
    with pytest.raises(UserError, match="wandb=maybe is not known"):
        export_script.run([f"run={run}", f"out={tmp_path / 'more'}", "wandb=maybe"])


def test_mixtures_of_a_run_with_its_start(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [f"run={runs / 'second'}", f"out={tmp_path / 'mix'}"]
    out = interpolate.run([*arguments, "alphas=[0,0.5]"])
    before = (out / "interpolation.jsonl").read_text()
    out = interpolate.run([*arguments, "alphas=[0,0.5,1]"])
    assert (out / "interpolation.jsonl").read_text().startswith(before)  # goes on with what is missing
    at = {(row["alpha"], row["name"]): row["value"] for row in read_metrics(out / "interpolation.jsonl")}
    series = load_run(runs / "second").series
    for name in ("rb/mean_parity", "ab/max", "job/top1"):
        assert at[0.0, name] == pytest.approx(series[name][0]["value"], abs=1e-5)
        assert at[1.0, name] == pytest.approx(series[name][-1]["value"], abs=1e-5)
    assert "<svg" in (out / "interpolation.svg").read_text()
    with pytest.raises(UserError, match="from random weights"):
        interpolate.run([f"run={runs / 'first'}", f"out={tmp_path / 'none'}"])
    with pytest.raises(UserError, match="mixtures of other weights"):
        interpolate.run([*arguments, f"start={runs / 'first'}"])
    with pytest.raises(UserError, match="from 0"):
        interpolate.run([*arguments, "alphas=[2]"])


def test_a_mixture_is_linear_and_exact_at_its_ends() -> None:
    start = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}
    end = {"w": torch.tensor([2.0, 4.0]), "n": torch.tensor(9)}
    assert torch.equal(interpolate.mix(start, end, 0.25)["w"], torch.tensor([1.25, 2.5]))
    assert interpolate.mix(start, end, 0.25)["n"] == 3
    assert interpolate.mix(start, end, 1.0)["w"] is end["w"]
    assert interpolate.mix(start, end, 0.0)["w"] is start["w"]
    assert json.dumps(list(interpolate.mix(start, end, 0.5))) == '["w", "n"]'
