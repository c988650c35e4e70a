"""Features in place of pixels and tokens: the same samples, the same captions, computed once."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from balance.errors import UserError
from balance.labels.annotate import annotate_shards
from balance.labels.annotators import build_annotator
from balance.stream.balanced import BalancedStream, Batch, StreamConfig, uniform_rates
from balance.stream.features import FeatureBatches, prepare_features
from tests.tiny import ATTRIBUTES, people_meta, people_shards, picture

SIZES = (40, 9, 30)


def digits(content: bytes) -> npt.NDArray[np.float32]:
    """Three numbers that stand for some bytes."""
    return np.frombuffer(hashlib.sha256(content).digest()[:3], np.uint8).astype(np.float32)


@dataclass
class Towers:
    """Outputs that tell what they are of."""

    fingerprint: str = "0123456789abcdef"
    pictures: list[bytes] = field(default_factory=list)
    broken: bytes | None = None  # a picture whose header is sound and whose pixels are not

    def encode_images(self, images: Sequence[bytes]) -> npt.NDArray[np.float32]:
        self.pictures.extend(images)
        found = np.stack([digits(image) for image in images])
        found[[image == self.broken for image in images]] = np.nan
        return found

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.stack([digits(text.encode()) for text in texts])


def tokens(texts: Sequence[str]) -> torch.Tensor:
    """Token ids from which a text can be told: those of `Towers.encode_texts`."""
    return torch.from_numpy(Towers().encode_texts(list(texts)))


def several_captions(number: int) -> dict[str, object]:
    return {**people_meta(number), "captions": [f"caption {k} of {number}" for k in range(1 + number % 5)]}


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    return people_shards(tmp_path / "data", SIZES, several_captions)


def attribute_files(shards: list[str], tmp_path: Path) -> list[Path]:
    return annotate_shards(shards, build_annotator(ATTRIBUTES, shards=shards), tmp_path / "attributes", 0, False, 1.0)


def batches(shards: list[str], files: list[Path], make: FeatureBatches | None, workers: int, n: int) -> list[Batch]:
    config = StreamConfig(batch_size=8, image_size=16, seed=3, workers=workers, shuffle=20)
    return list(islice(BalancedStream(shards, files, uniform_rates, config, tokens, make_batch=make), n))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_samples_and_captions_as_by_decoding(shards: list[str], tmp_path: Path, workers: int) -> None:
    files = attribute_files(shards, tmp_path)
    towers = Towers()
    made = FeatureBatches(shards, prepare_features(shards, towers, tmp_path / "features", sum(SIZES), False))
    pictures = dict(zip((f"{n:06d}" for n in range(sum(SIZES))), towers.pictures, strict=True))
    decoded = batches(shards, files, None, workers, 25)  # more than two passes over the data
    for plain, kept in zip(decoded, batches(shards, files, made, workers, 25), strict=True):
        assert kept.keys == plain.keys
        assert torch.equal(kept.tokens, plain.tokens)
        assert np.array_equal(kept.s, plain.s, equal_nan=True)
        assert np.array_equal(kept.y, plain.y)
        assert np.array_equal(kept.images.numpy(), np.stack([digits(pictures[key]) for key in kept.keys]))
    chosen = {tuple(row.tolist()) for batch in decoded for row in batch.tokens}
    assert len(chosen) > 1.3 * sum(SIZES)  # several captions of one picture were used


def test_features_are_computed_once_and_again_for_a_changed_shard(shards: list[str], tmp_path: Path) -> None:
    towers = Towers()
    files = prepare_features(shards, towers, tmp_path / "features", 0, False)
    assert len(towers.pictures) == sum(SIZES)
    assert prepare_features(shards, towers, tmp_path / "features", 0, False) == files
    assert len(towers.pictures) == sum(SIZES)
    os.utime(shards[1], ns=(1, 1))
    files[2].write_bytes(files[2].read_bytes()[:100])  # damaged from outside
    prepare_features(shards, towers, tmp_path / "features", 0, False)
    assert len(towers.pictures) == sum(SIZES) + SIZES[1] + SIZES[2]
    other = prepare_features(shards, Towers("another"), tmp_path / "features", 0, False)
    assert not set(other) & set(files)


def test_a_run_that_was_stopped_goes_on_with_the_next_shard(shards: list[str], tmp_path: Path) -> None:
    @dataclass
    class Stopped(Towers):
        def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
            if len(self.pictures) > SIZES[0]:
                raise KeyboardInterrupt
            return super().encode_texts(texts)

    with pytest.raises(KeyboardInterrupt):
        prepare_features(shards, Stopped(), tmp_path / "features", 0, False)
    towers = Towers()
    prepare_features(shards, towers, tmp_path / "features", 0, False)
    assert len(towers.pictures) == SIZES[1] + SIZES[2]


def test_a_picture_that_can_not_be_decoded_is_replaced_and_counted(tmp_path: Path) -> None:
    shards = people_shards(tmp_path / "data", [8])
    made = FeatureBatches(shards, prepare_features(shards, Towers(broken=picture(5)), tmp_path / "features", 8, False))
    config = StreamConfig(batch_size=4, image_size=16, shuffle=8)
    stream = BalancedStream(shards, attribute_files(shards, tmp_path), uniform_rates, config, tokens, make_batch=made)
    found = list(islice(stream, 2))
    assert sum((batch.bad for batch in found), Counter()) == {"undecodable picture": 1}
    assert all(len(batch.keys) == 4 and "000005" not in batch.keys for batch in found)
    assert all(not torch.isnan(batch.images).any() for batch in found)


def test_shards_without_a_sample_have_features_of_nothing(shards: list[str], tmp_path: Path) -> None:
    Path(shards[1]).write_bytes(b"<html>502 Bad Gateway</html>")
    files = attribute_files(shards, tmp_path)
    made = FeatureBatches(shards, prepare_features(shards, Towers(), tmp_path / "features", 0, False))
    assert batches(shards, files, made, 0, 5)[-1].keys == batches(shards, files, None, 0, 5)[-1].keys


def test_features_of_other_shards_are_refused(shards: list[str], tmp_path: Path) -> None:
    files = attribute_files(shards, tmp_path)
    features = prepare_features(shards, Towers(), tmp_path / "features", 0, False)
    made = FeatureBatches(shards, [features[1], features[0], features[2]])
    with pytest.raises(UserError, match="do not hold"):
        batches(shards, files, made, 0, 5)
