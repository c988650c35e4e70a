"""A torch sampler for map-style data sets: indices by rates, in an order that a seed decides and a resume repeats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch.distributed
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

from balance.errors import UserError
from balance.stream.sampler import key_uniforms, uses_of


class BalancedSampler(Sampler[int]):
    """Indices of a map-style data set (also of Hugging Face `datasets`), each as often as its rate says.

    A row with rate q is used floor(q) or floor(q) + 1 times in an epoch and E q times in E epochs, to within one use
    for each single row: a rate of 0.3 means 3 of 10 epochs. Which epochs those are is decided by the seed and the
    row's key, so that every process agrees, and so does a resumed run.

        sampler = BalancedSampler(df["rate"], seed=0)
        loader = DataLoader(dataset, batch_size=256, sampler=sampler)

    After a whole pass the sampler goes on to the next epoch by itself; `set_epoch` names it, as for torch's
    `DistributedSampler`. With several processes each gets an equal share, and fewer than `world` uses are left over.

    Args:
        rates: (n,) rates, at least 0, in the order of the data set.
        seed: decides order and acceptance.
        keys: (n,) names of the rows; by default their numbers. Rows with the same key are used in the same epochs.
        shuffle: a new order in each epoch; otherwise the order of the data set, repeats side by side.
        rank, world: this process and their number; by default those of `torch.distributed`, or 0 of 1.

    Raises:
        UserError: rates that are negative or no numbers, or other numbers of rates and keys.
    """

    def __init__(
        self,
        rates: ArrayLike,
        *,
        seed: int = 0,
        keys: Sequence[str] | None = None,
        shuffle: bool = True,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        self.rates = np.asarray(rates, np.float64)
        n = self.rates.size
        if self.rates.ndim != 1 or not np.isfinite(self.rates).all() or (self.rates < 0).any():
            raise UserError("rates must be one number of at least 0 for each row of the data set.")
        if keys is not None and len(keys) != n:
            raise UserError(f"There are {n:,} rates and {len(keys):,} keys; give one key for each row, or none.")
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = rank if rank is not None else torch.distributed.get_rank() if distributed else 0
        self.world = world if world is not None else torch.distributed.get_world_size() if distributed else 1
        if not 0 <= self.rank < self.world:
            raise UserError(f"rank={self.rank} must be at least 0 and below world={self.world}.")
        self.seed, self.shuffle, self.epoch = seed, shuffle, 0
        self._uniforms = key_uniforms([str(i) for i in range(n)] if keys is None else [str(key) for key in keys], seed)
        self._start = 0  # where the next pass begins, after a resume
        self._handed = 0  # indices of this epoch handed out

    def uses(self, epoch: int) -> NDArray[np.int64]:
        """How often each row is used in an epoch, over all processes; shape (n,)."""
        return uses_of(self.rates, self._uniforms, epoch)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; the epoch that the sampler is in already is left as it is."""
        if epoch != self.epoch:
            self.epoch, self._start, self._handed = epoch, 0, 0

    def __len__(self) -> int:
        """Indices of this process in this epoch: epochs differ a little."""
        return int(self.uses(self.epoch).sum()) // self.world

    def __iter__(self) -> Iterator[int]:
        uses = self.uses(self.epoch)
        order = np.repeat(np.arange(uses.size), uses)
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        share = len(order) // self.world
        mine = order[self.rank * share : (self.rank + 1) * share]
        epoch, self._handed, self._start = self.epoch, self._start, 0
        for index in mine[self._handed :].tolist():
            self._handed += 1
            yield index
        if self.epoch == epoch:
            self.epoch, self._handed = epoch + 1, 0

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """The position within the epoch, for a checkpoint.

        Args:
            consumed: samples of this epoch that this process has trained on. A `DataLoader` with workers asks for
                indices ahead of the training; without this number the position is that of the last index asked for.
        """
        position = self._handed if consumed is None else consumed
        return {"epoch": self.epoch, "position": position, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position: the next pass goes on from there.

        Raises:
            UserError: the position is one among other rates, seeds or processes, and not at the start of an epoch.
        """
        mine = self._identity()
        changed = [name for name in mine if state.get(name) != mine[name]]
        if changed and state["position"] > 0:
            was = ", ".join(f"{name}={state.get(name)} (now {mine[name]})" for name in changed)
            raise UserError(f"The saved position lies within an epoch of a sampler with {was}; use the same values.")
        self.epoch = state["epoch"]
        self._start = self._handed = state["position"]

    def _identity(self) -> dict[str, Any]:
        rates = f"{self.rates.size} of sum {self.rates.sum():.9g}"
        return {"seed": self.seed, "world": self.world, "shuffle": self.shuffle, "rates": rates}
