"""A model that is built in milliseconds, for tests."""

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
