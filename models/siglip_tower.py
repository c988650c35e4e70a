"""SigLIP's picture tower in any size, under a name that says the sizes, as timm has it for the published ones.

open_clip builds a SigLIP tower by timm's name alone, and timm's have GELU where transformers has its tanh form. A name
of ours, `siglip_w768_d12_h12_m3072_p16_i224_tanh_e1e-06`, is made known to timm before open_clip asks for it.
"""

import re
from functools import partial
from typing import Any

import timm
from torch import nn

_NAME = re.compile(r"siglip_w(\d+)_d(\d+)_h(\d+)_m(\d+)_p(\d+)_i(\d+)_(gelu|tanh)_e([\dde-]+)")
SIZES = ("width", "layers", "heads", "inner", "patch_size", "image_size")


def tower_name(width: int, depth: int, heads: int, inner: int, patch: int, size: int, tanh: bool, eps: float) -> str:
    """The name of a tower: width, depth, heads, inner width of the MLP, patch and picture size in pixels."""
    activation = "tanh" if tanh else "gelu"
    small = repr(float(eps)).replace(".", "d")  # timm takes what follows a point for a tag
    return f"siglip_w{width}_d{depth}_h{heads}_m{inner}_p{patch}_i{size}_{activation}_e{small}"


def tower_facts(name: str | None) -> dict[str, Any] | None:
    """Sizes, `tanh` and `eps` that a name says; None for other names."""
    found = _NAME.fullmatch(name or "")
    if found is None:
        return None
    numbers = dict(zip(SIZES, map(int, found.groups()[:6]), strict=True))
    return {**numbers, "tanh": found[7] == "tanh", "eps": float(found[8].replace("d", "."))}


def make_known(name: str | None) -> None:
    """Let timm build the tower of such a name; other names are left alone."""
    facts = tower_facts(name)
    if facts is None or timm.is_model(str(name)):
        return
    entry = partial(_build, facts)
    entry.__name__, entry.__module__ = name, __name__  # type: ignore[attr-defined]  # what timm registers it by
    timm.models.register_model(entry)


def _build(facts: dict[str, Any], pretrained: bool = False, **options: Any) -> nn.Module:
    kept = {key: value for key, value in options.items() if not key.startswith("pretrained") and key != "cache_dir"}
    if pretrained:
        raise ValueError("a tower of this name has no weights of its own")
    sizes = {
        "img_size": facts["image_size"],
        "patch_size": facts["patch_size"],
        "embed_dim": facts["width"],
        "depth": facts["layers"],
        "num_heads": facts["heads"],
        # timm cuts the product off
        "mlp_ratio": facts["inner"] / facts["width"]
        if int(facts["width"] * (facts["inner"] / facts["width"])) == facts["inner"]
        else (facts["inner"] + 0.5) / facts["width"],
    }
    return timm.models.VisionTransformer(
        **{
            **sizes,
            "class_token": False,
            "global_pool": "map",
            "norm_layer": partial(nn.LayerNorm, eps=facts["eps"]),
            "act_layer": partial(nn.GELU, approximate="tanh") if facts["tanh"] else nn.GELU,
            **kept,
        }
    )
