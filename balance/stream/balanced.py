"""The balanced stream: shards in, equal uint8 batches out, in an order that a seed decides and a resume repeats.

The stages, each a generator over the one before:

1. `uses`:     read this worker's pieces of the shards; drop or repeat each sample by its rate, pixels still encoded;
2. `shuffled`: draw from a buffer of encoded samples, never the same sample twice in a batch where that can be helped;
3. `batches`:  decode, crop, choose a caption, tokenise, stack.

Everything random is a function of (seed, epoch, rank, worker) or of (seed, epoch, key), so a position in the stream
is just (epoch, batches consumed). To resume, stages 1 and 2 run again without stage 3: that costs reading, no decoding.
"""

from __future__ import annotations

import os
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from balance.common.holdout import held_out
from balance.errors import UserError
from balance.labels.attributes import ShardAttributes, read_attributes
from balance.stream.decode import decode_train
from balance.stream.partition import Piece, batches_per_rank, pieces
from balance.stream.sampler import hash_uniforms, repeats
from balance.stream.samples import BadSample, RawSample, parse_sample, read_shard

Tokenizer = Callable[[list[str]], torch.Tensor]


class Rates(Protocol):
    """Anything that gives sampling rates for attributes: a plan, or `uniform_rates`."""

    def __call__(self, s: NDArray[np.float32], y: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Rates of shape (n,) for s (n, m) and y (n, c)."""


def uniform_rates(s: NDArray[np.float32], y: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Use every sample once: the stream without balancing."""
    return np.ones(len(s))


@dataclass(frozen=True)
class StreamConfig:
    """What the stream needs to know beside the data.

    Attributes:
        batch_size: samples per batch and process.
        image_size: height and width in pixels.
        seed: seed of order, acceptance, crops and captions.
        workers: loader processes per rank; 0 reads in the training process.
        shuffle: size of the shuffle buffer in samples, per worker.
        scale: smallest and largest share of the area that a crop keeps.
        fast_decode: scaled JPEG decoding (see `balance.stream.decode`).
        rank: number of this process.
        world: number of processes.
        holdout: share of the samples that is held out by key, and never used.
    """

    batch_size: int
    image_size: int
    seed: int = 0
    workers: int = 0
    shuffle: int = 2000
    scale: tuple[float, float] = (0.9, 1.0)
    fast_decode: bool = False
    rank: int = 0
    world: int = 1
    holdout: float = 0.0


@dataclass
class Use:
    """One use of one sample: its n-th in this epoch, with its attributes."""

    key: str
    copy: int
    raw: RawSample
    s: NDArray[np.float32]
    y: NDArray[np.uint8]


@dataclass
class Batch:
    """One batch of one process.

    Attributes:
        images: (b, 3, h, w) uint8.
        tokens: (b, length) int64.
        s: (b, m) sensitive attributes, NaN = unknown.
        y: (b, c) concepts, 0 or 1.
        keys: the samples' keys.
        bad: causes of samples that failed in this batch; each was replaced by another sample of the batch.
        weights: (b,) float32 importance weights for the loss, of mean 1 under the data; None where all count alike.
    """

    images: torch.Tensor
    tokens: torch.Tensor
    s: NDArray[np.float32]
    y: NDArray[np.uint8]
    keys: list[str]
    bad: Counter[str] = field(default_factory=Counter)
    weights: torch.Tensor | None = None


BatchMaker = Callable[[list[Use], StreamConfig, int, Tokenizer], Batch]
"""Stage 3: the uses of a batch, the stream's configuration, the epoch and the tokenizer to a batch."""


def shard_repeats(
    attributes: ShardAttributes, rates: Rates, seed: int, epoch: int, holdout: float = 0.0
) -> NDArray[np.int64]:
    """How often each sample of a shard is used in an epoch, those held out never; shape (n,)."""
    used = repeats(rates(attributes.s, attributes.y), attributes.keys, seed, epoch)
    used[held_out(attributes.keys, holdout)] = 0
    return used


def uses(
    shards: Sequence[str],
    files: Sequence[str | os.PathLike[str]],
    rates: Rates,
    todo: Sequence[Piece],
    seed: int,
    epoch: int,
    holdout: float = 0.0,
) -> Iterator[Use]:
    """Stage 1: the accepted uses of a worker's pieces, in the order of the files.

    Raises:
        UserError: a shard holds fewer samples than its attribute file says, so one of the two has changed.
    """
    for piece in todo:
        attributes = read_attributes(files[piece.shard])
        counts = shard_repeats(attributes, rates, seed, epoch, holdout)
        before = np.concatenate([[0], np.cumsum(counts)])
        row, keys = 0, attributes.keys
        for raw in read_shard(shards[piece.shard], on_bad=lambda cause: None):
            if before[row] >= piece.stop:
                break
            # Attribute files list the good samples in the order of the tar; what is not next in line was bad.
            if raw["__key__"] != keys[row]:
                continue
            first, last = max(int(before[row]), piece.start), min(int(before[row + 1]), piece.stop)
            for use in range(first, last):
                yield Use(keys[row], use - int(before[row]), raw, attributes.s[row], attributes.y[row])
            row += 1
            if row == len(keys):
                break
        if before[row] < piece.stop:
            raise UserError(
                f"The shard {shards[piece.shard]} ends before the sample {keys[row]!r} that its attribute file "
                f"{files[piece.shard]} lists; the shard has changed: annotate it again."
            )


def shuffled(stream: Iterator[Use], size: int, batch_size: int, rng: np.random.Generator) -> Iterator[list[Use]]:
    """Stage 2: batches drawn at random from a buffer of `size` uses.

    A use whose sample is in the batch already is put back, for as long as the buffer has others: a contrastive loss
    would count a repeated sample as its own negative.
    """
    buffer: list[Use] = []
    exhausted = False
    while True:
        while not exhausted and len(buffer) < max(size, batch_size):
            use = next(stream, None)
            if use is None:
                exhausted = True
            else:
                buffer.append(use)
        if len(buffer) < batch_size:
            assert not buffer, "pieces hold whole batches"
            return
        yield _draw(buffer, batch_size, rng)


def _draw(buffer: list[Use], batch_size: int, rng: np.random.Generator) -> list[Use]:
    batch: list[Use] = []
    put_back: list[Use] = []
    present: set[str] = set()
    while len(batch) < batch_size:
        if not buffer:  # nothing but repeats is left
            buffer.extend(put_back)
            put_back.clear()
            present.clear()
        at = int(rng.integers(len(buffer)))
        buffer[at], buffer[-1] = buffer[-1], buffer[at]
        use = buffer.pop()
        if use.key in present:
            put_back.append(use)
        else:
            present.add(use.key)
            batch.append(use)
    buffer.extend(put_back)
    return batch


def decode_batch(batch: list[Use], config: StreamConfig, epoch: int, tokenizer: Tokenizer) -> Batch:
    """Stage 3: decode a batch. A sample that fails is replaced by its neighbour and counted.

    Raises:
        UserError: no sample of the batch can be decoded.
    """
    images: list[NDArray[np.uint8] | None] = []
    captions: list[str] = []
    bad: Counter[str] = Counter()
    for use in batch:
        *u, pick = hash_uniforms(config.seed, epoch, use.copy, use.key, n=5)
        try:
            sample = parse_sample(use.raw)
            images.append(
                decode_train(sample.image, config.image_size, tuple(u), config.scale, fast=config.fast_decode)
            )
            captions.append(sample.captions[int(pick * len(sample.captions))])
        except BadSample as error:
            bad[error.cause] += 1
            images.append(None)
            captions.append("")
    good = [i for i, image in enumerate(images) if image is not None]
    if not good:
        raise UserError(f"None of the {len(batch)} samples of a batch can be used ({dict(bad)}); check the shards.")
    source = [i if images[i] is not None else good[i % len(good)] for i in range(len(batch))]
    return Batch(
        images=torch.from_numpy(np.stack([image for i in source if (image := images[i]) is not None])),
        tokens=tokenizer([captions[i] for i in source]),
        s=np.stack([batch[i].s for i in source]),
        y=np.stack([batch[i].y for i in source]),
        keys=[batch[i].key for i in source],
        bad=bad,
    )


class _EpochDataset(IterableDataset[Batch]):
    """One worker's batches of one epoch, from batch `skip` of the rank on."""

    def __init__(self, stream: BalancedStream, epoch: int, counts: list[int], skip: int) -> None:
        self.stream, self.epoch, self.counts, self.skip = stream, epoch, counts, skip

    def __iter__(self) -> Iterator[Batch]:
        stream, config = self.stream, self.stream.config
        info = get_worker_info()
        number, workers = (info.id, info.num_workers) if info else (0, 1)
        # Worker n % workers makes batch n of the rank, and the loader asks its process 0 first, also after a resume.
        worker = (number + self.skip) % workers
        todo = pieces(
            self.counts, config.seed, self.epoch, config.batch_size, config.rank, config.world, worker, workers
        )
        rng = np.random.default_rng([config.seed, self.epoch, config.rank, worker])
        accepted = uses(stream.shards, stream.files, stream.rates, todo, config.seed, self.epoch, config.holdout)
        skip = self.skip // workers + (worker < self.skip % workers)
        for made, batch in enumerate(shuffled(accepted, config.shuffle, config.batch_size, rng)):
            if made >= skip:
                decoded = stream.make_batch(batch, config, self.epoch, stream.tokenizer)
                if stream.weigh is not None:
                    decoded.weights = torch.from_numpy(stream.weigh(decoded.s, decoded.y).astype(np.float32))
                yield decoded


class BalancedStream:
    """An endless stream of batches: epoch after epoch over the shards, each sample used at its rate.

    Args:
        shards: addresses of the tar files.
        files: the shards' attribute files, in the same order.
        rates: sampling rates for attributes; pickled into loader workers.
        config: batch size, picture size, seed, ...
        tokenizer: captions to token ids, (b, length).
        weigh: importance weights for attributes, to balance through the loss what the stream does not; None for none.
        make_batch: stage 3; another one may look features up instead of decoding (`balance.stream.features`).

    Iterating yields `Batch`; `state_dict` gives the position after the last batch yielded.
    """

    def __init__(
        self,
        shards: Sequence[str],
        files: Sequence[str | os.PathLike[str]],
        rates: Rates,
        config: StreamConfig,
        tokenizer: Tokenizer,
        weigh: Rates | None = None,
        make_batch: BatchMaker | None = None,
    ) -> None:
        assert len(shards) == len(files)
        self.shards, self.files = list(shards), list(files)
        self.rates, self.config, self.tokenizer, self.weigh = rates, config, tokenizer, weigh
        self.make_batch = make_batch or decode_batch
        self.epoch = 0
        self.batch = 0

    def counts(self, epoch: int) -> list[int]:
        """Accepted uses per shard in an epoch."""
        seed, holdout = self.config.seed, self.config.holdout
        return [int(shard_repeats(read_attributes(f), self.rates, seed, epoch, holdout).sum()) for f in self.files]

    def batches_in(self, counts: Sequence[int]) -> int:
        """Batches of each rank in an epoch with these counts."""
        return batches_per_rank(sum(counts), self.config.batch_size, self.config.world)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            counts = self.counts(self.epoch)
            total = self.batches_in(counts)
            if self.batch < total:
                for batch in self._loader(counts):
                    self.batch += 1
                    yield batch
                assert self.batch == total, f"{self.batch} batches came, not {total}"
            self.epoch, self.batch = self.epoch + 1, 0

    def _loader(self, counts: list[int]) -> Iterator[Batch]:
        dataset = _EpochDataset(self, self.epoch, counts, self.batch)
        # A loader draws a seed for its workers, which do not use it. Drawn from torch's own generator, it would shift
        # what the model draws (dropout) after a resume.
        with warnings.catch_warnings():  # of more workers than cores, which a run says in its own words
            warnings.filterwarnings("ignore", "This DataLoader will create")
            loader: DataLoader[Batch] = DataLoader(
                dataset,
                batch_size=None,
                num_workers=self.config.workers,
                worker_init_fn=_ignore_interrupts,
                generator=torch.Generator(),
            )
            return iter(loader)

    def state_dict(self) -> dict[str, Any]:
        """The position: all that the next batch depends on, beside the data and the plan."""
        config = self.config
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "seed": config.seed,
            "batch_size": config.batch_size,
            "world": config.world,
            "workers": max(config.workers, 1),
            "shuffle": config.shuffle,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position.

        Raises:
            UserError: the order of batches within an epoch would not be that of the run that saved the position.
        """
        mine = self.state_dict()
        changed = [name for name in mine if name not in ("epoch", "batch") and state[name] != mine[name]]
        if changed and state["batch"] > 0:
            was = ", ".join(f"{name}={state[name]} (now {mine[name]})" for name in changed)
            raise UserError(
                f"The checkpoint lies within an epoch of a stream with {was}; resume with the same values, since the "
                "order of samples depends on them."
            )
        self.epoch, self.batch = state["epoch"], state["batch"]


def _ignore_interrupts(worker: int) -> None:
    """Let Ctrl-C reach the trainer alone, which then stops its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
