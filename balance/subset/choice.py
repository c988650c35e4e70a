"""How often a plan uses each sample of a shard, and what that makes of the data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance.common.holdout import held_out
from balance.errors import UserError
from balance.labels.attributes import ShardAttributes, read_attributes
from balance.m4.plan import Plan
from balance.stream.accepted import AcceptedMoments
from balance.stream.sampler import key_uniforms, uses_of


def rates_by(plan: Plan, read: ShardAttributes, folder: object) -> NDArray[np.float64]:
    """Rates (n,) of the samples of an attribute file.

    Args:
        plan: the plan.
        read: from `read_attributes`.
        folder: where attribute files lie, for the message.

    Raises:
        UserError: the file has other attributes or concepts than the plan.
    """
    if (tuple(read.s_names), tuple(read.y_names)) != (plan.cells.s_names, plan.cells.y_names):
        raise UserError(
            f"The attribute file of {read.meta.get('shard')} has other attributes or concepts than the plan; solve "
            f"again with scripts/solve.py attributes={folder}."
        )
    return plan.rates(read.s, read.y)


@dataclass(frozen=True)
class Choice:
    """What decides how often a sample is used: the same as for the training stream.

    Attributes:
        plan: gives the rates.
        seed: of the run whose samples these are.
        epoch: the first epoch, from 0.
        epochs: how many epochs.
        holdout: share of the samples that is held out by key and never used, as `data.holdout` of a run.
    """

    plan: Plan
    seed: int = 0
    epoch: int = 0
    epochs: int = 1
    holdout: float = 0.0

    def fingerprint(self, meta: dict[str, Any]) -> str:
        """Changes with what is used of a shard, whose attribute file has this metadata."""
        parts = [1, self.plan.hash, self.seed, self.epoch, self.epochs, self.holdout]
        parts += [meta.get(key) for key in ("shard", "shard_id", "annotator", "samples")]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def read(self, file: Path) -> Chosen:
        """What is used of the shard of an attribute file.

        Raises:
            UserError: the file can't be read, or was made in another way than the plan.
        """
        read = read_attributes(file)
        rates = rates_by(self.plan, read, file.parent)
        rates[held_out(read.keys, self.holdout)] = 0.0
        u = key_uniforms(read.keys, self.seed)
        uses = np.empty((len(rates), self.epochs), np.int32)
        for column in range(self.epochs):
            uses[:, column] = uses_of(rates, u, self.epoch + column)
        return Chosen(read, rates, uses)


@dataclass(frozen=True)
class Chosen:
    """What is used of one shard.

    Attributes:
        attributes: of its n good samples.
        rates: (n,) mean uses per epoch; 0 for those held out.
        uses: (n, epochs) uses in each epoch.
    """

    attributes: ShardAttributes
    rates: NDArray[np.float64]
    uses: NDArray[np.int32]

    @property
    def keys(self) -> list[str]:
        """Keys of the n samples."""
        return self.attributes.keys

    @property
    def shard(self) -> str:
        """The shard's address."""
        return str(self.attributes.meta.get("shard", ""))

    @property
    def total(self) -> NDArray[np.int64]:
        """(n,) uses over all epochs."""
        return self.uses.sum(axis=1, dtype=np.int64)


@dataclass
class Tally:
    """What was chosen in all, beside what was planned.

    Attributes:
        choice: what was asked for.
        moments: of the samples, each as often as it is used.
        samples: good samples there are.
        used: samples that are used at least once.
        uses: uses over all epochs.
    """

    choice: Choice
    moments: AcceptedMoments = field(init=False)
    samples: int = 0
    used: int = 0
    uses: int = 0

    def __post_init__(self) -> None:
        cells = self.choice.plan.cells
        self.moments = AcceptedMoments(cells.s_names, cells.y_names)

    def each(self, files: Sequence[Path]) -> Iterator[Chosen]:
        """What is used of each shard, counted as it passes."""
        for file in files:
            chosen = self.choice.read(file)
            self.add(chosen)
            yield chosen

    def add(self, chosen: Chosen) -> None:
        """Count what is used of a shard."""
        total = chosen.total
        used = total > 0
        self.samples += len(total)
        self.used += int(used.sum())
        self.uses += int(total.sum())
        self.moments.add(chosen.attributes.s[used], chosen.attributes.y[used], total[used].astype(np.float32))

    def shares(self) -> list[tuple[str, float, float]]:
        """For each balanced attribute: its name, its share in the plan, and its share in what was chosen."""
        position = {name: k for k, name in enumerate(self.moments.s_names)}
        after = self.choice.plan.after
        return [
            (name, float(after.representation[k]), float(self.moments.representation[position[name]]))
            for k, name in enumerate(after.targets)
            if name in position
        ]
