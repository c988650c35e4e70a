"""The webdataset stage: the samples that our own stream would draw, whoever starts the workers."""

import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds

import balance
from balance.errors import UserError
from balance.labels.attributes import read_attributes
from balance.m4.planfile import save_plan
from balance.stream.accepted import AcceptedMoments
from balance.stream.sampler import repeats
from tests.test_stream import Data

# webdataset leaves shards to the garbage collector to close.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(tmp_path_factory.mktemp("wds"), [60, 5, 90, 45], keep=0.8)


def folder(data: Data) -> Path:
    return data.files[0].parent


def expected(data: Data, epoch: int, seed: int = 0) -> Counter[str]:
    """How often our own stream uses each key of an epoch."""
    found: Counter[str] = Counter()
    for file in data.files:
        read = read_attributes(file)
        found.update(
            dict(zip(read.keys, repeats(data.plan.rates(read.s, read.y), read.keys, seed, epoch).tolist(), strict=True))
        )
    return +found


def pipeline(data: Data, stage: Any) -> Any:
    return wds.WebDataset(data.shards, shardshuffle=False, empty_check=False).compose(stage)


def keys(samples: Any) -> Counter[str]:
    return Counter(sample["__key__"] for sample in samples)


def test_a_stage_draws_what_our_stream_draws_epoch_by_epoch(data: Data, tmp_path: Path) -> None:
    stage = balance.wds.balanced(save_plan(data.plan, tmp_path / "plan"), folder(data), seed=4)
    dataset = pipeline(data, stage)
    assert [keys(dataset) for _ in range(3)] == [expected(data, epoch, seed=4) for epoch in range(3)]
    stage.set_epoch(7)
    assert keys(dataset) == expected(data, 7, seed=4)
    assert max(expected(data, 7, seed=4).values()) == 2


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_started_anew_go_on_to_the_next_epoch(data: Data, persistent: bool) -> None:
    stage = balance.wds.balanced(data.plan, folder(data))
    dataset = pipeline(data, stage).decode().to_tuple("__key__", "txt")
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=2, persistent_workers=persistent)
    for epoch in range(3):
        assert Counter(key for key, _ in loader) == expected(data, epoch)
    stage.set_epoch(9)
    assert Counter(key for key, _ in loader) == expected(data, 9)


def test_moments_are_those_of_the_plan(data: Data) -> None:
    labels = {key: (read.s[i], read.y[i]) for read in map(read_attributes, data.files) for i, key in
              enumerate(read.keys)}  # fmt: skip
    stage = balance.wds.balanced(data.plan, folder(data))
    accepted = AcceptedMoments(data.plan.cells.s_names, data.plan.cells.y_names)
    dataset = pipeline(data, stage)
    for _ in range(20):
        drawn = [labels[sample["__key__"]] for sample in dataset]
        accepted.add(np.array([s for s, _ in drawn]), np.array([y for _, y in drawn]))
    position = data.plan.cells.s_names.index("woman")
    planned = data.plan.after.representation[list(data.plan.after.targets).index("woman")]
    assert accepted.representation[position] == pytest.approx(planned, abs=0.01)


def test_resampled_pipelines_draw_at_each_visit(data: Data) -> None:
    stage = balance.wds.by_key({"a": 0.5, "b": 1.5}, resampled=True)
    seen = keys(stage({"__key__": key} for _ in range(2000) for key in ("a", "b", "c")))
    assert seen["a"] == pytest.approx(1000, abs=100)
    assert seen["b"] == pytest.approx(3000, abs=100)
    assert "c" not in seen


def test_a_stage_can_be_copied_and_sent(data: Data) -> None:
    stage = balance.wds.by_key({"a": 0.5, "b": 0.5}, seed=1)
    stage.set_epoch(3)
    other = pickle.loads(pickle.dumps(stage))
    samples = [{"__key__": "a"}, {"__key__": "b"}]
    assert [keys(stage(samples)) for _ in range(4)] == [keys(other(samples)) for _ in range(4)]


def test_shards_that_were_moved_are_found_by_name(data: Data, tmp_path: Path) -> None:
    moved = str(shutil.copy(data.shards[0], tmp_path))
    stage = balance.wds.balanced(data.plan, folder(data))
    assert keys(wds.WebDataset([moved], shardshuffle=False).compose(stage)) <= expected(data, 0)
    other = str(shutil.copy(data.shards[0], tmp_path / "other.tar"))
    with pytest.raises(UserError, match=r"no attribute file for the shard .*other\.tar"):
        keys(wds.WebDataset([other], shardshuffle=False).compose(stage))


def test_samples_of_other_data_are_refused(data: Data) -> None:
    stage = balance.wds.balanced(data.plan, folder(data))
    strange = ({"__key__": f"strange{i}", "__url__": data.shards[0]} for i in range(1000))
    with pytest.raises(UserError, match="None of the first 101 samples of"):
        keys(stage(strange))
    known = next(iter(expected(data, 0)))
    bad = [{"__key__": known, "__url__": url} for url in data.shards for _ in range(60)]
    keys(balance.wds.balanced(data.plan, folder(data))(bad))
    with pytest.raises(UserError, match="holds no attribute files"):
        balance.wds.balanced(data.plan, folder(data).parent / "nowhere")


def test_keys_that_are_not_utf8() -> None:
    stage = balance.wds.by_key({"caf\\xe9": 1.0, "café": 1.0})
    assert len(list(stage([{"__key__": "caf\udce9"}, {"__key__": "café"}]))) == 2
