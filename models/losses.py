"""The contrastive losses, on one process or on many.

open_clip's losses do the work. Over W processes the softmax loss gathers the features of all, with gradients: of its
modes only that one gives, after DDP has averaged, the gradients of one process on the whole batch.
"""

import warnings

import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import nn


def create_loss(kind: str, rank: int = 0, world: int = 1) -> nn.Module:
    """The loss of a kind, "clip" or "siglip", for one of `world` processes."""
    # open_clip gathers by a function that torch has renamed; its users can do nothing about that.
    warnings.filterwarnings("ignore", "torch.distributed.nn.functional", FutureWarning)
    if kind == "siglip":
        return SigLipLoss(rank=rank, world_size=world)
    return ClipLoss(local_loss=False, gather_with_grad=True, rank=rank, world_size=world)


def contrastive_loss(loss: nn.Module, output: dict[str, torch.Tensor]) -> torch.Tensor:
    """Apply a loss to a model's output, in float32 or better whatever the model computed in; a scalar.

    Args:
        loss: from `create_loss`.
        output: image_features (b, d), text_features (b, d), logit_scale, and for SigLIP logit_bias.
    """
    image, text, scale = (_full(output[name]) for name in ("image_features", "text_features", "logit_scale"))
    if isinstance(loss, SigLipLoss):
        return loss(image, text, scale, _full(output["logit_bias"]))
    return loss(image, text, scale)


def _full(values: torch.Tensor) -> torch.Tensor:
    """Half precision made float32; what is better stays as it is."""
    return values if values.dtype == torch.float64 else values.float()
