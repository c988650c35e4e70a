"""Gradients of a large contrastive batch in the memory of a small one.

A contrastive loss is no sum over micro-batches, so adding up their losses gives another gradient. Following GradCache
(Gao et al. 2021): all micro-batches go forward without a graph, the loss of the full batch is taken on their features
and gives each feature its gradient, then each micro-batch goes forward again, now with a graph, and its features'
gradients go backward. That costs one more forward pass and keeps the activations of one micro-batch at a time.
"""

import contextlib
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from balance.errors import UserError
from models.checkpoint import rng_state, set_rng_state
from models.losses import ContrastiveLoss, contrastive_loss

FEATURES = ("image_features", "text_features")
SCALARS = ("logit_scale", "logit_bias")


def check_accumulation(model: nn.Module, parts: int, batch_size: int) -> None:
    """Check that a batch can be cut into so many micro-batches without changing its gradient.

    Raises:
        UserError: there are more parts than samples, or the model normalises over the batch.
    """
    if not 1 <= parts <= batch_size:
        raise UserError(
            f"optim.accumulate={parts} can't cut a batch of data.batch_size={batch_size}; it is 1 to {batch_size}."
        )
    if parts > 1 and any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in model.modules()):
        raise UserError(
            f"optim.accumulate={parts} would change what the model computes, since it normalises over the batch; use "
            "optim.accumulate=1, or a model without batch normalisation."
        )


def backward(
    accelerator: Accelerator,
    model: nn.Module,
    loss: ContrastiveLoss,
    images: torch.Tensor,
    tokens: torch.Tensor,
    weights: torch.Tensor | None = None,
    parts: int = 1,
    normalise: Callable[[torch.Tensor], torch.Tensor] = lambda pixels: pixels,
) -> torch.Tensor:
    """Add the gradient of the loss on a batch to the parameters; gives the loss.

    Args:
        accelerator: what prepared the model; scales the loss in fp16 and keeps processes from averaging early.
        model: gives a dict of features, scale and bias.
        loss: of the model's kind.
        images: (b, 3, h, w), as `normalise` wants them.
        tokens: (b, length).
        weights: (b,) importance weights, or None.
        parts: number of micro-batches.
        normalise: from the stream's pixels to the model's; applied to one micro-batch at a time.
    """
    if parts == 1:
        value = contrastive_loss(loss, model(normalise(images), tokens), weights)
        accelerator.backward(value)
        return value.detach()
    batches = list(zip(images.tensor_split(parts), tokens.tensor_split(parts), strict=True))
    states, found = [], []
    with torch.no_grad():
        for pixels, texts in batches:
            states.append(rng_state())
            found.append(model(normalise(pixels), texts))
    leaves = {name: torch.cat([output[name] for output in found]) for name in FEATURES}
    leaves |= {name: found[0][name] for name in SCALARS if name in found[0]}
    leaves = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}
    value = contrastive_loss(loss, leaves, weights)
    accelerator.backward(value)
    gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    split = {name: gradients[name].tensor_split(parts) for name in FEATURES}
    for number, (pixels, texts) in enumerate(batches):
        set_rng_state(states[number])  # the same dropout as without the graph
        last = number == parts - 1
        with contextlib.nullcontext() if last else _without_averaging(accelerator, model):
            output = model(normalise(pixels), texts)
            # Scale and bias are the same in all micro-batches: their gradient, that of the full batch, counts once.
            scalars = [name for name in SCALARS if last and name in gradients and output[name].requires_grad]
            wanted = {name: split[name][number] for name in FEATURES if output[name].requires_grad}
            wanted |= {name: gradients[name] for name in scalars}
            if wanted:
                torch.autograd.backward([output[name] for name in wanted], list(wanted.values()))
    return value.detach()


def _without_averaging(accelerator: Accelerator, model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Keep processes from averaging gradients; accelerate's own way forgets that one process can be under DDP, too."""
    if isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return accelerator.no_sync(model)
