"""The sampler for map-style data sets: faithful to the rates, resumable, in equal shares."""

from itertools import islice

import numpy as np
import pytest
from torch.utils.data import DataLoader

from balance import BalancedSampler
from balance.errors import UserError

RATES = np.random.default_rng(1).random(300) * 2


def test_each_row_is_used_as_often_as_its_rate_says() -> None:
    sampler, epochs = BalancedSampler(RATES, seed=3), 20
    used = np.zeros(len(RATES))
    for epoch in range(epochs):
        assert sampler.epoch == epoch
        assert len(sampler) == sampler.uses(epoch).sum()
        used += np.bincount(list(sampler), minlength=len(RATES))
    assert np.abs(used - epochs * RATES).max() < 1 + 1e-9
    assert list(sampler) != list(sampler)


def test_the_order_is_the_seed_s_and_the_epoch_s() -> None:
    one, other = BalancedSampler(RATES, seed=3), BalancedSampler(RATES, seed=3)
    list(one)
    other.set_epoch(1)
    assert list(one) == list(other)
    plain = BalancedSampler([1.0, 2.0, 0.0], shuffle=False)
    assert list(plain) == [0, 1, 1]
    broken_off = iter(other)
    next(broken_off)
    assert list(other) == list(one)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_gives_the_next_samples(workers: int) -> None:
    def loader(sampler: BalancedSampler) -> DataLoader[int]:
        return DataLoader(range(len(RATES)), batch_size=8, sampler=sampler, num_workers=workers)  # type: ignore[arg-type]

    sampler = BalancedSampler(RATES)
    sampler.set_epoch(2)
    batches = [batch.tolist() for batch in loader(sampler)]
    sampler.set_epoch(2)
    list(islice(loader(sampler), 5))
    state = sampler.state_dict(consumed=5 * 8)
    again = BalancedSampler(RATES)
    again.load_state_dict(state)
    again.set_epoch(2)  # as trainers do at the start of an epoch
    assert [batch.tolist() for batch in loader(again)] == batches[5:]
    assert again.epoch == 3
    with pytest.raises(UserError, match=r"seed=0 \(now 1\)"):
        BalancedSampler(RATES, seed=1).load_state_dict(state)
    BalancedSampler(RATES, seed=1).load_state_dict({**state, "position": 0})


def test_processes_share_an_epoch() -> None:
    whole = list(BalancedSampler(RATES))
    parts = [list(BalancedSampler(RATES, rank=rank, world=3)) for rank in range(3)]
    assert len({len(part) for part in parts}) == 1
    assert [index for part in parts for index in part] == whole[: 3 * len(parts[0])]
    assert len(whole) - 3 * len(parts[0]) < 3


def test_keys_decide_the_epochs() -> None:
    keys = [f"k{i}" for i in range(len(RATES))]
    uses = BalancedSampler(RATES, keys=keys).uses(0)
    turned = BalancedSampler(RATES[::-1], keys=keys[::-1]).uses(0)
    np.testing.assert_array_equal(uses, turned[::-1])


def test_wrong_arguments_are_told() -> None:
    for rates, options, sentence in (
        ([1.0, -1.0], {}, "at least 0"),
        ([1.0, np.nan], {}, "at least 0"),
        ([1.0], {"keys": ["a", "b"]}, "1 rates and 2 keys"),
        ([1.0], {"rank": 2, "world": 2}, "below world=2"),
    ):
        with pytest.raises(UserError, match=sentence):
            BalancedSampler(rates, **options)


def test_hugging_face_datasets() -> None:
    datasets = pytest.importorskip("datasets")
    import balance

    rng = np.random.default_rng(0)
    woman = rng.random(400) < 0.3
    rows = datasets.Dataset.from_dict({"woman": woman.tolist(), "number": list(range(400))})
    plan, rate = balance.from_pandas(rows.select_columns(["woman"]).with_format("arrow")[:], ["woman"])
    sampler = BalancedSampler(rate)
    loader = DataLoader(rows.with_format("torch"), batch_size=16, sampler=sampler)
    seen = np.concatenate([batch["number"].numpy() for _ in range(10) for batch in loader])
    assert woman[seen].mean() == pytest.approx(plan.after.representation[0], abs=0.01)
    assert len(seen) == pytest.approx(10 * 400 * plan.keep, abs=400)
