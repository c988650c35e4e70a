"""Which samples each worker of each rank reads in an epoch: a pure function, so that nobody has to agree on anything.

All accepted uses of all samples, shard after shard in the epoch's order, form one line. Each rank gets an equal,
contiguous stretch of that line, and each of its workers a contiguous part of the stretch, in whole batches. So every
rank has the same number of batches whatever the shards hold, there may be fewer shards than workers (two workers then
read parts of one shard), and only what does not fill a last batch on every rank is left over: fewer uses than one
global batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from balance.errors import UserError


@dataclass(frozen=True)
class Piece:
    """A part of a shard: its accepted uses number `start` to `stop` (exclusive), counted in the order of the file."""

    shard: int
    start: int
    stop: int


def shard_order(n_shards: int, seed: int, epoch: int) -> list[int]:
    """The order in which an epoch visits the shards: a permutation that depends on (seed, epoch) alone."""
    return [int(i) for i in np.random.default_rng([seed, epoch]).permutation(n_shards)]


def batches_per_rank(total: int, batch_size: int, world: int) -> int:
    """How many batches each rank gets from `total` accepted uses.

    Raises:
        UserError: there is not one full batch for every rank.
    """
    batches = total // (batch_size * world)
    if batches == 0:
        raise UserError(
            f"An epoch accepts {total} samples, which do not fill one batch of {batch_size} on {world} process(es); "
            "lower data.batch_size, raise the keep rate, or add data."
        )
    return batches


def pieces(
    counts: Sequence[int],
    seed: int,
    epoch: int,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    worker: int = 0,
    workers: int = 1,
) -> list[Piece]:
    """What one worker reads in one epoch, in order.

    Args:
        counts: accepted uses per shard in this epoch.
        seed: seed of the run.
        epoch: number of the pass over the data.
        batch_size: samples per batch and rank.
        rank: this process, of `world`.
        world: number of processes.
        worker: this loader worker, of `workers`.
        workers: number of loader workers per process.

    Raises:
        UserError: there is not one full batch for every rank.
    """
    total = sum(counts)
    batches = batches_per_rank(total, batch_size, world)
    share, extra = divmod(batches, workers)
    first = rank * total // world + batch_size * (worker * share + min(worker, extra))
    last = first + batch_size * (share + (worker < extra))
    found, position = [], 0
    for shard in shard_order(len(counts), seed, epoch):
        start, stop = max(first - position, 0), min(last - position, counts[shard])
        if start < stop:
            found.append(Piece(shard, start, stop))
        position += counts[shard]
    return found
