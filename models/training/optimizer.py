"""Parameter groups, the optimiser, and the learning rate at a step."""

import math
from collections import defaultdict
from typing import Any

import torch
from torch import nn

from balance.errors import UserError
from models.layers import depths
from models.training.progress import TrainingProgress


def parameter_groups(model: nn.Module, weight_decay: float, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Groups of what is trained: matrices decay, vectors and scalars (norms, biases, logit scale) do not.

    Args:
        model: an open_clip model; frozen parameters are left out.
        weight_decay: of the matrices.
        layer_decay: each layer down from a tower's top learns that many times as fast as the one above; 1 gives two
            groups, and below 1 there are two for each depth, with their share of the learning rate as `scale`.
    """
    trained = [entry for entry in depths(model) if entry[1].requires_grad]
    tops = {tower: max(depth for _, _, where, depth in depths(model) if where == tower) for _, _, tower, _ in trained}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter, tower, depth in trained:
        vector = parameter.ndim < 2 or name.endswith(("positional_embedding", "class_embedding"))
        groups[layer_decay ** (tops[tower] - depth), vector].append(parameter)
    return [
        {"params": members, "weight_decay": 0.0 if vector else weight_decay, "scale": scale}
        for (scale, vector), members in sorted(groups.items(), key=lambda item: (-item[0][0], item[0][1]))
    ]


def create_optimizer(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
    layer_decay: float = 1.0,
) -> torch.optim.Optimizer:
    """AdamW in its fused form, which is several times faster than the loop over parameters.

    Raises:
        UserError: a `layer_decay` outside of (0, 1].
    """
    if not 0 < layer_decay <= 1:
        raise UserError(f"optim.layer_decay={layer_decay} must be above 0 and at most 1.")
    groups = parameter_groups(model, weight_decay, layer_decay)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)


def learning_rate(step: int, total: int, warmup: int, peak: float, final: float = 0.0) -> float:
    """Linear warm-up over `warmup` steps, then a cosine from `peak` to `final` at the last of `total` steps."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + 0.5 * (peak - final) * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of a rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("scale", 1.0)


class LearningRate:
    """Sets the learning rate of a run's next step.

    Args:
        optimizer: whose groups each get their share.
        progress: of the run.
        peak: the largest rate.
        final: the rate at the end.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, progress: TrainingProgress, peak: float, final: float) -> None:
        self._optimizer, self._progress, self._peak, self._final = optimizer, progress, peak, final

    def set(self) -> float:
        """Give every group its share of the rate of the next step, which is returned."""
        at = self._progress
        rate = learning_rate(at.step, at.total_steps, at.warmup_steps, self._peak, self._final)
        set_learning_rate(self._optimizer, rate)
        return rate
