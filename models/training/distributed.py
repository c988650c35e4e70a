"""This process among those that train together, and what they tell each other beside gradients."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from balance.common.pulse import PULSE
from balance.common.terminal import say
from balance.errors import UserError

T = TypeVar("T")
LAUNCHED = {
    "ACCELERATE_USE_FSDP": ("FSDP (--use_fsdp)", "fsdp=true"),
    "ACCELERATE_USE_DEEPSPEED": ("DeepSpeed (--use_deepspeed)", "fsdp=true"),
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM (--use_megatron_lm)", "fsdp=true"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("a parallelism config (--use_parallelism_config)", "fsdp=true"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("--gradient_accumulation_steps", "optim.accumulate=<parts>"),
    "ACCELERATE_DYNAMO_BACKEND": ("torch.compile (--dynamo_backend)", "compile=true"),
}
"""What `accelerate launch` asks for by a variable of the environment: its name, and the key of a run that does it."""
OFF = ("", "0", "false", "no", "off", "n", "f")
PATIENCE = timedelta(days=30)  # torch's own limit knows nothing of progress; `models.training.watchdog` does


def check_launcher(environment: Mapping[str, str]) -> None:
    """Check that the launcher asks for nothing that a run decides by its configuration, as its checkpoints hold it.

    Accelerate would wrap the model in its own way: checkpoints, evaluation and the loss over processes would not be
    those that are tested.

    Args:
        environment: such as `os.environ`.

    Raises:
        UserError: it does.
    """
    for variable, (flag, key) in LAUNCHED.items():
        value = environment.get(variable, "").strip().lower()
        if value not in OFF and not (value == "1" and variable.endswith("_STEPS")):
            raise UserError(
                f"{variable}={environment[variable]}: accelerate was told to use {flag}; leave that out of the "
                f"launcher's flags and configuration, and give {key} to train.py."
            )


class Processes:
    """One of `world` processes; alone unless torch.distributed is running.

    Talks over gloo, on the CPU: a word between processes must not make the host wait for the GPU.

    Args:
        alone: this process works without the others, even if torch.distributed is running.

    Attributes:
        rank: number of this process.
        world: number of processes.
        first: whether this is the one that writes files.
    """

    def __init__(self, *, alone: bool = False) -> None:
        together = not alone and dist.is_available() and dist.is_initialized()
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        self.first = self.rank == 0
        self._group: Any = None
        if self.world > 1:
            # gloo's own group is at hand where it is the default; another would need further sockets.
            self._group = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo", timeout=PATIENCE)

    def agree(self, value: T) -> T:
        """The first process's value, on all processes."""
        if self.world == 1:
            return value
        values: list[Any] = [value]
        with PULSE.wait():
            dist.broadcast_object_list(values, group=self._group, device=torch.device("cpu"))
        return values[0]

    def by_first(self, work: Callable[[], T]) -> T:
        """What the first process's work gives, on all processes.

        Raises:
            UserError: the work did, on the first; on all processes.
            OSError: likewise.
        """
        outcome: T | Exception | None = None
        if self.first:
            try:
                outcome = work()
            except (UserError, OSError) as error:
                outcome = error
        outcome = self.agree(outcome)
        if isinstance(outcome, Exception):
            raise outcome
        return cast(T, outcome)

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """The block runs on the first process, then, when it has ended there in whatever way, on the others."""
        if not self.first:
            self.agree(None)
        try:
            yield
        finally:
            if self.first:
                self.agree(None)

    def share_weights(self, model: torch.nn.Module) -> None:
        """Give all processes the first one's parameters and buffers, so that they measure one model.

        Equal seeds draw equal weights on equal machines only.
        """
        if self.world == 1:
            return
        with torch.no_grad():
            for tensor in model.state_dict().values():
                value = tensor.detach().cpu().contiguous()
                dist.broadcast(value, src=0, group=self._group)
                tensor.copy_(value)

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks, on all processes."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        with PULSE.wait():
            dist.all_gather_object(values, value, group=self._group)
        return values

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is up on any process."""
        if self.world == 1:
            return list(flags)
        together = torch.tensor([float(flag) for flag in flags])
        with PULSE.wait():
            dist.all_reduce(together, dist.ReduceOp.MAX, group=self._group)
        return [bool(flag) for flag in together]

    def mean(self, value: float) -> float:
        """The mean over processes."""
        if self.world == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        with PULSE.wait():
            dist.all_reduce(total, group=self._group)
        return float(total) / self.world

    def say(self, text: str) -> None:
        """Print on the first process alone."""
        if self.first:
            say(text)
