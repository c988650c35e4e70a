"""Weights as other trainers leave them: whatever the file, the same features."""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from balance.errors import UserError
from models.factory import ModelBundle, create
from models.weights import fit_weights, read_weights
from tests.small_model import CONFIG, build, features, siglip_config

SIGLIP = siglip_config(text_layers=2)


def epoch_file(bundle: ModelBundle, path: Path) -> None:
    """What open_clip's trainer saves after an epoch on several GPUs with torch.compile: an optimiser beside."""
    wrapped = torch.nn.Module()
    wrapped.module = copy.deepcopy(bundle.model)
    optimizer = torch.optim.AdamW(wrapped.parameters())
    for parameter in wrapped.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.save(
        {
            "epoch": 3,
            "name": "mine",
            "state_dict": {**{f"module.{name}": tensor for name, tensor in bundle.model.state_dict().items()}},
            "optimizer": optimizer.state_dict(),
            "scaler": torch.amp.GradScaler("cpu").state_dict(),
        },
        path,
    )


def with_prefix(prefix: str) -> Callable[[ModelBundle, Path], None]:
    def write(bundle: ModelBundle, path: Path) -> None:
        torch.save({"state_dict": {f"{prefix}{k}": v for k, v in bundle.model.state_dict().items()}}, path)

    return write


def compiled(bundle: ModelBundle, path: Path) -> None:
    """torch.compile's own module, in DataParallel's."""
    torch.save(torch.nn.DataParallel(torch.compile(copy.deepcopy(bundle.model))).state_dict(), path)  # type: ignore[arg-type]


def fsdp(bundle: ModelBundle, path: Path) -> None:
    """A full state dict of FSDP that kept the names of its wrappers, around the whole and around blocks."""
    names = {name: name.replace(".attn.", "._fsdp_wrapped_module.attn.") for name in bundle.model.state_dict()}
    torch.save({f"_fsdp_wrapped_module.{names[k]}": v for k, v in bundle.model.state_dict().items()}, path)


def in_parts(bundle: ModelBundle, path: Path) -> None:
    """huggingface_hub's own division into several files with an index."""
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(bundle.model.state_dict(), path.parent, max_shard_size=600_000)
    assert path.exists()
    assert len(list(path.parent.glob("model-*.safetensors"))) > 1


