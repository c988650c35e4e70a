"""Weights of transformers' CLIPModel and SiglipModel under open_clip's names, and back.

Both libraries compute the same; they name tensors otherwise, hold queries, keys and values in one tensor or three, and
projections as matrices or layers.
"""

import re
from collections.abc import Iterator, Mapping

import torch

from balance.errors import UserError

Tensors = dict[str, torch.Tensor]

# (transformers, open_clip); parameters of layers follow each.
_TEXT = (
    ("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.final_layer_norm.weight", "ln_final.weight"),
    ("text_model.final_layer_norm.bias", "ln_final.bias"),
)
_CLIP = (
    ("logit_scale", "logit_scale"),
    ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("vision_model.pre_layrnorm.weight", "visual.ln_pre.weight"),
    ("vision_model.pre_layrnorm.bias", "visual.ln_pre.bias"),
    ("vision_model.post_layernorm.weight", "visual.ln_post.weight"),
    ("vision_model.post_layernorm.bias", "visual.ln_post.bias"),
)
_SIGLIP = (
    ("logit_scale", "logit_scale"),
    ("logit_bias", "logit_bias"),
    ("vision_model.embeddings.patch_embedding.weight", "visual.trunk.patch_embed.proj.weight"),
    ("vision_model.embeddings.patch_embedding.bias", "visual.trunk.patch_embed.proj.bias"),
    ("vision_model.post_layernorm.weight", "visual.trunk.norm.weight"),
    ("vision_model.post_layernorm.bias", "visual.trunk.norm.bias"),
    ("vision_model.head.probe", "visual.trunk.attn_pool.latent"),
    ("vision_model.head.attention.out_proj.weight", "visual.trunk.attn_pool.proj.weight"),
    ("vision_model.head.attention.out_proj.bias", "visual.trunk.attn_pool.proj.bias"),
    ("vision_model.head.layernorm.weight", "visual.trunk.attn_pool.norm.weight"),
    ("vision_model.head.layernorm.bias", "visual.trunk.attn_pool.norm.bias"),
    ("vision_model.head.mlp.fc1.weight", "visual.trunk.attn_pool.mlp.fc1.weight"),
    ("vision_model.head.mlp.fc1.bias", "visual.trunk.attn_pool.mlp.fc1.bias"),
    ("vision_model.head.mlp.fc2.weight", "visual.trunk.attn_pool.mlp.fc2.weight"),
    ("vision_model.head.mlp.fc2.bias", "visual.trunk.attn_pool.mlp.fc2.bias"),
    ("text_model.head.weight", "text_projection.weight"),
    ("text_model.head.bias", "text_projection.bias"),
)
# of a block: open_clip's, and timm's
_OWN = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
_TIMM = {"layer_norm1": "norm1", "layer_norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_LAYER = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.")
_BUFFERS = ("position_ids",)  # counted, not learned; older files hold them


def to_open_clip(tensors: Mapping[str, torch.Tensor], siglip: bool, said: str) -> Tensors:
    """open_clip's names.

    Args:
        tensors: a state dict of CLIPModel or SiglipModel.
        siglip: which.
        said: what the user wrote to name them, for messages.

    Raises:
        UserError: a tensor is missing or left over.
    """
    left = {name: tensor for name, tensor in tensors.items() if not name.endswith(_BUFFERS)}
    depth = {"text": 0, "vision": 0}
    for name in left:
        if found := _LAYER.match(name):
            depth[found[1]] = max(depth[found[1]], int(found[2]) + 1)
    out: Tensors = {}

    def take(name: str) -> torch.Tensor:
        if name not in left:
            raise UserError(f"{said} lacks the tensor {name} of a whole {'SiglipModel' if siglip else 'CLIPModel'}.")
        return left.pop(name)

    for name, ours in _names(siglip):
        out[ours] = take(name)
    if siglip:
        out["visual.trunk.pos_embed"] = take("vision_model.embeddings.position_embedding.weight").unsqueeze(0)
        for part in ("weight", "bias"):
            q, k, v = take(f"vision_model.head.attention.in_proj_{part}").chunk(3)
            out[f"visual.trunk.attn_pool.q.{part}"] = q
            out[f"visual.trunk.attn_pool.kv.{part}"] = torch.cat([k, v])
    else:
        out["visual.proj"] = take("visual_projection.weight").T
        out[_text("text_projection", siglip)] = take("text_projection.weight").T
    for theirs, ours, packed, final, names in _blocks(siglip, depth["text"], depth["vision"]):
        for part in ("weight", "bias"):
            for old, new in names.items():
                out[f"{ours}{new}.{part}"] = take(f"{theirs}{old}.{part}")
            out[f"{ours}{packed}{part}"] = torch.cat([take(f"{theirs}self_attn.{one}_proj.{part}") for one in "qkv"])
            out[f"{ours}{final}.{part}"] = take(f"{theirs}self_attn.out_proj.{part}")
    if left:
        raise UserError(f"{said} has {len(left)} tensor(s) that no such model has ({min(left)}).")
    return {name: tensor.contiguous() for name, tensor in out.items()}


