"""A dry run: known sizes of known models, an estimate of memory held against what autograd keeps, every warning."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import train
from balance.errors import UserError
from balance.labels.pictures import PROMPTS_FOLDER, load_prompts
from conf.app.cli import compose
from conf.app.dry_run import undecidable
from models.factory import create
from models.losses import ContrastiveLoss, contrastive_loss
from models.training.cost import measure_cost, shape_of
from tests.launching import MODEL, run, tiny_overrides
from tests.tiny import people_shards


def told(world: Path, runs: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert train.main(compose(tiny_overrides(world, runs, "name=a", "dry_run=true", *more))) == 0
    return " ".join(capsys.readouterr().out.split())


# Entered by hand, as remembered from open_clip's table of profiles: millions of parameters, and billions of
# multiply-adds for a picture and a text.
@pytest.mark.parametrize(
    ("preset", "millions", "gmacs"),
    [("vit_b32", 151.28, 7.40), ("vit_b16", 149.62, 20.57), ("vit_s16", 62.26, 6.30), ("siglip_b16", 203.16, 23.45)],
)
def test_presets_have_the_known_sizes(preset: str, millions: float, gmacs: float) -> None:
    name = compose([f"model={preset}"]).model.name
    shape = shape_of(name)
    assert shape is not None
    model, loss, size = shape
    assert size == 224
    cost = measure_cost(model, loss, size, 8)
    assert cost.trained / 1e6 == pytest.approx(millions, abs=0.01)
    assert (cost.image_flops + cost.text_flops) / 2e9 == pytest.approx(gmacs, rel=0.02)
    # Backward costs about twice what forward does.
    assert cost.step_flops == pytest.approx(3 * 8 * (cost.image_flops + cost.text_flops), rel=0.05)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_estimate_of_memory_is_what_autograd_keeps(precision: str) -> None:
    def build(device: str) -> torch.nn.Module:
        with torch.device(device):
            return create("test", MODEL, device=device).model

    estimate = measure_cost(build("meta"), "clip", 16, 32, precision).activation_bytes
    model, kept = build("cpu"), {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    images, texts = torch.randn(32, 3, 16, 16), torch.zeros(32, 12, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.nn.attention.sdpa_kernel([torch.nn.attention.SDPBackend.MATH]), autocast:
            output = model(images, texts)
        contrastive_loss(ContrastiveLoss("clip"), output)
    assert estimate == pytest.approx(sum(size for size, _ in kept.values()), rel=0.01)


def test_micro_batches_take_less_memory_and_one_more_forward() -> None:
    def cost(parts: int):  # type: ignore[no-untyped-def]
        with torch.device("meta"):
            model = create("test", MODEL, device="meta").model
        return measure_cost(model, "clip", 16, 64, micro_batches=parts)

    whole, parts = cost(1), cost(4)
    assert parts.activation_bytes < 0.5 * whole.activation_bytes
    assert parts.step_flops == pytest.approx(4 / 3 * whole.step_flops, rel=0.1)


def test_a_good_run_is_described_and_not_started(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = told(world, tmp_path, capsys)
    assert "Nothing was started." in said
    assert "parameters, trained / frozen" in said
    assert "60 pictures" in said or "30 pictures" in said
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["data.batch_size=4000"], "fewer than one batch of 4,000"),
        (["data.workers=5"], "There are 3 shards for 5 readers"),
        (["data.batch_size=50"], "batches of 50: too little to train much on"),
        ([], "Evaluation sets of fewer than 100 images (faces 30, held_out 30): their figures will hardly tell"),
        (["schedule.epoch_samples=10"], "warning: An epoch of 10 samples does not fill one batch of 16"),
        (["dry.processes=7"], "There are 3 shards for 7 readers"),
        (["data.eval=null", "data.holdout=0", "eval.evaluators={}"], "Nothing would be evaluated"),
        (["schedule.epochs=100"], "would be seen about"),
        (["balance.keep=0.99"], "can't be met"),
        (["eval.evaluators={job: {kind: zeroshot, set: faces, label: occupation, classes: [nurse, doctor, chef],"
          " templates: ['a photo of one person who is said to be working as a very good {c}']}}"], "cuts 3 prompt(s)"),
        (["model.context_length=4"], "captions, such as"),
    ],
)  # fmt: skip
def test_what_would_go_wrong_is_said(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], sentence: str
) -> None:
    assert sentence in told(world, tmp_path, capsys, *more)


def test_more_workers_than_cores_are_a_warning_and_a_note(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = "2 loader workers would share 1 core(s), which is slower than fewer; lower data.workers."
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})
    assert f"warning: {sentence}" in told(world, tmp_path, capsys, "data.workers=2")
    # What warns is an error in these tests, so that torch's own warnings would end the run.
    assert run(world, tmp_path, "name=a", "data.workers=2", "schedule.epochs=1") == 0
    assert f"note: {sentence}" in capsys.readouterr().out
    assert "loader workers" not in told(world, tmp_path, capsys, "data.workers=1", "overwrite=true")


def test_labels_by_images_that_are_often_wrong_are_a_warning(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not train.main(compose(tiny_overrides(world, tmp_path, "name=b", "schedule.epochs=1")))
    (made,) = [path for path in (tmp_path / "attributes").iterdir() if path.is_dir()]
    given = [f"attributes.files={made}", "attributes.name=pictures"]
    unknown = told(world, tmp_path, capsys, *given, "attributes.sources=[{kind: pictures, prompts: gender}]")
    assert "the labels by images with the prompts gender are right is not known: measure it" in unknown
    prompts = tmp_path / "mine.yaml"
    for accuracy, doubtful in ((0.535, True), (0.9, False)):
        prompts.write_text((PROMPTS_FOLDER / "gender.yaml").read_text() + f"accuracy: {accuracy}\n")
        said = told(world, tmp_path, capsys, *given, f"attributes.sources=[{{kind: pictures, prompts: {prompts}}}]")
        assert (f"the prompts {prompts} are right for 53.5% of labelled images" in said) == doubtful
    prompts.write_text((PROMPTS_FOLDER / "gender.yaml").read_text() + "accuracy: high\n")
    with pytest.raises(UserError, match=r"accuracy=high must lie in \[0, 1\]"):
        load_prompts(str(prompts))


def test_damaged_shards_are_a_warning(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    shutil.copytree(world / "train", data)
    (data / "zeros.tar").write_bytes(b"\0" * 30_000)
    said = told(world, tmp_path, capsys, f"data.train={data}", "data.max_bad=0.6")
    assert re.search(
        r"warning: 1 of \d+ shards damaged, about \d+ samples lost: \S*zeros.tar \(nothing but zeros", said
    )


def test_a_disk_too_small_and_a_name_taken(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/config.yaml").write_text("name: a")
    monkeypatch.setattr("conf.app.dry_run.shutil.disk_usage", lambda where: type("Usage", (), {"free": 10}))
    said = told(world, tmp_path, capsys)
    assert "The checkpoints take up to" in said
    assert "choose another name, or add resume=true" in said


def test_a_mistake_is_an_error_in_a_dry_run_too(tmp_path: Path) -> None:
    people_shards(tmp_path / "train", [20])
    people_shards(tmp_path / "eval", [10])
    with pytest.raises(UserError, match="did you mean 'woman'"):
        train.main(compose(tiny_overrides(tmp_path, tmp_path / "runs", "dry_run=true", "balance.target={wmoan: 0.5}")))


def test_targets_that_a_set_is_too_small_for_are_told() -> None:
    evaluators = {"rb": {"kind": "parity"}, "d": {"kind": "eat"}}
    wanted = {"rb/mean_parity": 0.05, "d/mean_size": 0.05, "rb/share": 0.5}
    config: Any = SimpleNamespace(stop=SimpleNamespace(targets=wanted), eval=SimpleNamespace(evaluators=evaluators))
    (told,) = undecidable(config, {"rb/mean_parity": 95, "d/mean_size": 95, "rb/share": 95})
    assert told == (
        "stop.targets.rb/mean_parity=0.05 can't be decided on 95 images: the interval may be as wide as the "
        "value ±0.20; about 6,147 images would decide it."
    )
    assert undecidable(config, {"rb/mean_parity": 6147, "rb/share": None}) == []
