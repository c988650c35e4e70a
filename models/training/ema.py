"""A running average of the weights (EMA), which is what evaluations measure where it is kept."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from balance.errors import UserError


class Ema:
    """The exponential moving average of what is trained, and of running statistics.

    average <- d average + (1 - d) weights, with d = min(decay, (1 + n) / (10 + n)) at the n-th update, so that the
    random start is soon forgotten (the warm-up of TensorFlow's ExponentialMovingAverage).

    Args:
        model: the model; frozen parameters are not averaged.
        decay: weight of the past, in [0, 1), 0.999 for instance: about the last 1 / (1 - decay) steps count.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.updates = model, decay, 0
        self.average = {name: tensor.detach().clone() for name, tensor in _averaged(model)}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        live = dict(_averaged(self.model))
        torch._foreach_lerp_(list(self.average.values()), [live[name] for name in self.average], 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in the place of the weights for a while."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        live = dict(_averaged(self.model))
        for name, average in self.average.items():
            kept = live[name].clone()
            live[name].copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """The average and how many updates it has seen."""
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            UserError: it averages other parameters.
        """
        if set(state["average"]) != set(self.average):
            raise UserError("The checkpoint's EMA averages other parameters; keep model.freeze and model.lora.")
        for name, average in self.average.items():
            average.copy_(state["average"][name])
        self.updates = state["updates"]


def _averaged(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What is averaged: trained parameters, and running statistics, whose dtype is floating."""
    yield from ((name, p.data) for name, p in model.named_parameters() if p.requires_grad)
    yield from ((name, b) for name, b in model.named_buffers() if name.endswith(("running_mean", "running_var")))
