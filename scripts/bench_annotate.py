"""Measure annotation: captions per second, and reading tars with and without labelling.

    python scripts/bench_annotate.py 'shards=../shared/data/flickr8k/train-{00000..00005}.tar'

Settings: shards, repeat (each figure is the best of so many), captions (how many for the parquet run), batch (captions
at a time). One process, one core: all is timed in CPU seconds of this process, so that busy neighbours matter little.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset as wds

from balance.common.terminal import Table, terminal
from balance.errors import UserError
from balance.labels.annotate_shard import ShardTask, annotate_shard
from balance.labels.attributes import build_annotator, read_meta
from balance.labels.captions import CaptionSource
from balance.stream.samples import parse_sample, read_shard
from balance.stream.shards import expand_shards
from conf.app.command import run_command, split_options

OPTIONS: dict[str, Any] = {"shards": None, "repeat": 5, "captions": 500_000, "batch": 4096}
EVERYTHING = {
    "attributes": ["gender", "age_group", "race"],
    "concepts": ["occupations", "objects", "sports", "proxies"],
}


def best(work: Callable[[], int], repeat: int) -> tuple[float, int]:
    """Units per CPU second, best of `repeat`, and the number of units."""
    rates = []
    for _ in range(repeat):
        started = time.process_time()
        units = work()
        rates.append(units / (time.process_time() - started))
    return max(rates), units


def main(arguments: list[str]) -> None:
    options, rest = split_options(arguments, OPTIONS)
    if rest or options["shards"] is None:
        raise UserError(f"shards=... must be given, and nothing but {', '.join(OPTIONS)}.")
    shards = expand_shards(str(options["shards"]), "shards")
    repeat = int(options["repeat"])
    table = Table(title="Annotation, one core", title_justify="left")
    for name in ("what", "units/s", "against plain reading"):
        table.add_column(name, justify="left" if name == "what" else "right")
    plain, samples = best(lambda: plain_reading(shards), repeat)
    table.add_row(f"plain webdataset iteration, {samples:,} samples", f"{plain:,.0f} samples/s", "1.00")
    with tempfile.TemporaryDirectory() as folder:
        for label, check in (("labelled and written", True), ("the same without header check", False)):
            task = ShardTask(build_annotator({"sources": [{"kind": "captions", **EVERYTHING}]}), Path(folder), check)
            rate, _ = best(lambda task=task: labelling(task, shards), repeat)  # type: ignore[misc]
            table.add_row(f"{label}, all built-in lists", f"{rate:,.0f} samples/s", f"{rate / plain:.2f}")
        captions = some_captions(shards, int(options["captions"]))
        path = Path(folder) / "captions.parquet"
        pq.write_table(pa.table({"caption": captions}), path)
        source = CaptionSource({"kind": "captions", **EVERYTHING})
        rate, n = best(lambda: from_parquet(path, source, int(options["batch"])), repeat)
        table.add_row(f"captions from parquet, {n:,}, all built-in lists", f"{rate:,.0f} captions/s", "")
        mixed = [caption + " 👩" * (i % 10 == 0) for i, caption in enumerate(captions)]
        rate, n = best(lambda: in_memory(mixed, source, int(options["batch"])), repeat)
        table.add_row("from memory, one in ten with an emoji", f"{rate:,.0f} captions/s", "")
        accents = [caption.replace("e", "é", 1) + " 👩" for caption in captions]
        rate, n = best(lambda: in_memory(accents, source, int(options["batch"])), repeat)
        table.add_row("from memory, each with an accent and an emoji", f"{rate:,.0f} captions/s", "")
    terminal(no_color=True, width=110).print(table)


def plain_reading(shards: list[str]) -> int:
    """WebDataset as it comes: tar members grouped into samples, nothing decoded."""
    return sum(1 for _ in wds.WebDataset(shards, shardshuffle=False, empty_check=False))


def labelling(task: ShardTask, shards: list[str]) -> int:
    """Read, check, label and write."""
    return sum(read_meta(annotate_shard(task, url))["samples"] for url in shards)


def some_captions(shards: list[str], n: int) -> list[str]:
    """Captions of the shards, repeated in a shuffled order up to n."""
    found = [caption for url in shards for raw in read_shard(url) for caption in parse_sample(raw).captions]
    order = np.random.default_rng(0).integers(0, len(found), n)
    return [found[i] for i in order]


def from_parquet(path: Path, source: CaptionSource, batch: int) -> int:
    n = 0
    for rows in pq.ParquetFile(path).iter_batches(batch, columns=["caption"]):
        captions = rows.column(0).to_pylist()
        source.annotate_texts(captions, np.arange(len(captions)), len(captions))
        n += len(captions)
    return n


def in_memory(captions: list[str], source: CaptionSource, batch: int) -> int:
    for start in range(0, len(captions), batch):
        part = captions[start : start + batch]
        source.annotate_texts(part, np.arange(len(part)), len(part))
    return len(captions)


if __name__ == "__main__":
    run_command(main, __doc__)
