"""Measure the stream without a model, against plain WebDataset with the same decoder.

    python scripts/bench_stream.py 'shards=../shared/data/flickr8k/train-{00000..00005}.tar'

Four ways to make the same uint8 batches, one after the other in each round, all in this process, so that neighbours on
a busy machine disturb CPU seconds little and ratios less: WebDataset; the balanced stream at q = 1; WebDataset that
rejects samples after decoding; the balanced stream that rejects them before. Ratios are taken within a round.

Settings: shards (generated photos without it), sizes, decoders (exact, fast), keep (share accepted), batch, rounds,
pictures (generated ones), folder (where generated shards are kept), out (a file for the raw rounds, JSON).
"""

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core: what is compared is work, not parallelism
if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import open_clip
import webdataset as wds
from numpy.typing import NDArray

from balance.common.terminal import Table, terminal
from balance.errors import UserError
from balance.labels.annotate import annotate_shards
from balance.labels.annotators import build_annotator
from balance.labels.attributes import read_attributes
from balance.stream.balanced import BalancedStream, StreamConfig, shard_repeats, uniform_rates
from balance.stream.decode import decode_train
from balance.stream.shards import expand_shards
from conf.app.command import run_command, split_options
from scripts.bench_photos import make_photo_shards

OPTIONS: dict[str, Any] = {
    "shards": None,
    "sizes": [64, 112, 224],
    "decoders": ["exact", "fast"],
    "keep": 0.6,
    "batch": 128,
    "rounds": 5,
    "pictures": 4000,
    "folder": "",
    "out": None,
}
PLAIN, ALL, AFTER, BEFORE = "webdataset", "balanced, q = 1", "webdataset, rejects decoded", "balanced, rejects"
NAMES = (PLAIN, ALL, AFTER, BEFORE)


@dataclass(frozen=True)
class EqualRates:
    """The same rate for every sample, which is all that speed depends on."""

    keep: float

    def __call__(self, s: NDArray[np.float32], y: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Rates (n,) for n samples."""
        return np.full(len(s), self.keep)


@dataclass(frozen=True)
class Task:
    """Shards, their attribute files, and what to make of them."""

    shards: list[str]
    files: list[Path]
    config: StreamConfig
    keep: float
    tokenizer: Callable[[list[str]], Any]

    def run(self, name: str) -> int:
        """Make all batches of one pass one way; the images in them."""
        if name in (ALL, BEFORE):
            return self.balanced(uniform_rates if name == ALL else EqualRates(self.keep))
        return self.plain(self.accepted() if name == AFTER else None)

    def balanced(self, rates: Any) -> int:
        """The balanced stream's first epoch."""
        stream = BalancedStream(self.shards, self.files, rates, self.config, self.tokenizer)
        batches = stream.batches_in(stream.counts(0))
        return sum(len(batch.images) for batch in islice(stream, batches))

    def accepted(self) -> set[str]:
        """Keys that the balanced stream accepts in its first epoch, so that both reject the same samples."""
        found: set[str] = set()
        for file in self.files:
            attributes = read_attributes(file)
            counts = shard_repeats(attributes, EqualRates(self.keep), self.config.seed, 0)
            found.update(np.asarray(attributes.keys)[counts > 0].tolist())
        return found

    def plain(self, accepted: set[str] | None) -> int:
        """WebDataset as its documentation has it: shuffle, decode, batch; a set rejects after decoding."""
        config, rng = self.config, random.Random(0)

        def decode(raw: dict[str, Any]) -> tuple[str, NDArray[np.uint8], str]:
            u = (rng.random(), rng.random(), rng.random(), rng.random())
            image = decode_train(raw["jpg"], config.image_size, u, config.scale, fast=config.fast_decode)
            captions = json.loads(raw["json"]).get("captions") if "json" in raw else None
            captions = captions or [raw["txt"].decode()]
            return raw["__key__"], image, rng.choice(captions)

        source = wds.WebDataset(self.shards, shardshuffle=len(self.shards), seed=0, empty_check=False)
        samples: Iterator[tuple[str, NDArray[np.uint8], str]] = map(decode, source.shuffle(config.shuffle, rng=rng))
        if accepted is not None:
            samples = (sample for sample in samples if sample[0] in accepted)
        images = 0
        while len(batch := list(islice(samples, config.batch_size))) == config.batch_size:
            images += len(np.stack([image for _, image, _ in batch]))
            self.tokenizer([caption for _, _, caption in batch])
        return images


def measure(task: Task, rounds: int) -> list[dict[str, float]]:
    """Images per CPU second of each way, in each round."""
    found = []
    for number in range(rounds):
        order = NAMES[number % len(NAMES) :] + NAMES[: number % len(NAMES)]
        rates = {}
        for name in order:
            started = time.process_time()
            images = task.run(name)
            rates[name] = images / (time.process_time() - started)
        found.append(rates)
    return found


def ratio(rounds: list[dict[str, float]], above: str, below: str) -> str:
    """The median over rounds, with the smallest and the largest."""
    found = [rates[above] / rates[below] for rates in rounds]
    return f"{median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def main(arguments: list[str]) -> None:
    options, rest = split_options(arguments, OPTIONS)
    if rest:
        raise UserError(f"{rest[0]!r} is no setting; there are {', '.join(OPTIONS)}.")
    with tempfile.TemporaryDirectory() as scratch:
        if options["shards"] is None:
            kept = Path(options["folder"] or scratch)
            shards = make_photo_shards(kept, 4, int(options["pictures"]) // 4)
        else:
            shards = expand_shards(str(options["shards"]), "shards")
        annotator = build_annotator({"name": "bench", "sources": [{"kind": "captions", "attributes": ["gender"]}]})
        files = annotate_shards(shards, annotator, Path(scratch) / "attributes", progress=False)
        tokenizer = open_clip.get_tokenizer("ViT-B-32")
        keep, rounds = float(options["keep"]), int(options["rounds"])
        table = Table(title="The stream without a model: images per CPU second", title_justify="left")
        for column in ("size", "decoder", *NAMES, "q = 1 against plain", "rejecting before against after"):
            table.add_column(column, justify="right")
        raw = []
        for size in options["sizes"]:
            for decoder in options["decoders"]:
                config = StreamConfig(int(options["batch"]), int(size), fast_decode=decoder == "fast")
                found = measure(Task(shards, files, config, keep, tokenizer), rounds)
                raw.append({"size": size, "decoder": decoder, "rounds": found})
                rates = [f"{median(rates[name] for rates in found):,.0f}" for name in NAMES]
                table.add_row(str(size), decoder, *rates, ratio(found, ALL, PLAIN), ratio(found, BEFORE, AFTER))
        load = os.getloadavg()[0]
    terminal(no_color=True, width=150).print(table)
    print(f"{len(shards)} shards, batches of {options['batch']}, keep {keep:g}, {rounds} rounds, load {load:.1f}")
    if options["out"]:
        Path(options["out"]).write_text(json.dumps({"load": load, "keep": keep, "measured": raw}, indent=1))


if __name__ == "__main__":
    run_command(main, __doc__)
