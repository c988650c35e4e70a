"""The contrastive losses, on one process or on many.

open_clip's losses do the work. Over W processes the softmax loss gathers the features of all, with gradients: of its
modes only that one gives, after DDP has averaged, the gradients of one process on the whole batch.
"""

import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import nn


def create_loss(kind: str, rank: int = 0, world: int = 1) -> nn.Module:
    """The loss of a kind, "clip" or "siglip", for one of `world` processes."""
    if kind == "siglip":
        return SigLipLoss(rank=rank, world_size=world)
    return ClipLoss(local_loss=False, gather_with_grad=True, rank=rank, world_size=world)


def contrastive_loss(loss: nn.Module, output: dict[str, torch.Tensor]) -> torch.Tensor:
    """Apply a loss to a model's output, in float32 whatever the model computed in; a scalar.

    Args:
        loss: from `create_loss`.
        output: image_features (b, d), text_features (b, d), logit_scale, and for SigLIP logit_bias.
    """
    image, text = output["image_features"].float(), output["text_features"].float()
    scale = output["logit_scale"].float()
    if isinstance(loss, SigLipLoss):
        return loss(image, text, scale, output["logit_bias"].float())
    return loss(image, text, scale)
