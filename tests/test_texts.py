"""Texts without the padding behind them: the same features and gradients, where and only where that holds."""

import copy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.model import CLIP, CustomTextCLIP

from models import texts
from models.factory import ModelBundle, create
from models.losses import ContrastiveLoss, contrastive_loss
from models.texts import AnyLengthCLIP, take_any_length, trim
from tests.launching import measured, run

VISION = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
CAPTIONS = ["a nurse", "two dogs run across a field", " ".join(["word"] * 26), ""]


def small(loss: str = "clip", **text: Any) -> ModelBundle:
    torch.manual_seed(0)
    bias = {"init_logit_bias": -10} if loss == "siglip" else {}
    config = {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": {**TEXT, **text}, **bias}
    return create("small", config)


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_features_and_gradients_are_those_of_whole_texts(loss: str) -> None:
    bundle = small(loss)
    assert type(bundle.model) is AnyLengthCLIP
    plain = copy.deepcopy(bundle.model).double()
    plain.__class__ = CLIP  # as open_clip made it
    ours = bundle.model.double()
    tokens, pixels = bundle.tokenizer(CAPTIONS), torch.randn(4, 3, 16, 16, dtype=torch.float64)
    assert bundle.trim(tokens).shape == (4, 32)
    found = []
    for model, given_tokens in ((plain, tokens), (ours, bundle.trim(tokens)), (ours, tokens)):
        model.zero_grad()
        output = model(pixels, given_tokens)
        value = contrastive_loss(ContrastiveLoss(bundle.loss), output)
        value.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append({"loss": value, "text": output["text_features"], **gradients})
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, wanted in found[0].items():
            torch.testing.assert_close(other[name], wanted, rtol=0, atol=1e-12, msg=name)


@given(st.lists(st.integers(1, 77), min_size=1, max_size=8))
def test_no_token_up_to_the_end_of_a_text_is_lost(lengths: list[int]) -> None:
    tokens = torch.zeros(len(lengths), 77, dtype=torch.int64)
    for row, length in zip(tokens, lengths, strict=True):
        row[: length - 1], row[length - 1] = 7, 49407
    cut = trim(tokens)
    assert torch.equal(cut, tokens[:, : cut.shape[1]])
    assert not tokens[:, cut.shape[1] :].any()
    assert max(lengths) <= cut.shape[1] <= min(77, max(max(lengths) + texts.STEP - 1, texts.SHORTEST))


def test_texts_stay_whole_where_the_padding_counts() -> None:
    for text in ({"no_causal_mask": True}, {"pool_type": "last"}):
        bundle = small(**text)
        assert type(bundle.model) is CLIP
        tokens = bundle.tokenizer(CAPTIONS)
        assert bundle.trim(tokens) is tokens
    with torch.device("meta"):
        siglip = open_clip.create_model("ViT-B-16-SigLIP", device="meta", load_weights=False)
        coca = open_clip.create_model("coca_base", device="meta", load_weights=False)
    assert not take_any_length(siglip)
    assert not take_any_length(coca)
    assert isinstance(siglip, CustomTextCLIP)


def test_trained_models_see_no_more_than_the_captions(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = AnyLengthCLIP.encode_text

    def noted(model: AnyLengthCLIP, text: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        seen.append((torch.is_grad_enabled(), text.shape[1]))
        return original(model, text, normalize)

    monkeypatch.setattr(AnyLengthCLIP, "encode_text", noted)
    long = ("schedule.epochs=1", "model.config.text_cfg.context_length=40")
    assert run(world, tmp_path, "name=short", *long) == 0
    assert set(seen) == {(True, 24), (False, 24)}  # in training and in evaluation
    seen.clear()
    assert run(world, tmp_path, "name=whole", "model.trim_text=false", *long) == 0
    assert seen == []  # the model is open_clip's own
    found = [measured(tmp_path / name) for name in ("short", "whole")]
    short, whole = ({(row["name"], row["samples"]): row["value"] for row in rows} for rows in found)
    assert short.keys() == whole.keys()
    numbers = [(short[key], whole[key]) for key in short if isinstance(short[key], float)]
    assert len(numbers) > 10
    for mine, theirs in numbers:
        assert mine == pytest.approx(theirs, abs=2e-3)
