"""The stream: resumable bit for bit, equal on every rank, faithful to the rates, and no picture decoded in vain."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from balance import Problem, solve
from balance.errors import UserError
from balance.labels.annotate import annotate_shards
from balance.labels.annotators import build_annotator
from balance.labels.attributes import read_attributes
from balance.m4.counting import count_parquet
from balance.stream import balanced as stream
from balance.stream.balanced import BalancedStream, Batch, StreamConfig, shuffled, uniform_rates
from balance.stream.samples import RawSample
from tests.tiny import ATTRIBUTES, people_shards, picture, write_tar


class Data:
    """Shards with their attribute files and a plan."""

    def __init__(self, folder: Path, sizes: list[int], **problem: Any) -> None:
        self.shards = people_shards(folder, sizes)
        self.files = annotate_shards(self.shards, build_annotator(ATTRIBUTES), folder / "attributes", progress=False)
        cells = count_parquet([str(file) for file in self.files])
        self.plan = solve(cells, Problem(**{"target": {"woman": 0.5}, "keep": "auto", "max_repeat": 2.0, **problem}))

    def stream(self, rates: Any = None, **options: Any) -> BalancedStream:
        config = StreamConfig(**{"batch_size": 8, "image_size": 16, "shuffle": 20, **options})
        return BalancedStream(self.shards, self.files, rates or self.plan.rates, config, tokens)


def tokens(texts: list[str]) -> torch.Tensor:
    """A tokenizer that keeps apart what is different."""
    return torch.tensor([[len(text), sum(text.encode())] for text in texts])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(tmp_path_factory.mktemp("stream"), [60, 5, 90, 45])


def same(one: Batch, other: Batch) -> bool:
    return (
        one.keys == other.keys
        and torch.equal(one.images, other.images)
        and torch.equal(one.tokens, other.tokens)
        and np.array_equal(one.s, other.s, equal_nan=True)
    )


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_resume_gives_the_next_batches_bit_for_bit(data: Data, workers: int) -> None:
    straight = data.stream(workers=workers)
    iterator = iter(straight)
    while (straight.epoch, straight.batch) != (1, 5):
        next(iterator)
    position = straight.state_dict()
    again = data.stream(workers=workers)
    again.load_state_dict(position)
    for one, other in islice(zip(iterator, again, strict=False), 20):
        assert same(one, other)


def test_a_position_within_an_epoch_needs_the_same_settings(data: Data) -> None:
    one = data.stream(workers=0)
    next(iter(one))
    with pytest.raises(UserError, match=r"workers=1 \(now 2\)"):
        data.stream(workers=2).load_state_dict(one.state_dict())
    data.stream(workers=2).load_state_dict({**one.state_dict(), "batch": 0})


def epoch_keys(stream: BalancedStream) -> Counter[str]:
    batches = stream.batches_in(stream.counts(0))
    return Counter(key for batch in islice(stream, batches) for key in batch.keys)


def test_accepted_samples_do_not_depend_on_workers(data: Data) -> None:
    found = [epoch_keys(data.stream(workers=workers)) for workers in (0, 2)]
    assert found[0] == found[1]


def test_ranks_share_out_what_one_process_reads(data: Data) -> None:
    # Two ranks of batch 4 are one process of batch 8, up to what does not fill a batch.
    whole = epoch_keys(data.stream())
    parts = [epoch_keys(data.stream(batch_size=4, rank=rank, world=2)) for rank in range(2)]
    assert parts[0].total() == parts[1].total()
    both = parts[0] + parts[1]
    assert both.total() == whole.total()
    assert (both - whole).total() <= 4
    accepted = Counter(accepted_keys(data, 0))
    assert not both - accepted


def accepted_keys(data: Data, epoch: int) -> Iterator[str]:
    for file in data.files:
        attributes = read_attributes(file)
        counts = stream.shard_repeats(attributes, data.plan.rates, 0, epoch)
        for key, count in zip(attributes.keys, counts, strict=True):
            yield from [key] * int(count)


def test_accepted_moments_match_the_plan(tmp_path: Path) -> None:
    big = Data(tmp_path, [3000])
    attributes = read_attributes(big.files[0])
    rates = big.plan.rates(attributes.s, attributes.y)
    used = sum(stream.shard_repeats(attributes, big.plan.rates, 0, epoch) for epoch in range(20)) / 20
    woman = attributes.s[:, 0]
    known = ~np.isnan(woman)
    assert abs(np.average(woman[known], weights=used[known]) - 0.5) < 0.01 + 0.005
    np.testing.assert_allclose(used, rates, atol=1 / 20 + 1e-6)


def test_without_balancing_every_sample_comes_once(data: Data) -> None:
    keys = epoch_keys(data.stream(uniform_rates))
    assert set(keys.values()) == {1}
    assert len(keys) == 200


def test_a_batch_holds_no_sample_twice_where_that_can_be_helped(tmp_path: Path) -> None:
    data = Data(tmp_path, [120])
    for batch in islice(data.stream(lambda s, y: np.full(len(s), 2.0), shuffle=60), 25):
        assert len(set(batch.keys)) == len(batch.keys)


def test_shuffling_goes_on_when_only_repeats_are_left() -> None:
    one = stream.Use("a", 0, {}, np.zeros(1, np.float32), np.zeros(1, np.uint8))
    batches = list(shuffled(iter([one] * 8), 8, 4, np.random.default_rng(0)))
    assert [len(batch) for batch in batches] == [4, 4]


def test_rejected_samples_are_never_decoded(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    original = stream.parse_sample

    def note(raw: RawSample) -> Any:
        decoded.append(raw["__key__"])
        return original(raw)

    monkeypatch.setattr(stream, "parse_sample", note)
    accepted = epoch_keys(data.stream())
    assert Counter(decoded) == accepted
    assert len(accepted) < 200


def test_skipping_on_resume_decodes_nothing(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.stream()
    for _ in islice(first, 5):
        pass
    calls: list[str] = []
    original = stream.decode_train
    monkeypatch.setattr(stream, "decode_train", lambda *a, **k: (calls.append(""), original(*a, **k))[1])
    again = data.stream()
    again.load_state_dict(first.state_dict())
    next(iter(again))
    assert len(calls) == 8


def test_an_undecodable_picture_is_replaced_and_counted(tmp_path: Path) -> None:
    rows = []
    for number in range(16):
        image = picture(number, 64)
        rows.append((f"{number:02d}", {"jpg": image[:-10] if number == 3 else image, "txt": b"x"}))
    shard = str(write_tar(tmp_path / "a.tar", rows))
    annotator = build_annotator({"name": "x", "sources": [{"kind": "captions", "attributes": ["gender"]}]})
    files = annotate_shards([shard], annotator, tmp_path / "attributes", progress=False)
    config = StreamConfig(batch_size=8, image_size=16)
    batches = list(islice(BalancedStream([shard], files, uniform_rates, config, tokens), 2))
    assert sum((batch.bad for batch in batches), Counter()) == {"undecodable picture": 1}
    assert sorted(len(set(batch.keys)) for batch in batches) == [7, 8]
    assert all(batch.images.shape == (8, 3, 16, 16) for batch in batches)


def test_a_shard_that_lost_samples_since_is_told(tmp_path: Path) -> None:
    data = Data(tmp_path, [40])
    people_shards(tmp_path, [30])
    with pytest.raises(UserError, match="has changed: annotate it again"):
        list(islice(data.stream(uniform_rates), 10))


def test_fewer_shards_than_workers(tmp_path: Path) -> None:
    data = Data(tmp_path, [64])
    keys = epoch_keys(data.stream(uniform_rates, workers=2))
    assert len(keys) == 64


def test_too_little_data_for_one_batch(data: Data) -> None:
    with pytest.raises(UserError, match="do not fill one batch"):
        next(iter(data.stream(batch_size=500)))
