"""CLIPModel and SiglipModel folders of transformers: the same features for the same pictures and texts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

import train
from balance.errors import UserError
from conf.app.cli import compose, stored_config
from models.checkpoint import list_checkpoints, load_checkpoint
from models.factory import ModelBundle, create
from models.hf_hub import fetch
from tests.hf_models import clip_folder, siglip_folder
from tests.launching import before_step, data_overrides, terminate

TEXTS = ["a photo of a nurse", "Two DOGS &amp; a chef, at work!", "the woman " * 30, "", "doctor"]
VARIANTS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "clip": (clip_folder, {}),
    "clip, gelu": (clip_folder, {"text": {"hidden_act": "gelu"}, "vision": {"hidden_act": "gelu"}}),
    "clip, tanh": (clip_folder, {"text": {"hidden_act": "gelu_new"}, "vision": {"hidden_act": "gelu_pytorch_tanh"}}),
    "clip, eps": (clip_folder, {"text": {"layer_norm_eps": 1e-3}, "vision": {"layer_norm_eps": 1e-2}}),
    "clip, odd size": (clip_folder, {"vision": {"image_size": 37, "hidden_size": 48, "num_attention_heads": 3}}),
    "clip, old end": (clip_folder, {"text": {"eos_token_id": 2}}),
    "clip, end within": (clip_folder, {"text": {"vocab_size": 150, "intermediate_size": 100}}),
    "siglip": (siglip_folder, {}),
    "siglip, gelu": (siglip_folder, {"text": {"hidden_act": "gelu"}, "vision": {"hidden_act": "gelu"}}),
    "siglip, odd size": (
        siglip_folder,
        {"vision": {"image_size": 37, "intermediate_size": 101, "layer_norm_eps": 1e-3, "num_attention_heads": 2}},
    ),
    "siglip, narrow text": (siglip_folder, {"text": {"hidden_size": 24, "num_hidden_layers": 1}}),
}


def pooled(found: Any) -> torch.Tensor:
    """Features, which transformers gives alone or, from version 5, in an object."""
    tensor: torch.Tensor = getattr(found, "pooler_output", found)
    return tensor.detach()


def processor(folder: Path) -> Any:
    """transformers' image processor that resizes with PIL; version 5 takes torchvision unless told."""
    from transformers.models import clip, siglip

    name = json.loads((folder / "preprocessor_config.json").read_text())["image_processor_type"].removesuffix("Fast")
    module = clip if name.startswith("CLIP") else siglip
    kind = getattr(module, f"{name}Pil", None) or getattr(module, name)
    return kind.from_pretrained(str(folder))


