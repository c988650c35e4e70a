"""Batches of features in place of pixels and tokens, for models whose towers are frozen.

A frozen tower gives the same output for a picture in every epoch, so the outputs for all pictures and captions of a
shard are computed once and kept in one file. The stream then runs as ever, with the same order, acceptance and choice
of caption; only its last stage looks rows up instead of decoding. Pictures are seen without random crops.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from balance.errors import UserError
from balance.files import whole_file
from balance.labels.attributes import attribute_path, canonical_url, shard_identity
from balance.progress import ProgressLine
from balance.stream.balanced import Batch, StreamConfig, Tokenizer, Use
from balance.stream.sampler import hash_uniforms
from balance.stream.samples import SAMPLES_VERSION, BadSample, Sample, parse_sample, read_shard

SAMPLES_AT_ONCE = 64


class Towers(Protocol):
    """The towers of a model as this file sees them."""

    fingerprint: str
    """Names the towers, their weights and their preprocessing."""

    def encode_images(self, images: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """Encoded pictures to (n, d); a row of NaN for a picture that can't be decoded."""

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Texts to (n, e)."""


def feature_path(folder: Path, url: str) -> Path:
    """Where the feature file of a shard lies."""
    return attribute_path(folder, url).with_suffix(".safetensors")


def prepare_features(
    shards: Sequence[str], towers: Towers, cache: Path, samples: int, progress: bool = True
) -> list[Path]:
    """Compute the features of all shards, but for those that are there already; stopped, it goes on shard by shard.

    Args:
        shards: addresses of the shards.
        towers: the frozen towers.
        cache: folder under which feature files are kept, by what made them.
        samples: how many samples the shards hold, for the progress line.
        progress: show it.

    Returns:
        One file a shard, in their order.
    """
    folder = cache / towers.fingerprint[:12]
    files = [feature_path(folder, url) for url in shards]
    todo = [(url, path) for url, path in zip(shards, files, strict=True) if not _is_current(path, url, towers)]
    if todo:
        folder.mkdir(parents=True, exist_ok=True)
        expected = samples * len(todo) // len(shards)
        with ProgressLine("towers", expected, shown=progress) as line:
            for url, path in todo:
                write_features(url, towers, path, line)
    return files


def write_features(url: str, towers: Towers, path: Path, line: ProgressLine | None = None) -> None:
    """Compute and write the features of one shard: complete or absent."""
    keys: list[str] = []
    counts: list[int] = []
    images: list[npt.NDArray[np.float32]] = []
    texts: list[npt.NDArray[np.float32]] = []
    for block in _blocks(url):
        keys.extend(sample.key for sample in block)
        counts.extend(len(sample.captions) for sample in block)
        images.append(towers.encode_images([sample.image for sample in block]))
        texts.append(towers.encode_texts([caption for sample in block for caption in sample.captions]))
        if line is not None:
            line.update(len(block))
    nothing = [np.empty((0, 0), np.float32)]  # a damaged shard may hold no sample, which labelling has told
    tensors = {
        "image": torch.from_numpy(np.concatenate(images or nothing)),
        "text": torch.from_numpy(np.concatenate(texts or nothing)),
        "first_text": torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)),
        "keys": torch.from_numpy(np.frombuffer(json.dumps(keys).encode(), np.uint8).copy()),
    }
    with whole_file(path) as part:
        part.write_bytes(save(tensors, _facts(url, towers)))  # `save_file` lets the owner alone read


def _blocks(url: str) -> Iterator[list[Sample]]:
    """The usable samples of a shard, some at a time; of those that share a key the first, as in attribute files."""
    block: list[Sample] = []
    seen: set[str] = set()
    for raw in read_shard(url, on_bad=lambda cause: None):
        try:
            sample = parse_sample(raw)
        except BadSample:
            continue
        if sample.key in seen:
            continue
        seen.add(sample.key)
        block.append(sample)
        if len(block) == SAMPLES_AT_ONCE:
            yield block
            block = []
    if block:
        yield block


def _facts(url: str, towers: Towers) -> dict[str, str]:
    identity = json.dumps(shard_identity(url), sort_keys=True)
    return {
        "shard": canonical_url(url),
        "shard_id": identity,
        "towers": towers.fingerprint,
        "samples": str(SAMPLES_VERSION),
    }


def _is_current(path: Path, url: str, towers: Towers) -> bool:
    """Whether a feature file is there and was made from this shard, unchanged since, by these towers."""
    if not path.is_file():
        return False
    try:
        with safe_open(str(path), framework="pt") as file:
            return bool(file.metadata() == _facts(url, towers))
    except SafetensorError:
        return False


@dataclass
class _Table:
    """The features of one shard; tensors lie in the file and are read as they are needed."""

    image: torch.Tensor
    text: torch.Tensor
    first_text: npt.NDArray[np.int64]
    rows: dict[str, int]


class FeatureBatches:
    """The last stage of the stream, by look-up: a drop-in for `balance.stream.balanced.decode_batch`.

    Args:
        shards: addresses of the shards.
        files: their feature files, in the same order.
    """

    def __init__(self, shards: Sequence[str], files: Sequence[Path]) -> None:
        self.files = dict(zip(shards, files, strict=True))
        self._tables: dict[str, _Table] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}}  # each worker opens the files itself

    def __call__(self, batch: list[Use], config: StreamConfig, epoch: int, tokenizer: Tokenizer) -> Batch:
        """One batch: `images` are (b, d) and `tokens` (b, e) float32 outputs of the towers.

        Raises:
            UserError: no picture of the batch could be decoded, or a feature file belongs to other shards.
        """
        found = [self._rows(use, config, epoch) for use in batch]
        good = [i for i, (table, row, _) in enumerate(found) if not bool(torch.isnan(table.image[row, 0]))]
        if not good:
            raise UserError(f"None of the {len(batch)} pictures of a batch can be decoded; check the shards.")
        usable = set(good)
        source = [i if i in usable else good[i % len(good)] for i in range(len(batch))]
        return Batch(
            images=torch.stack([found[i][0].image[found[i][1]] for i in source]),
            tokens=torch.stack([found[i][0].text[found[i][2]] for i in source]),
            s=np.stack([batch[i].s for i in source]),
            y=np.stack([batch[i].y for i in source]),
            keys=[batch[i].key for i in source],
            bad=Counter({"undecodable picture": len(batch) - len(good)}) if len(good) < len(batch) else Counter(),
        )

    def _rows(self, use: Use, config: StreamConfig, epoch: int) -> tuple[_Table, int, int]:
        """The table of a use's shard, its row of pictures, and the row of the caption that decoding would choose."""
        table = self._table(use.raw["__url__"])
        row = table.rows.get(use.key)
        if row is None:
            raise UserError(f"The features of {use.raw['__url__']} do not hold {use.key!r}; delete their file.")
        pick = hash_uniforms(config.seed, epoch, use.copy, use.key, n=5)[-1]
        first, end = int(table.first_text[row]), int(table.first_text[row + 1])
        return table, row, first + int(pick * (end - first))

    def _table(self, url: str) -> _Table:
        if url not in self._tables:
            with safe_open(str(self.files[url]), framework="pt") as file:
                keys = json.loads(file.get_tensor("keys").numpy().tobytes())
                image, text, first = (file.get_tensor(name) for name in ("image", "text", "first_text"))
            self._tables[url] = _Table(image, text, first.numpy(), {key: row for row, key in enumerate(keys)})
        return self._tables[url]