WRITERS: dict[str, tuple[str, Callable[[ModelBundle, Path], None]]] = {
    "open_clip's trainer": ("epoch_3.pt", epoch_file),
    "compiled in DDP": ("x.pt", with_prefix("module._orig_mod.")),
    "DDP compiled": ("x.pt", with_prefix("_orig_mod.module.")),
    "twice": ("x.pt", with_prefix("module.module._orig_mod.")),
    "DataParallel of torch.compile": ("x.pt", compiled),
    "FSDP": ("x.pt", fsdp),
    ".bin": ("pytorch_model.bin", lambda bundle, path: torch.save(bundle.model.state_dict(), path)),
    ".safetensors": ("x.safetensors", lambda bundle, path: save_file(bundle.model.state_dict(), path)),
    "several files": ("model.safetensors.index.json", in_parts),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_weights_of_other_trainers(kind: str, tmp_path: Path) -> None:
    name, write = WRITERS[kind]
    made = build(seed=3)
    write(made, tmp_path / name)
    found = create("small", CONFIG, init_from=str(tmp_path / name))
    assert torch.equal(features(found), features(made))
    assert not torch.equal(features(found), features(build(seed=0)))
    assert found.notes == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_half_precision_is_trained_in_float32(dtype: torch.dtype, suffix: str, tmp_path: Path) -> None:
    made = build(seed=3)
    made.model.to(dtype)
    weights = made.model.state_dict()
    path = tmp_path / f"x{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    found = create("small", CONFIG, init_from=str(path)).model.state_dict()
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert all(torch.equal(found[name], tensor.float()) for name, tensor in weights.items())


def test_what_is_not_tensors_alone_is_refused(tmp_path: Path) -> None:
    made = build()
    path = tmp_path / "epoch_1.pt"
    torch.save({"state_dict": made.model.state_dict(), "args": argparse.Namespace(lr=1)}, path)
    with pytest.raises(UserError, match=r"would run code .* refused .*Namespace"):
        create("small", CONFIG, init_from=str(path))
    np.savez(tmp_path / "x.npz", weights=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="arrays of numbers alone"):
        create("small", CONFIG, init_from=str(tmp_path / "x.npz"))


def block(tensors: dict[str, torch.Tensor], ours: str, heads: int, timm: bool) -> dict[str, torch.Tensor]:
    """A block as flax's modules name and shape it: heads apart, matrices (in, out)."""
    names = ("norm1", "norm2", "mlp.fc1", "mlp.fc2") if timm else ("ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")
    packed, out = ("attn.qkv.", "attn.proj") if timm else ("attn.in_proj_", "attn.out_proj")
    attention = "MultiHeadDotProductAttention_0"
    found = {}
    for i, name in enumerate(names[:2]):
        found[f"LayerNorm_{i}/scale"] = tensors[f"{ours}{name}.weight"]
        found[f"LayerNorm_{i}/bias"] = tensors[f"{ours}{name}.bias"]
    for i, name in enumerate(names[2:]):
        found[f"MlpBlock_0/Dense_{i}/kernel"] = tensors[f"{ours}{name}.weight"].T
        found[f"MlpBlock_0/Dense_{i}/bias"] = tensors[f"{ours}{name}.bias"]
    for part, weight, bias in zip(
        ("query", "key", "value"),
        tensors[f"{ours}{packed}weight"].chunk(3),
        tensors[f"{ours}{packed}bias"].chunk(3),
        strict=True,
    ):
        found[f"{attention}/{part}/kernel"] = weight.T.unflatten(1, (heads, -1))
        found[f"{attention}/{part}/bias"] = bias.unflatten(0, (heads, -1))
    found[f"{attention}/out/kernel"] = tensors[f"{ours}{out}.weight"].T.unflatten(0, (heads, -1))
    found[f"{attention}/out/bias"] = tensors[f"{ours}{out}.bias"]
    return found


def big_vision(tensors: dict[str, torch.Tensor], heads: int = 2, layers: int = 2) -> dict[str, np.ndarray]:
    """A SigLIP as big_vision saves it, under the names of its flax modules."""
    image, text, pool = "visual.trunk.", "text.", "visual.trunk.attn_pool."
    found = {
        "b": tensors["logit_bias"].reshape(1),
        "t": tensors["logit_scale"].reshape(1),
        "img/embedding/kernel": tensors[f"{image}patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "img/embedding/bias": tensors[f"{image}patch_embed.proj.bias"],
        "img/pos_embedding": tensors[f"{image}pos_embed"],
        "img/Transformer/encoder_norm/scale": tensors[f"{image}norm.weight"],
        "img/Transformer/encoder_norm/bias": tensors[f"{image}norm.bias"],
        "txt/Embed_0/embedding": tensors[f"{text}token_embedding.weight"],
        "txt/pos_embedding": tensors[f"{text}positional_embedding"][None],
        "txt/Encoder_0/encoder_norm/scale": tensors[f"{text}ln_final.weight"],
        "txt/Encoder_0/encoder_norm/bias": tensors[f"{text}ln_final.bias"],
        "txt/head/kernel": tensors[f"{text}text_projection.weight"].T,
        "txt/head/bias": tensors[f"{text}text_projection.bias"],
        "img/MAPHead_0/probe": tensors[f"{pool}latent"],
        "img/MAPHead_0/LayerNorm_0/scale": tensors[f"{pool}norm.weight"],
        "img/MAPHead_0/LayerNorm_0/bias": tensors[f"{pool}norm.bias"],
    }
    attention = "img/MAPHead_0/MultiHeadDotProductAttention_0"
    weights = [tensors[f"{pool}q.weight"], *tensors[f"{pool}kv.weight"].chunk(2)]
    biases = [tensors[f"{pool}q.bias"], *tensors[f"{pool}kv.bias"].chunk(2)]
    for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        found[f"{attention}/{part}/kernel"] = weight.T.unflatten(1, (heads, -1))
        found[f"{attention}/{part}/bias"] = bias.unflatten(0, (heads, -1))
    found[f"{attention}/out/kernel"] = tensors[f"{pool}proj.weight"].T.unflatten(0, (heads, -1))
    found[f"{attention}/out/bias"] = tensors[f"{pool}proj.bias"]
    for i in range(2):
        found[f"img/MAPHead_0/MlpBlock_0/Dense_{i}/kernel"] = tensors[f"{pool}mlp.fc{i + 1}.weight"].T
        found[f"img/MAPHead_0/MlpBlock_0/Dense_{i}/bias"] = tensors[f"{pool}mlp.fc{i + 1}.bias"]
    for i in range(layers):
        for place, ours, timm in (
            (f"img/Transformer/encoderblock_{i}/", f"{image}blocks.{i}.", True),
            (f"txt/Encoder_0/encoderblock_{i}/", f"{text}transformer.resblocks.{i}.", False),
        ):
            found |= {f"{place}{name}": tensor for name, tensor in block(tensors, ours, heads, timm).items()}
    return {f"params/{name}": tensor.numpy() for name, tensor in found.items()}


def test_big_vision_files_are_read_through_open_clip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = create("siglip", SIGLIP)
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    arrays = big_vision(made.model.state_dict())
    path = tmp_path / "siglip.npz"
    np.savez(path, **arrays)
    torch.manual_seed(1)
    found = create("siglip", SIGLIP, init_from=str(path)).model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in made.model.state_dict().items())
    assert {"siglip", "clip"} >= {create("siglip", SIGLIP, pretrained=str(path)).loss}
    with pytest.raises(UserError, match="without their architecture"):
        create("from", init_from=str(path))
    with pytest.raises(UserError, match="reads big_vision's SigLIP weights into its own SigLIP"):
        create("small", CONFIG, init_from=str(path))
    wide = {**SIGLIP, "text_cfg": {**SIGLIP["text_cfg"], "context_length": 16}}
    with pytest.raises(UserError, match=r"of the same sizes"):
        create("siglip", wide, init_from=str(path))
    np.savez(path, **{**arrays, "params/t": np.array([np.nan], dtype=np.float32)})
    with pytest.raises(UserError, match=r"params/t are NaN"):
        create("siglip", SIGLIP, init_from=str(path))


def test_a_file_that_lacks_a_tensor_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    weights = build(seed=3).model.state_dict()
    del weights["visual.proj"]
    torch.save(weights, tmp_path / "x.pt")
    model = build(seed=0).model
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=r"1 tensor\(s\) are missing \(visual\.proj\)"):
        fit_weights(model, read_weights(tmp_path / "x.pt", "x").tensors, "x", "small")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
