"""A model that is built in milliseconds, for tests."""

from typing import Any

import torch

from models.factory import ModelBundle, create

CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


def build(seed: int = 0, **options: object) -> ModelBundle:
    """The model with random weights of this seed."""
    torch.manual_seed(seed)
    return create("small", CONFIG, **options)  # type: ignore[arg-type]


def features(bundle: ModelBundle) -> torch.Tensor:
    """What it makes of two texts, (2, 8)."""
    model = bundle.model.eval()
    return model.encode_text(bundle.tokenizer(["a photo of a nurse", "two dogs"])).detach()  # type: ignore[operator]


def siglip_config(text_layers: int) -> dict[str, Any]:
    """A small SigLIP as open_clip writes it."""
    return {
        "embed_dim": 16,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 32,
            "timm_model_name": "siglip_w16_d2_h2_m40_p8_i32_gelu_e1e-06",
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            **{"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": text_layers},
            **{"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}},
        },
    }
