"""Training a part: frozen towers and blocks, low-rank adapters, layer-wise rates, and the average of the weights."""

import copy
from typing import Any

import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss

from balance.errors import UserError
from models.adapt import Lora, adapt, check_adaptation, merge_adapters
from models.factory import ModelBundle, create
from models.layers import depths
from models.training.ema import Ema
from models.training.optimizer import create_optimizer, parameter_groups, set_learning_rate
from tests.small_model import CONFIG

DEEP: dict[str, Any] = copy.deepcopy(CONFIG)
DEEP["vision_cfg"]["layers"] = DEEP["text_cfg"]["layers"] = 3


def build(config: dict[str, Any] = DEEP, **options: Any) -> ModelBundle:
    torch.manual_seed(0)
    return create("deep", config, **options)


def batch(bundle: ModelBundle, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    size = bundle.image_size
    pixels = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return pixels, bundle.tokenizer(["a nurse", "two dogs", "a chef at work", "a doctor"])


def train(bundle: ModelBundle, steps: int = 3, ema: Ema | None = None, lr: float = 0.01) -> dict[str, torch.Tensor]:
    """A few steps; the weights before them."""
    before = {name: tensor.clone() for name, tensor in bundle.model.state_dict().items()}
    optimizer = create_optimizer(bundle.model, lr, 0.1, (0.9, 0.98), 1e-6)
    loss = SigLipLoss() if bundle.loss == "siglip" else ClipLoss()
    bundle.model.train()
    for step in range(steps):
        optimizer.zero_grad()
        loss(**bundle.model(*batch(bundle, step))).backward()
        optimizer.step()
        if ema is not None:
            ema.update()
    return before


def moved(bundle: ModelBundle, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in bundle.model.state_dict().items() if not torch.equal(tensor, before[name])}


def test_a_locked_image_tower_does_not_move() -> None:
    bundle = build()
    adapt(bundle.model, {"image": "all", "text": None})
    found = moved(bundle, train(bundle))
    assert not any(name.startswith("visual.") for name in found)
    assert {"text_projection", "token_embedding.weight", "logit_scale"} <= found


def test_only_the_last_blocks_train() -> None:
    bundle = build()
    adapt(bundle.model, {"image": 1, "text": 0})
    found = moved(bundle, train(bundle))
    image = {name for name in found if name.startswith("visual.")}
    assert {name.split(".")[3] for name in image if "resblocks" in name} == {"2"}
    assert {name for name in image if "resblocks" not in name} == {
        "visual.ln_post.weight",
        "visual.ln_post.bias",
        "visual.proj",
    }
    assert {name for name in found if not name.startswith("visual.")} == {
        "ln_final.weight",
        "ln_final.bias",
        "text_projection",
        "logit_scale",
    }


def test_a_locked_tower_from_timm_keeps_its_statistics_and_trains_its_projection() -> None:
    vision = {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "mlp", "image_size": 32}
    bundle = build({**DEEP, "vision_cfg": vision})
    adapt(bundle.model, {"image": "all"})
    found = moved(bundle, train(bundle))
    assert {name.split(".")[1] for name in found if name.startswith("visual.")} == {"head"}
    free = build({**DEEP, "vision_cfg": vision})
    assert any("running_mean" in name for name in moved(free, train(free)))


def test_what_is_frozen_has_no_dropout() -> None:
    config = copy.deepcopy(DEEP)
    config["vision_cfg"]["patch_dropout"] = 0.5
    bundle = build(config)
    adapt(bundle.model, {"image": "all"})
    bundle.model.train()
    pixels, _ = batch(bundle)
    first, second = (bundle.model.encode_image(pixels) for _ in range(2))  # type: ignore[operator]
    assert torch.equal(first, second)


@pytest.mark.parametrize("targets", [None, ["c_fc"], ["visual.transformer.resblocks.1.mlp.c_proj", "qkv"], ["attn"]])
@pytest.mark.parametrize("kind", ["clip", "siglip", "timm"])
def test_adapters_train_alone_and_merge_into_the_same_features(kind: str, targets: list[str] | None) -> None:
    config: dict[str, Any] = dict(DEEP)
    if kind == "siglip":
        config["init_logit_bias"] = -10
    if kind == "timm":
        config["vision_cfg"] = {
            "timm_model_name": "test_vit",
            "timm_pool": "token",
            "timm_proj": "linear",
            "image_size": 32,
        }
    bundle = build(config)
    plain = {name: tensor.clone() for name, tensor in bundle.model.state_dict().items()}
    pixels, tokens = batch(bundle)
    untouched = bundle.model.eval()(pixels, tokens)
    lora = {"rank": 2, "alpha": 6, "targets": targets}
    adapt(bundle.model, None, lora)
    # An adapter begins as nothing.
    torch.testing.assert_close(bundle.model.eval()(pixels, tokens)["image_features"], untouched["image_features"])
    before = train(bundle)
    changed = moved(bundle, before)
    assert changed
    assert all(".lora_" in name or name.startswith("logit_") for name in changed)
    assert {"logit_scale"} < changed
    adapted = bundle.model.eval()(pixels, tokens)
    assert any(not torch.allclose(adapted[k], untouched[k], atol=1e-4) for k in ("image_features", "text_features"))
    settings = check_adaptation(None, lora)
    assert settings is not None
    merged = build(config)
    weights = merge_adapters(bundle.model.state_dict(), settings.scale)
    assert {name: tensor.shape for name, tensor in weights.items()} == {n: t.shape for n, t in plain.items()}
    merged.model.load_state_dict(weights)
    for name, value in merged.model.eval()(pixels, tokens).items():
        torch.testing.assert_close(value, adapted[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("targets", [["attn"], ["in_proj"], ["out_proj"]])
def test_adapters_of_attention_are_w_plus_b_a(batch_first: bool, targets: list[str]) -> None:
    torch.manual_seed(0)
    bare = torch.nn.MultiheadAttention(12, 3, batch_first=batch_first, dtype=torch.float64)
    torch.nn.init.normal_(bare.in_proj_bias)
    torch.nn.init.normal_(bare.out_proj.bias)
    holder = torch.nn.ModuleDict({"resblocks": torch.nn.ModuleList([torch.nn.ModuleDict({"attn": bare})])})
    wanted = copy.deepcopy(bare)
    adapt(holder, None, {"rank": 2, "alpha": 6, "targets": targets})
    adapted: Any = holder.get_submodule("resblocks.0.attn")
    for name, parameter in adapted.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    with torch.no_grad():
        for part, weight in (("in_proj", wanted.in_proj_weight), ("out_proj", wanted.out_proj.weight)):
            if part in adapted.lora_A:
                weight += 3 * adapted.lora_B[part].weight @ adapted.lora_A[part].weight
    x = torch.randn(5, 5, 12, dtype=torch.float64)
    mask = torch.full((5, 5), -torch.inf, dtype=torch.float64).triu(1)
    for given in (None, mask):
        found = adapted(x, x, x, need_weights=False, attn_mask=given)[0]
        other = wanted(x, x, x, need_weights=False, attn_mask=given)[0]
        torch.testing.assert_close(found, other, rtol=0, atol=1e-12)
    merged = merge_adapters(holder.state_dict(), 3)
    assert set(merged) == {f"resblocks.0.attn.{name}" for name in wanted.state_dict()}
    for name, tensor in wanted.state_dict().items():
        torch.testing.assert_close(merged[f"resblocks.0.attn.{name}"], tensor, rtol=0, atol=1e-12)
    # Gradients are those of B and A in W + scale B A.
    adapted(x, x, x)[0].square().sum().backward()
    a, b = (getattr(adapted, f"lora_{one}") for one in "AB")
    for part in a:
        weight = wanted.in_proj_weight if part == "in_proj" else wanted.out_proj.weight
        wanted.zero_grad()
        wanted(x, x, x)[0].square().sum().backward()
        torch.testing.assert_close(a[part].weight.grad, 3 * b[part].weight.T @ weight.grad, rtol=1e-9, atol=1e-6)
        torch.testing.assert_close(b[part].weight.grad, 3 * weight.grad @ a[part].weight.T, rtol=1e-9, atol=1e-6)


def test_all_four_projections_of_a_block_get_adapters_by_default() -> None:
    bundle = build()
    adapt(bundle.model, None, {"rank": 2, "dropout": 0.5})
    block = {name.partition("resblocks.0.")[2] for name, _ in bundle.model.named_parameters() if "lora_A" in name}
    assert {name.split(".lora_A")[0] for name in block if name} == {"attn", "mlp.c_fc", "mlp.c_proj"}
    bundle.model.train()
    for name, parameter in bundle.model.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter)
    pixels, _ = batch(bundle)
    encode: Any = bundle.model.encode_image
    assert not torch.equal(encode(pixels), encode(pixels))  # its dropout draws
    bundle.model.eval()
    assert torch.equal(encode(pixels), encode(pixels))


def test_adapters_go_where_freezing_leaves_something_to_train() -> None:
    bundle = build()
    adapt(bundle.model, {"image": "all", "text": 1}, {"rank": 2})
    names = {name for name, p in bundle.model.named_parameters() if p.requires_grad and name != "logit_scale"}
    assert names
    assert all(name.startswith("transformer.resblocks.2.") and ".lora_" in name for name in names)


@pytest.mark.parametrize(
    ("freeze", "lora", "sentence"),
    [
        ({"images": "all"}, None, "model.freeze.images is not known"),
        ({"image": "most"}, None, "freeze.image=most is not understood"),
        ({"image": 4}, None, "the tower has 3 blocks"),
        ({"text": -1}, None, "is not understood"),
        (None, {"rnak": 4}, "of which rank must be given"),
        (None, {"rank": 0}, "model.lora.rank=0 must be at least 1"),
        (None, {"rank": 4, "targets": ["nothing"]}, "no linear layer that"),
        ({"image": "all", "text": "all"}, {"rank": 4}, "no linear layer that"),
    ],
)
def test_settings_that_cannot_be(freeze: Any, lora: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        adapt(build().model, freeze, lora)


def test_the_scale_of_adapters() -> None:
    assert check_adaptation(None, {"rank": 4}) == Lora(4)
    assert Lora(4).scale == 1
    assert Lora(4, 8).scale == 2
    assert check_adaptation({"image": None}, None) is None


def test_depths_count_from_embeddings_to_projections() -> None:
    found = {name: (tower, depth) for name, _, tower, depth in depths(build().model)}
    assert found["visual.conv1.weight"] == found["visual.positional_embedding"] == ("image", 0)
    assert found["visual.transformer.resblocks.0.ln_1.weight"] == ("image", 1)
    assert found["visual.proj"] == found["visual.ln_post.bias"] == ("image", 4)
    assert found["token_embedding.weight"] == found["positional_embedding"] == ("text", 0)
    assert found["transformer.resblocks.2.ln_1.weight"] == ("text", 3)
    assert found["text_projection"] == ("text", 4)
    assert found["logit_scale"] == (None, 4)


def test_learning_rates_fall_towards_the_input() -> None:
    bundle = build()
    groups = parameter_groups(bundle.model, 0.1, layer_decay=0.5)
    rates = {id(p): group["scale"] for group in groups for p in group["params"]}  # type: ignore[attr-defined]
    assert len(rates) == len(list(bundle.model.parameters()))
    for name, parameter, _, depth in depths(bundle.model):
        assert rates[id(parameter)] == pytest.approx(0.5 ** (4 - depth)), name
    optimizer = torch.optim.AdamW(groups)  # type: ignore[arg-type]
    set_learning_rate(optimizer, 0.01)
    assert {group["lr"] for group in optimizer.param_groups} == {0.01 * 0.5**power for power in range(5)}
    decays = {group["weight_decay"] for group in groups}
    assert decays == {0.0, 0.1}
    assert all("scale" not in group or group["scale"] == 1 for group in parameter_groups(bundle.model, 0.1))


def test_the_average_follows_its_formula_and_leaves_the_weights() -> None:
    bundle = build()
    ema = Ema(bundle.model, 0.9)
    parameter = bundle.model.get_parameter("text_projection")
    expected = parameter.detach().clone().double()
    for step in range(1, 30):
        with torch.no_grad():
            parameter += 0.1
        ema.update()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * parameter.detach().double()
    live = parameter.detach().clone()
    with ema.applied():
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(parameter, live)
    with pytest.raises(RuntimeError, match="inside"), ema.applied():
        raise RuntimeError("inside")
    assert torch.equal(parameter, live)


def test_the_average_goes_on_exactly_and_skips_what_is_frozen() -> None:
    first = build()
    adapt(first.model, {"image": "all"})
    ema = Ema(first.model, 0.99)
    assert not any(name.startswith("visual.") for name in ema.average)
    train(first, 4, ema)
    second = build()
    adapt(second.model, {"image": "all"})
    second.model.load_state_dict(first.model.state_dict())
    other = Ema(second.model, 0.99)
    other.load_state_dict(copy.deepcopy(ema.state_dict()))
    for bundle, average in ((first, ema), (second, other)):
        train(bundle, 2, average)
    assert all(torch.equal(ema.average[name], other.average[name]) for name in ema.average)
    with pytest.raises(UserError, match="averages other parameters"):
        Ema(build().model, 0.99).load_state_dict(ema.state_dict())
