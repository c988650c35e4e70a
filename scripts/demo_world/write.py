"""Shards of the demo world, the same bytes whatever the number of processes, and a folder that is whole or absent."""

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

from balance.common.workers import as_done
from balance.errors import UserError
from balance.files import whole_folder
from balance.progress import ProgressLine

from .config import World
from .draw import picture
from .grammar import caption
from .ideal import ideal_bias
from .splits import sample, split_sizes

VERSION = 2
SHARD = 1000  # samples


def world_hash(world: World, train: int, seed: int) -> str:
    """What the folder was made from; a change of the programs that draw shows in VERSION."""
    made_from = json.dumps([VERSION, asdict(world), train, seed], sort_keys=True)
    return hashlib.sha256(made_from.encode()).hexdigest()[:16]


def make_world(world: World, out: Path, train: int, seed: int, workers: int, quiet: bool = False) -> bool:
    """Write all splits into `out`. Returns False, at once, if `out` already holds just this world.

    A folder under another name is filled first and renamed last, so `out` is never half made.

    Raises:
        UserError: `out` holds something else, which isn't overwritten.
    """
    mark = world_hash(world, train, seed)
    if out.exists():
        if _made_from(out) == mark:
            return False
        if _made_from(out) is None and any(out.iterdir()):
            raise UserError(f"{out} is not a demo world, and is left as it is; give --out another folder")
    with whole_folder(out) as part:
        counts = _write_splits(world, part, train, seed, workers, quiet)
        truth = {"version": VERSION, "hash": mark, "seed": seed, "world": asdict(world), "splits": counts}
        truth["ideal"] = ideal_bias(world)
        (part / "world.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    return True


def _made_from(out: Path) -> str | None:
    try:
        return str(json.loads((out / "world.json").read_text(encoding="utf-8"))["hash"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _jobs(world: World, train: int) -> Iterator[tuple[str, int, int, int]]:
    for split, size in split_sizes(world, train).items():
        for number, start in enumerate(range(0, size, SHARD)):
            yield split, number, start, min(start + SHARD, size)


def _write_splits(world: World, root: Path, train: int, seed: int, workers: int, quiet: bool) -> dict[str, Any]:
    counts: dict[str, Counter[str]] = {split: Counter() for split in split_sizes(world, train)}
    for split in counts:
        (root / split).mkdir(parents=True)
    total = sum(split_sizes(world, train).values())
    with (
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool,
        ProgressLine("demo world", total, "pictures", shown=not quiet) as line,
    ):
        tasks = [pool.submit(write_shard, world, str(root), seed, *job) for job in _jobs(world, train)]
        for task in as_done(tasks):
            split, tally = task.result()
            counts[split].update(tally)
            line.update(tally["samples"])
    return {split: dict(sorted(tally.items())) for split, tally in counts.items()}


def write_shard(
    world: World, root: str, seed: int, split: str, number: int, start: int, stop: int
) -> tuple[str, Counter[str]]:
    """Write samples start..stop-1 of a split into one tar. Returns the split and its counts."""
    name = split.rsplit("/", 1)[-1]
    tally: Counter[str] = Counter()
    with tarfile.open(Path(root) / split / f"{name}-{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for index in range(start, stop):
            rng = Random(f"{seed}/{split}/{index}")  # of the sample alone: any process draws the same
            scene = sample(world, split, index, rng)
            labels = scene.labels()
            text = caption(scene, rng)
            key = f"{name}-{index:06d}"
            _add(tar, f"{key}.jpg", picture(scene, rng))
            _add(tar, f"{key}.txt", text.encode())
            meta = {**labels, "caption": text, "told": sorted(scene.told), "truth": scene.truth()}
            _add(tar, f"{key}.json", json.dumps(meta).encode())
            tally["samples"] += 1
            tally[f"view={scene.view}"] += 1
            for field in ("gender", "age_group", "occupation", "setting"):
                tally[f"{field}={labels[field]}"] += 1
    return split, tally


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
