"""Models: built from a name or a configuration, weights from files, preprocessing equal to open_clip's."""

import io
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image

from balance.errors import UserError
from eval.pixels import decode
from models.checkpoint import save_checkpoint
from models.factory import check_model_name, create
from models.training.precision import resolve_device, resolve_precision
from tests.small_model import CONFIG, build, features


def test_weights_come_from_a_state_dict_or_a_checkpoint_of_a_run(tmp_path: Path) -> None:
    first = build(0)
    assert not torch.equal(features(first), features(build(1)))
    torch.save(first.model.state_dict(), tmp_path / "weights.pt")
    path = save_checkpoint(tmp_path, 7, {"model": first.model.state_dict(), "step": 7})
    for file in (tmp_path / "weights.pt", path):
        assert torch.equal(features(first), features(build(1, pretrained=str(file))))


def test_weights_that_do_not_fit_are_told(tmp_path: Path) -> None:
    torch.save({"logit_scale": torch.zeros(())}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="does not fit the model small"):
        build(pretrained=str(tmp_path / "weights.pt"))
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match="is no file of weights"):
        build(pretrained=str(tmp_path / "text.pt"))


def test_names_and_tags_are_checked_without_building() -> None:
    check_model_name("ViT-B-32", None, None)
    check_model_name("anything", CONFIG, None)
    with pytest.raises(UserError, match="did you mean ViT-B-32"):
        check_model_name("ViT-B32", None, None)
    with pytest.raises(UserError, match="laion2b_s34b_b79k"):
        check_model_name("ViT-B-32", None, "laion")
    with pytest.raises(UserError, match="open_clip_config"):
        check_model_name("local-dir:/nowhere", None, None)


def test_evaluation_pixels_are_those_of_open_clip() -> None:
    bundle = build()
    buffer = io.BytesIO()
    gradient = Image.linear_gradient("L").resize((90, 61))
    Image.merge("RGB", (gradient, gradient.rotate(90), gradient.rotate(180))).save(buffer, "PNG")
    _, _, transform = open_clip.create_model_and_transforms("ViT-B-32", force_image_size=32, load_weights=False)
    expected = transform(Image.open(io.BytesIO(buffer.getvalue())))
    found = bundle.normalise(decode(buffer.getvalue(), bundle.resize)[None])[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_an_unused_logit_bias_is_not_trained() -> None:
    torch.manual_seed(0)
    config = {**CONFIG, "init_logit_bias": -10}
    assert create("small", config).loss == "siglip"
    under_clip = create("small", config, loss="clip")
    assert not under_clip.model.logit_bias.requires_grad  # type: ignore[union-attr]
    with pytest.raises(UserError, match="needs a logit bias"):
        create("small", CONFIG, loss="siglip")


def test_precision_and_device_are_resolved_or_refused() -> None:
    cpu = torch.device("cpu")
    assert resolve_device("cpu") == cpu
    assert resolve_precision("auto", cpu) in ("bf16", "fp32")
    assert resolve_precision("fp32", cpu) == "fp32"
    with pytest.raises(UserError, match="needs a GPU"):
        resolve_precision("fp16", cpu)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no GPU here"):
            resolve_device("cuda")
