"""Parameter groups, the optimiser, and the learning rate at a step."""

import math

import torch
from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two groups: matrices, which decay, and vectors and scalars (norms, biases, logit scale), which do not."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    vectors = [p for name, p in trained if p.ndim < 2 or name.endswith(("positional_embedding", "class_embedding"))]
    chosen = {id(p) for p in vectors}
    matrices = [p for _, p in trained if id(p) not in chosen]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def create_optimizer(
    model: nn.Module, lr: float, weight_decay: float, betas: tuple[float, float], eps: float
) -> torch.optim.Optimizer:
    """AdamW in its fused form, which is several times faster than the loop over parameters."""
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=lr, betas=betas, eps=eps, fused=True)


def learning_rate(step: int, total: int, warmup: int, peak: float, final: float = 0.0) -> float:
    """Linear warm-up over `warmup` steps, then a cosine from `peak` to `final` at the last of `total` steps."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + 0.5 * (peak - final) * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give all groups the same rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
