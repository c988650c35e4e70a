"""The contrastive losses: on one process or many, in chunks, with or without importance weights.

Both are sums over anchors, so that each process takes its own anchors against the whole batch, chunk by chunk. The
mean over processes is the loss of the whole batch, which is what DDP's averaging of gradients makes of it: features
are gathered with gradients, and every parameter, logit scale and bias included, gets the gradient of one process on
the whole batch.

Weights w_i = q_i / E[q] stand in for drawing samples at their rates q. A SigLIP loss (Zhai et al. 2023) is a sum over
pairs; weighted by w_i on positives and w_i w_j on the others it is unbiased. A CLIP loss has a logarithm around its
sum over negatives; with w_j on each of these and w_i on the anchor it is consistent: its bias, by Jensen's inequality
downwards, falls with the batch.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class ContrastiveLoss(nn.Module):
    """A contrastive loss over the batches of all processes.

    Args:
        kind: "clip" (softmax) or "siglip" (sigmoid).
        rank: number of this process.
        world: number of processes.
        chunks: into how many parts the anchors are cut; with more than one, scores are computed again in backward
            instead of being kept, so that no more than one part of the (b, b * world) scores is in memory.
    """

    def __init__(self, kind: str, rank: int = 0, world: int = 1, chunks: int = 1) -> None:
        super().__init__()
        assert kind in ("clip", "siglip")
        self.kind, self.rank, self.world, self.chunks = kind, rank, world, chunks

    def forward(
        self,
        image: torch.Tensor,
        text: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """This process's share; its mean over processes is the loss of the whole batch.

        Args:
            image: (b, d) features of this process.
            text: (b, d).
            scale: factor of the scores.
            bias: term of the scores, for SigLIP.
            weights: (b,) importance weights, not negative, of mean 1 under the data.
        """
        size = len(image)
        positives = torch.arange(self.rank * size, (self.rank + 1) * size, device=image.device)
        with torch.no_grad():
            every_weight = None if weights is None else self._gather(weights)
        if self.kind == "siglip":
            assert bias is not None
            total = self._over_anchors(_siglip, image, self._gather(text), scale, bias, positives, every_weight)
        else:
            images, texts = self._gather(torch.cat([image, text], dim=1)).split(image.shape[1], dim=1)
            total = 0.5 * (
                self._over_anchors(_clip, image, texts, scale, None, positives, every_weight)
                + self._over_anchors(_clip, text, images, scale, None, positives, every_weight)
            )
        return total / size

    def _gather(self, mine: torch.Tensor) -> torch.Tensor:
        gathered: torch.Tensor = mine if self.world == 1 else _Gather.apply(mine, self.rank, self.world)
        return gathered

    def _over_anchors(
        self,
        part: Any,
        anchors: torch.Tensor,
        others: torch.Tensor,
        scale: Any,
        bias: Any,
        positives: Any,
        weights: Any,
    ) -> torch.Tensor:
        """The sum of a loss over all anchors of this process."""
        if self.chunks == 1:
            return part(anchors, others, scale, bias, positives, weights)
        pieces = zip(anchors.tensor_split(self.chunks), positives.tensor_split(self.chunks), strict=True)
        sums = [
            checkpoint(part, rows, others, scale, bias, where, weights, use_reentrant=False, preserve_rng_state=False)
            for rows, where in pieces
            if len(rows)
        ]
        return torch.stack(sums).sum()


def _clip(
    anchors: torch.Tensor,
    others: torch.Tensor,
    scale: torch.Tensor,
    bias: None,
    positives: torch.Tensor,
    weights: torch.Tensor | None,
) -> torch.Tensor:
    """Sum of -log softmax at the positives, for anchors (a, d) among others (n, d)."""
    scores = scale * anchors @ others.T
    if weights is None:
        return functional.cross_entropy(scores, positives, reduction="sum")
    offsets = weights.log().repeat(len(anchors), 1)  # a negative of weight w counts as w negatives, of weight 0 as none
    offsets.scatter_(1, positives[:, None], 0)  # the positive is there whatever its weight
    losses = functional.cross_entropy(scores + offsets, positives, reduction="none")
    return (weights[positives] * losses).sum()


def _siglip(
    anchors: torch.Tensor,
    others: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    positives: torch.Tensor,
    weights: torch.Tensor | None,
) -> torch.Tensor:
    """Sum of -log sigmoid of the score, negated for all but the positives, for anchors (a, d) and others (n, d)."""
    scores = scale * anchors @ others.T + bias
    signs = torch.full_like(scores, -1).scatter_(1, positives[:, None], 1)
    losses = functional.logsigmoid(signs * scores)
    if weights is None:
        return -losses.sum()
    mine = weights[positives]
    pairs = (mine[:, None] * weights[None, :]).scatter_(1, positives[:, None], mine[:, None])
    return -(pairs * losses).sum()


class _Gather(torch.autograd.Function):
    """The rows of all processes, in the order of their ranks; gradients go back to the process whose rows they are."""

    @staticmethod
    def forward(ctx: Any, mine: torch.Tensor, rank: int, world: int) -> torch.Tensor:
        """Gather (b, ...) from each process into (b * world, ...)."""
        ctx.rank, ctx.size = rank, len(mine)
        parts = [torch.empty_like(mine, memory_format=torch.contiguous_format) for _ in range(world)]
        dist.all_gather(parts, mine.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Sum over processes, then this one's rows."""
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.rank * ctx.size : (ctx.rank + 1) * ctx.size], None, None


def contrastive_loss(
    loss: ContrastiveLoss, output: dict[str, torch.Tensor], weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Apply a loss to a model's output, in float32 or better whatever the model computed in; a scalar.

    Args:
        loss: of the model's kind.
        output: image_features (b, d), text_features (b, d), logit_scale, and for SigLIP logit_bias.
        weights: (b,) importance weights, or None.
    """
    image, text, scale = (_full(output[name]) for name in ("image_features", "text_features", "logit_scale"))
    bias = _full(output["logit_bias"]) if loss.kind == "siglip" else None
    return loss(image, text, scale, bias, None if weights is None else weights.to(image))


def _full(values: torch.Tensor) -> torch.Tensor:
    """Half precision made float32; what is better stays as it is."""
    return values if values.dtype == torch.float64 else values.float()
