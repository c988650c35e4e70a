"""Where models start from: every form of init_from, fitting, and refusals; code in a file is never run."""

import copy
import json
import os
import pickle
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from balance.errors import UserError
from models.checkpoint import save_checkpoint
from models.factory import ModelBundle, check_model_name, create
from models.start import find_start
from models.weights import read_weights
from tests.small_model import CONFIG, build, features

SIGLIP = {**CONFIG, "init_logit_bias": -10}


def tower(name: str, **values: Any) -> dict[str, Any]:
    """The small configuration with some values of a tower changed."""
    config: dict[str, Any] = copy.deepcopy(CONFIG)
    config[name] |= values
    return config


def state(bundle: ModelBundle, step: int = 7, **more: Any) -> dict[str, Any]:
    """What a run writes into a checkpoint, as far as it matters here."""
    return {
        "model": bundle.model.state_dict(),
        "model_config": bundle.config,
        "clock": {"step": step},
        **more,
    }


@pytest.fixture
def source() -> ModelBundle:
    """A model to start from."""
    return build(0, preprocess={"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]})


def test_every_form_gives_the_same_model(source: ModelBundle, tmp_path: Path) -> None:
    weights = source.model.state_dict()
    torch.save(weights, tmp_path / "plain.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in weights.items()}}, tmp_path / "ddp.pt")
    torch.save({f"_orig_mod.{k}": v for k, v in weights.items()}, tmp_path / "compiled.pt")
    save_file(weights, tmp_path / "weights.safetensors")
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file(weights, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(source.config))
    run = tmp_path / "run"
    step = save_checkpoint(run / "checkpoints", 7, state(source))
    (run / "config.yaml").write_text("name: run\nmodel: {loss: clip}\n")
    expected = features(source)
    named = [tmp_path / "plain.pt", tmp_path / "ddp.pt", tmp_path / "compiled.pt", tmp_path / "weights.safetensors"]
    for init_from in map(str, [*named, folder, f"local-dir:{folder}", step, run, f"{run}@last", f"{run}@7"]):
        assert torch.equal(expected, features(build(1, init_from=init_from))), init_from
    for init_from in map(str, [folder, step, run]):
        found = create("from", init_from=init_from)
        assert torch.equal(expected, features(found)), init_from
        assert (found.mean, found.std) == (source.mean, source.std)
        assert found.config["model_cfg"] == source.config["model_cfg"]
    # Pixels are normalised as the weights are used to, also under an architecture that was given.
    assert build(1, init_from=str(run)).mean == source.mean


@pytest.mark.parametrize("content", ["", "a: [", "- 1", "name: run"])
def test_weights_are_taken_from_a_run_whose_configuration_is_damaged(
    source: ModelBundle, tmp_path: Path, content: str
) -> None:
    save_checkpoint(tmp_path / "checkpoints", 7, state(source))
    (tmp_path / "config.yaml").write_text(content)
    assert torch.equal(features(source), features(create("from", init_from=str(tmp_path))))


def test_the_best_checkpoint_and_a_step(source: ModelBundle, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    other = build(5)
    save_checkpoint(folder, 7, state(source))
    save_checkpoint(folder, 9, state(other, 9))
    (tmp_path / "config.yaml").write_text("name: run")
    with pytest.raises(UserError, match="has not kept a best"):
        find_start(f"{tmp_path}@best")
    (folder / "best.json").write_text(json.dumps({"step": 7}))
    assert torch.equal(features(create("from", init_from=f"{tmp_path}@best")), features(source))
    assert torch.equal(features(create("from", init_from=str(tmp_path))), features(other))
    with pytest.raises(UserError, match="kept steps 7, 9"):
        find_start(f"{tmp_path}@8")


def test_the_average_is_taken_where_there_is_one(source: ModelBundle, tmp_path: Path) -> None:
    doubled = {"text_projection": 2 * source.model.state_dict()["text_projection"]}
    path = save_checkpoint(tmp_path, 7, state(source, ema={"average": doubled, "updates": 3}))
    torch.testing.assert_close(features(build(1, init_from=str(path))), 2 * features(source))
    assert read_weights(path, "x").averaged
    raw = read_weights(path, "x", ema=False)
    assert torch.equal(raw.tensors["text_projection"], source.model.state_dict()["text_projection"])


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"x": Malicious()}, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"x": Malicious()}, protocol=4))
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    run = save_checkpoint(tmp_path, 3, {"model": Malicious(), "model_config": {}})
    for path in (tmp_path / "zip.pt", tmp_path / "plain.pt", tmp_path / "module.pt", run):
        with pytest.raises(UserError, match=r"is no file of weights.*run code.*refused"):
            build(init_from=str(path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore")  # torch finds TorchScript old
def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    with pytest.raises(UserError, match="TorchScript archive"):
        build(init_from=str(tmp_path / "script.pt"))


def test_damaged_files_are_told(source: ModelBundle, tmp_path: Path) -> None:
    torch.save(source.model.state_dict(), tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:1000])
    (tmp_path / "text.safetensors").write_text("hello, this is no such file")
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    for name in ("cut.pt", "text.safetensors", "epoch.pt"):
        with pytest.raises(UserError, match=f"{name} is no file of weights"):
            build(init_from=str(tmp_path / name))


def test_position_embeddings_are_interpolated_as_open_clip_does(source: ModelBundle, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(source.model.state_dict(), path)
    config = tower("vision_cfg", image_size=64)
    config["text_cfg"]["context_length"] = 20
    found = create("large", config, init_from=str(path))
    assert sorted(note.split()[0] for note in found.notes) == ["positional_embedding", "visual.positional_embedding"]
    theirs = open_clip.model.CLIP(**config)
    open_clip.load_checkpoint(theirs, str(path))
    assert all(torch.equal(a, b) for a, b in zip(found.model.parameters(), theirs.parameters(), strict=True))
    # The same from the command's own keys, and the size is part of the configuration that the run keeps.
    bundle = build(1, init_from=str(path), image_size=64, context_length=20)
    assert bundle.image_size == 64
    assert bundle.config["model_cfg"]["vision_cfg"]["image_size"] == 64
    assert torch.equal(features(bundle), features(found))
    old = source.model.state_dict()["visual.positional_embedding"]
    grid = F.interpolate(old[1:].T.reshape(1, 16, 2, 2), (4, 4), mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(found.model.state_dict()["visual.positional_embedding"][1:], grid.reshape(16, 16).T)


def test_position_embeddings_of_a_tower_from_timm(tmp_path: Path) -> None:
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": "linear"}
    config = {**CONFIG, "vision_cfg": vision}
    small = create("vit", config, image_size=32)
    torch.save(small.model.state_dict(), tmp_path / "weights.pt")
    large = create("vit", config, image_size=64, init_from=str(tmp_path / "weights.pt"))
    assert large.notes == ["visual.trunk.pos_embed is interpolated from 5 to 17 positions"]
    assert large.model.eval().encode_image(torch.randn(2, 3, 64, 64)).shape == (2, 8)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (tower("text_cfg", vocab_size=1000), "vocabulary has 49408 tokens, the model's 1000"),
        (tower("text_cfg", width=16), "have another shape"),
        (
            tower("vision_cfg", layers=2),
            r"12 tensor\(s\) are missing \(visual.transformer.resblocks.1.attn.in_proj_bias",
        ),
        ({**CONFIG, "embed_dim": 12}, "have another shape"),
    ],
)
def test_weights_of_another_model_are_refused(
    source: ModelBundle, tmp_path: Path, config: dict[str, Any], sentence: str
) -> None:
    torch.save(source.model.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UserError, match=sentence) as caught:
        create("other", config, init_from=str(tmp_path / "weights.pt"))
    assert "weights.pt does not fit the model other" in str(caught.value)


def test_siglip_weights_under_the_clip_loss_and_back(source: ModelBundle, tmp_path: Path) -> None:
    siglip = create("siglip", SIGLIP)
    torch.save(siglip.model.state_dict(), tmp_path / "siglip.pt")
    torch.save(source.model.state_dict(), tmp_path / "clip.pt")
    # An architecture without a bias: it is dropped, which changes no softmax.
    under_clip = build(1, init_from=str(tmp_path / "siglip.pt"))
    assert torch.equal(features(under_clip), features(siglip))
    assert "logit bias is left out" in under_clip.notes[0]
    # One with a bias: kept, and not trained.
    kept = create("siglip", SIGLIP, loss="clip", init_from=str(tmp_path / "siglip.pt"))
    assert not kept.model.logit_bias.requires_grad  # type: ignore[union-attr]
    # The other way round the bias starts where the configuration says.
    under_siglip = create("siglip", SIGLIP, init_from=str(tmp_path / "clip.pt"))
    assert under_siglip.loss == "siglip"
    assert under_siglip.model.state_dict()["logit_bias"].item() == -10
    assert "it starts at -10" in under_siglip.notes[0]
    with pytest.raises(UserError, match="needs a logit bias"):
        build(loss="siglip", init_from=str(tmp_path / "clip.pt"))


def test_both_forms_of_the_text_tower(source: ModelBundle, tmp_path: Path) -> None:
    torch.save(source.model.state_dict(), tmp_path / "plain.pt")
    custom = create("custom", {**CONFIG, "custom_text": True}, init_from=str(tmp_path / "plain.pt"))
    assert torch.equal(features(custom), features(source))
    torch.save(custom.model.state_dict(), tmp_path / "custom.pt")
    assert torch.equal(features(build(1, init_from=str(tmp_path / "custom.pt"))), features(source))


def test_names_are_checked_without_reading_anything(tmp_path: Path) -> None:
    check_model_name("ViT-B-32", None, None, "ViT-B-32:laion2b_s34b_b79k")
    check_model_name("from", None, None, "hf-hub:someone/something")
    for init_from, sentence in [
        ("ViT-B32:openai", "did you mean ViT-B-32"),
        ("ViT-B-32:laion", "neither a file nor a tag of ViT-B-32"),
        ("ViT-B-32", "add a tag, ViT-B-32:<tag>"),
        ("nowhere.pt", "is no file, run, open_clip folder"),
        ("local-dir:/nowhere", "open_clip_config.json"),
    ]:
        with pytest.raises(UserError, match=sentence):
            check_model_name("ViT-B-32", None, None, init_from)
    with pytest.raises(UserError, match="give one"):
        check_model_name("ViT-B-32", None, "openai", "ViT-B-32:openai")
    with pytest.raises(UserError, match="which must be given"):
        check_model_name("from", None, None)
    (tmp_path / "config.yaml").write_text("name: a")
    with pytest.raises(UserError, match="no checkpoint yet"):
        check_model_name("from", None, None, str(tmp_path))
    torch.save({"a": torch.ones(1)}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="without their architecture"):
        create("from", init_from=str(tmp_path / "weights.pt"))


def test_a_tag_brings_its_preprocessing_and_activation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from models.start import tag_config

    assert tag_config("ViT-B-32", "openai")["model_cfg"]["quick_gelu"] is True
    assert "quick_gelu" not in tag_config("ViT-B-32", "laion2b_s34b_b79k")["model_cfg"]
    siglip = tag_config("ViT-B-16-SigLIP", "webli")
    assert siglip["preprocess_cfg"]["mean"] == (0.5, 0.5, 0.5)
    assert siglip["preprocess_cfg"]["resize_mode"] == "squash"
    # The whole way of a tag, with the download replaced by a file.
    torch.manual_seed(0)
    theirs = open_clip.create_model("ViT-S-32-alt", load_weights=False)
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    facts = {"url": "", "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5), "quick_gelu": True}
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["made"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: facts)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda found: str(tmp_path / "weights.pt"))
    first = create("from", init_from="ViT-S-32-alt:made")
    second = create("ViT-S-32-alt", pretrained="made")
    for found in (first, second):
        assert found.mean == (0.1, 0.2, 0.3)
        assert found.config["model_cfg"]["quick_gelu"] is True
        assert torch.equal(found.model.state_dict()["text_projection"], theirs.state_dict()["text_projection"])
    assert torch.equal(features(first), features(second))


def test_an_architecture_is_not_taken_for_that_of_the_weights_in_silence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    theirs = open_clip.create_model("ViT-S-32-alt", load_weights=False, force_quick_gelu=True)
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")
    facts = {"url": "", "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5), "quick_gelu": True}
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["made"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: facts)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda found: str(tmp_path / "weights.pt"))
    found = create("ViT-S-32-alt", init_from="ViT-S-32-alt:made", preprocess={"mean": [0.5, 0.5, 0.5]})
    with torch.no_grad():
        pixels = torch.randn(1, 3, 224, 224)
        assert torch.equal(found.model.eval().encode_image(pixels), theirs.eval().encode_image(pixels))  # type: ignore[operator]
    told = " ".join(found.notes)
    assert "model.init_from=ViT-S-32-alt:made: its weights were trained with quick_gelu=True, taken instead" in told
    assert "model.preprocess.mean=[0.5, 0.5, 0.5] is kept, where" in told
    assert found.config["model_cfg"]["quick_gelu"] is True


@pytest.mark.parametrize(
    ("part", "hidden"),
    [
        ("vision_cfg", {"head_width": 4}),
        ("vision_cfg", {"norm_kwargs": {"eps": 0.1}}),
        ("vision_cfg", {"act_kwargs": {"approximate": "tanh"}}),
        ("vision_cfg", {"pool_type": "avg"}),
        ("text_cfg", {"heads": 4}),
        ("text_cfg", {"pool_type": "last"}),
        ("text_cfg", {"no_causal_mask": True}),
        ("text_cfg", {"norm_kwargs": {"eps": 0.1}}),
    ],
)
def test_what_no_shape_shows_is_taken_from_the_weights(part: str, hidden: dict[str, Any], tmp_path: Path) -> None:
    trained = create("trained", tower(part, **hidden))
    save_checkpoint(tmp_path / "run" / "checkpoints", 1, state(trained))
    (tmp_path / "run" / "config.yaml").write_text("name: run")
    asked = str(tmp_path / "run")
    for found in (build(1, init_from=asked), build(1, pretrained=str(next((tmp_path / "run").rglob("*.pt"))))):
        pixels = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            assert torch.equal(features(found), features(trained))
            assert torch.equal(found.model.encode_image(pixels), trained.model.eval().encode_image(pixels))  # type: ignore[operator]
        assert next(iter(hidden)) in found.notes[0]
    assert create("from", init_from=asked).notes == []
