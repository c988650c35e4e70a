"""The division of an epoch's accepted samples: whole, equal, and the same whatever the number of workers."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balance.errors import UserError
from balance.stream.partition import batches_per_rank, pieces, shard_order


def line(counts: list[int], seed: int, epoch: int) -> list[tuple[int, int]]:
    """All accepted uses in the epoch's order, as (shard, number)."""
    return [(shard, use) for shard in shard_order(len(counts), seed, epoch) for use in range(counts[shard])]


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_ranks_and_workers_share_out_whole_batches(
    counts: list[int], batch: int, world: int, workers: int, epoch: int
) -> None:
    total = sum(counts)
    if total < batch * world:
        with pytest.raises(UserError, match="do not fill one batch"):
            pieces(counts, 0, epoch, batch, world=world)
        return
    batches = batches_per_rank(total, batch, world)
    everything = line(counts, 0, epoch)
    seen: list[tuple[int, int]] = []
    for rank in range(world):
        mine: list[tuple[int, int]] = []
        for worker in range(workers):
            part = [
                (piece.shard, use)
                for piece in pieces(counts, 0, epoch, batch, rank, world, worker, workers)
                for use in range(piece.start, piece.stop)
            ]
            assert len(part) == batch * (batches // workers + (worker < batches % workers))
            mine += part
        assert len(mine) == batches * batch
        # What a rank reads does not depend on the number of its workers.
        start = rank * total // world
        assert mine == everything[start : start + len(mine)]
        seen += mine
    assert len(set(seen)) == len(seen)
    assert total - len(seen) < batch * world


def test_order_depends_on_seed_and_epoch() -> None:
    orders = [tuple(shard_order(20, seed, epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert orders[0] == tuple(shard_order(20, 0, 0))
    assert any(a != b for a, b in pairwise(orders))