def pictures() -> list[Image.Image]:
    """Noise of sizes whose middles lie between pixels."""
    rng = np.random.default_rng(0)
    sizes = [(40, 51), (64, 37), (33, 32), (90, 41), (20, 27)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def ours(bundle: ModelBundle) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of pictures and texts as training and evaluation make them."""
    pixels = torch.stack([pil_to_tensor(bundle.resize(picture)) for picture in pictures()])
    model: Any = bundle.model.eval()
    with torch.no_grad():
        return model.encode_image(bundle.normalise(pixels)), model.encode_text(bundle.trim(bundle.tokenizer(TEXTS)))


def theirs(model: Any, words: Any, folder: Path, length: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by transformers alone."""
    tokens = words(TEXTS, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    pixels = processor(folder)(pictures(), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return pooled(model.get_image_features(pixels)), pooled(model.get_text_features(**tokens))


@pytest.mark.parametrize("variant", VARIANTS)
def test_features_equal_those_of_transformers(variant: str, tmp_path: Path) -> None:
    make, options = VARIANTS[variant]
    model, words = make(tmp_path / "made", **options)
    bundle = create("from", init_from=str(tmp_path / "made"))
    for found, wanted in zip(ours(bundle), theirs(model, words, tmp_path / "made"), strict=True):
        assert wanted.abs().mean() > 0.1
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    scale: Any = bundle.model.logit_scale
    assert scale.item() == pytest.approx(model.logit_scale.item())
    assert bundle.loss == ("siglip" if make is siglip_folder else "clip")
    assert bundle.trims == (make is clip_folder and variant != "clip, end within")


@pytest.mark.parametrize("make", [clip_folder, siglip_folder])
def test_another_picture_size_interpolates_as_transformers_does(make: Callable[..., Any], tmp_path: Path) -> None:
    model, _ = make(tmp_path / "made")
    pixels = torch.randn(2, 3, 24, 24)
    for size in (24, 48):
        bundle = create("from", init_from=str(tmp_path / "made"), image_size=size)
        pixels = torch.randn(2, 3, size, size)
        with torch.no_grad():
            found = bundle.model.eval().encode_image(pixels)  # type: ignore[operator]
            wanted = pooled(model.get_image_features(pixels, interpolate_pos_encoding=True))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
        assert "is interpolated from" in bundle.notes[0]


@pytest.mark.parametrize("make", [clip_folder, siglip_folder])
def test_shorter_texts_are_those_of_transformers(make: Callable[..., Any], tmp_path: Path) -> None:
    model, words = make(tmp_path / "made")
    bundle = create("from", init_from=str(tmp_path / "made"), context_length=10)
    torch.testing.assert_close(ours(bundle)[1], theirs(model, words, tmp_path / "made", 10)[1], rtol=0, atol=1e-5)
    assert "is cut from 16 to 10 positions" in bundle.notes[0]


def test_divided_half_precision_and_older_files(tmp_path: Path) -> None:
    model, words = clip_folder(tmp_path / "made")
    wanted = theirs(model, words, tmp_path / "made")
    (tmp_path / "made" / "model.safetensors").unlink()
    model.save_pretrained(str(tmp_path / "made"), max_shard_size="20KB")
    assert len(list((tmp_path / "made").glob("model-*.safetensors"))) > 1
    for found, want in zip(ours(create("from", init_from=str(tmp_path / "made"))), wanted, strict=True):
        torch.testing.assert_close(found, want, rtol=0, atol=1e-5)
    index = tmp_path / "made" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["logit_scale"] = "../outside.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"outside\.safetensors.*refused"):
        create("from", init_from=str(tmp_path / "made"))
    for old in (tmp_path / "made").glob("model*"):
        old.unlink()
    # As files of before version 4.31 are: a pickle, with counted positions among the weights.
    older = {**model.state_dict(), "text_model.embeddings.position_ids": torch.arange(16)[None]}
    torch.save(older, tmp_path / "made" / "pytorch_model.bin")
    for found, want in zip(ours(create("from", init_from=str(tmp_path / "made"))), wanted, strict=True):
        torch.testing.assert_close(found, want, rtol=0, atol=1e-5)
    (tmp_path / "made" / "pytorch_model.bin").unlink()
    model.to(torch.bfloat16).save_pretrained(str(tmp_path / "made"))
    half = create("from", init_from=str(tmp_path / "made"))
    assert {tensor.dtype for tensor in half.model.state_dict().values()} == {torch.float32}
    for found, want in zip(ours(half), wanted, strict=True):
        torch.testing.assert_close(found, want, rtol=0, atol=0.1)


def test_a_folder_of_weights_alone_takes_clips_own_tokenizer_or_is_refused(tmp_path: Path) -> None:
    clip_folder(tmp_path / "made", text={"vocab_size": 49408, "eos_token_id": 49407})
    siglip_folder(tmp_path / "siglip")
    for name in ("made", "siglip"):
        for file in ("tokenizer.json", "vocab.json", "preprocessor_config.json"):
            (tmp_path / name / file).unlink()
    bundle = create("from", init_from=str(tmp_path / "made"))
    assert bundle.tokenizer(["a nurse"])[0, :2].tolist() == [49406, 320]
    assert bundle.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    with pytest.raises(UserError, match="has no tokenizer files"):
        create("from", init_from=str(tmp_path / "siglip"))


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("config.json", {"model_type": "siglip2"}, "NaFlex"),
        ("config.json", {"model_type": "blip"}, "has model_type 'blip'"),
        ("config.json", {"auto_map": {"AutoModel": "code.Model"}}, "asks to run Python of its own"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["code.T", None]}}, "asks to run Python of its own"),
        ("config.json", {"text_config.hidden_act": "gelu"}, "open_clip has quick_gelu in both or in none"),
        ("config.json", {"text_config.hidden_act": "relu", "vision_config.hidden_act": "relu"}, "'relu' has no form"),
        ("config.json", {"vision_config.hidden_size": 10**9}, "must be above 0 and at most"),
        ("config.json", {"vision_config.num_channels": 1}, "num_channels=1"),
        ("config.json", {"vision_config.num_hidden_layers": 3}, "lacks|missing"),
        ("preprocessor_config.json", {"resample": 0}, "resample=0"),
        ("preprocessor_config.json", {"do_rescale": False}, "do_rescale=False"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 40}}, "makes pictures of"),
        ("preprocessor_config.json", {"do_center_crop": False}, "does not cut pictures to a square"),
    ],
)
def test_what_can_not_be_had_is_refused_by_name(
    file: str, change: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    clip_folder(tmp_path / "made")
    content = json.loads((tmp_path / "made" / file).read_text())
    for key, value in change.items():
        part, _, last = key.rpartition(".")
        (content[part] if part else content)[last] = value
    (tmp_path / "made" / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=sentence):
        create("from", init_from=str(tmp_path / "made"))


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    clip_folder(tmp_path / "made")
    path = tmp_path / "made" / "model.safetensors"
    weights = load_file(path)
    del weights["text_projection.weight"]
    save_file(weights, path)
    with pytest.raises(UserError, match=r"lacks the tensor text_projection\.weight"):
        create("from", init_from=str(tmp_path / "made"))


def test_the_hub_is_asked_for_what_is_needed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    clip_folder(tmp_path / "there")
    asked: list[list[str]] = []

    def download(repository: str, allow_patterns: list[str], **options: Any) -> str:
        assert repository == "someone/clip"
        assert options["etag_timeout"] <= 10
        asked.append(allow_patterns)
        (tmp_path / "cache").mkdir(exist_ok=True)
        for pattern in allow_patterns:
            for file in (tmp_path / "there").glob(pattern):
                shutil.copyfile(file, tmp_path / "cache" / file.name)
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    planned = create("from", init_from="hf:someone/clip", load=False)
    assert not (tmp_path / "cache" / "model.safetensors").exists()  # a dry run reads no weights
    bundle = create("from", init_from="hf:someone/clip")
    local = create("from", init_from=str(tmp_path / "there"))
    assert planned.config["model_cfg"]["vision_cfg"] == local.config["model_cfg"]["vision_cfg"]
    for found, wanted in zip(ours(bundle), ours(local), strict=True):
        assert torch.equal(found, wanted)

    def offline(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UserError, match=r"someone/clip can't be had .* no route to the hub"):
        fetch("someone/clip", "model.init_from=hf:someone/clip", False)
    for wrong in ("hf:", "hf:a/../b"):
        with pytest.raises(UserError, match="write hf:<organisation>/<model>"):
            create("from", init_from=wrong)


def steps(world: Path, runs: Path, *more: str) -> list[str]:
    """Two epochs from the weights that are named."""
    small = ["balance.min_concept_samples=5", "schedule.epochs=2", "optim.lr=0.001"]
    return [*data_overrides(world, runs), *small, *more]


@pytest.mark.parametrize("make", [clip_folder, siglip_folder])
def test_a_run_goes_on_without_its_source(make: Callable[..., Any], world: Path, tmp_path: Path) -> None:
    _, words = make(tmp_path / "made")
    begin = ["model=from", f"model.init_from={tmp_path / 'made'}"]
    assert train.main(compose(steps(world, tmp_path / "dry", *begin, "name=a", "dry_run=true"))) == 0
    assert train.main(compose(steps(world, tmp_path / "one", *begin, "name=a"))) == 0
    with before_step(12, terminate):
        assert train.main(compose(steps(world, tmp_path / "two", *begin, "name=a"))) == 143
    shutil.rmtree(tmp_path / "made")
    resume = [f"runs={tmp_path / 'two'}", "name=a", "resume=true"]
    whole = compose(steps(world, tmp_path / "two", *begin, *resume[1:]))
    bare = stored_config(resume)
    assert bare is not None
    assert train.main(whole if make is clip_folder else bare) == 0
    first, second = (
        load_checkpoint(list_checkpoints(tmp_path / name / "a" / "checkpoints")[-1])["model"] for name in ("one", "two")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    # The run is a source by itself, wherever its folder goes.
    shutil.move(tmp_path / "two" / "a", tmp_path / "moved")
    again = create("from", init_from=str(tmp_path / "moved"))
    wanted = words(TEXTS, padding="max_length", truncation=True, max_length=16, return_tensors="pt")["input_ids"]
    assert torch.equal(again.tokenizer(TEXTS), wanted)
