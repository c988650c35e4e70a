"""FSDP: weights, gradients and optimiser cut over processes while training, by torch's fully_shard.

What evaluates, exports or is saved is the whole model, which is brought up to date when it is looked at. It costs each
process one copy of the weights beside its share of everything else, and lets processes evaluate unequal parts.
"""

import copy
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from balance.errors import UserError

SCALARS = ("logit_scale", "logit_bias")
WHOLE = StateDictOptions(full_state_dict=True)


def check_sharding(world: int, precision: str, others: dict[str, Any]) -> None:
    """Check that a run can be sharded.

    Args:
        world: number of processes.
        precision: fp32, bf16 or fp16.
        others: settings that sharding does not go with, by key; those in use are not None or False.

    Raises:
        UserError: it can't.
    """
    if world == 1:
        raise UserError("fsdp=true divides a model among processes, and there is one; start several, or leave it out.")
    if precision == "fp16":
        raise UserError("fsdp=true does not go with precision=fp16; use bf16 or fp32.")
    for key, value in others.items():
        if value:
            raise UserError(f"fsdp=true does not go with {key}; leave one of the two out.")


class Sharded:
    """A model divided among all processes.

    Args:
        whole: the model as it is, equal on all processes; stays whole.
        device: where the parts compute.
        world: number of processes.
    """

    def __init__(self, whole: nn.Module, device: torch.device, world: int) -> None:
        self.whole = whole
        self.parts = copy.deepcopy(whole)
        for name in SCALARS:  # fully_shard takes no scalars
            scalar = getattr(self.parts, name, None)
            if scalar is not None:
                one = nn.Parameter(scalar.detach().reshape(1), requires_grad=scalar.requires_grad)
                setattr(self.parts, name, one)
        mesh = init_device_mesh(device.type, (world,))
        for module in self.parts.modules():
            if isinstance(module, nn.ModuleList):  # the blocks of a tower
                for block in module:
                    fully_shard(block, mesh=mesh)
        fully_shard(self.parts, mesh=mesh)

    def gather(self) -> None:
        """Bring the whole model up to date; all processes must call this together."""
        full: dict[str, Any] = get_model_state_dict(self.parts, options=WHOLE)
        shapes = self.whole.state_dict()
        self.whole.load_state_dict({name: value.reshape(shapes[name].shape) for name, value in full.items()})

    def state_dict(self) -> dict[str, Any]:
        """That of the whole model; all processes must call this together."""
        self.gather()
        return self.whole.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take in the state of a whole model."""
        self.whole.load_state_dict(state)
        own = self.parts.state_dict()
        parts = {name: value.reshape(own[name].shape) for name, value in self.whole.state_dict().items()}
        set_model_state_dict(self.parts, parts, options=WHOLE)


class ShardedOptimizer:
    """The optimiser of a sharded model, saved whole.

    Args:
        parts: the sharded model.
        optimizer: of its parameters.
    """

    def __init__(self, parts: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.parts, self.optimizer = parts, optimizer

    def state_dict(self) -> dict[str, Any]:
        """By the parameters' names; all processes must call this together."""
        return get_optimizer_state_dict(self.parts, self.optimizer, options=WHOLE)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take in a state."""
        set_optimizer_state_dict(self.parts, self.optimizer, state, options=WHOLE)


def whole_tensor(values: torch.Tensor) -> torch.Tensor:
    """A tensor that may be divided among processes, whole."""
    return values.full_tensor() if isinstance(values, DTensor) else values