def to_transformers(tensors: Mapping[str, torch.Tensor], siglip: bool, layers: Mapping[str, int]) -> Tensors:
    """Transformers' names.

    Args:
        tensors: a state dict of open_clip.
        siglip: whether the picture tower is SigLIP's.
        layers: blocks of the towers `text` and `vision`.

    Raises:
        KeyError: a tensor is missing.
    """
    left = dict(tensors)
    if not siglip:
        left = {name.removeprefix("text."): tensor for name, tensor in left.items()}
    out: Tensors = {name: left.pop(ours) for name, ours in _names(siglip)}
    if siglip:
        out["vision_model.embeddings.position_embedding.weight"] = left.pop("visual.trunk.pos_embed")[0]
        for part in ("weight", "bias"):
            q, kv = left.pop(f"visual.trunk.attn_pool.q.{part}"), left.pop(f"visual.trunk.attn_pool.kv.{part}")
            out[f"vision_model.head.attention.in_proj_{part}"] = torch.cat([q, kv])
        for scalar in ("logit_scale", "logit_bias"):
            out[scalar] = out[scalar].reshape(1)
    else:
        out["visual_projection.weight"] = left.pop("visual.proj").T
        if "text_projection.weight" in left:  # a layer without bias
            out["text_projection.weight"] = left.pop("text_projection.weight")
        else:
            out["text_projection.weight"] = left.pop("text_projection").T
        out["logit_scale"] = out["logit_scale"].reshape(())
        left.pop("logit_bias", None)
    for theirs, ours, packed, final, names in _blocks(siglip, layers["text"], layers["vision"]):
        for part in ("weight", "bias"):
            for old, new in names.items():
                out[f"{theirs}{old}.{part}"] = left.pop(f"{ours}{new}.{part}")
            for one, tensor in zip("qkv", left.pop(f"{ours}{packed}{part}").chunk(3), strict=True):
                out[f"{theirs}self_attn.{one}_proj.{part}"] = tensor
            out[f"{theirs}self_attn.out_proj.{part}"] = left.pop(f"{ours}{final}.{part}")
    if left:
        raise KeyError(min(left))
    return {name: tensor.contiguous() for name, tensor in out.items()}


def _text(name: str, siglip: bool) -> str:
    return f"text.{name}" if siglip else name


def _names(siglip: bool) -> Iterator[tuple[str, str]]:
    for name, ours in (*_TEXT, *(_SIGLIP if siglip else _CLIP)):
        yield name, _text(ours, siglip) if name.startswith("text_model") else ours


def _blocks(siglip: bool, text: int, vision: int) -> Iterator[tuple[str, str, str, str, dict[str, str]]]:
    """(transformers' prefix, ours, the packed projection's, the output's, other names) of every block."""
    own = ("attn.in_proj_", "attn.out_proj", _OWN)
    for i in range(text):
        yield f"text_model.encoder.layers.{i}.", _text(f"transformer.resblocks.{i}.", siglip), *own
    for i in range(vision):
        prefix = f"vision_model.encoder.layers.{i}."
        if siglip:
            yield prefix, f"visual.trunk.blocks.{i}.", "attn.qkv.", "attn.proj", _TIMM
        else:
            yield prefix, f"visual.transformer.resblocks.{i}.", *own
