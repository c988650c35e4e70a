"""A choice as new shards: the accepted samples byte for byte, repeats under names of their own."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from balance.errors import UserError
from balance.files import whole_file, write_whole
from balance.labels.attributes import read_meta
from balance.stream.reading import RawSample, read_shard
from balance.subset.choice import Choice, Chosen

SETTINGS = "subset.json"
SIZES = "sizes.json"


@dataclass(frozen=True)
class NewShard:
    """A shard that is to be written.

    Attributes:
        path: where to.
        url: the shard that its samples come from.
        file: that shard's attribute file.
        samples: how many it will hold, repeats included.
    """

    path: Path
    url: str
    file: Path
    samples: int

    @property
    def stats(self) -> Path:
        """What tells that it is done: img2dataset's file of statistics, which DataComp's tools read, too."""
        return self.path.with_name(f"{self.path.stem}_stats.json")


def new_shards(urls: Sequence[str], files: Sequence[Path], counts: Sequence[int], out: Path) -> list[NewShard]:
    """One new shard for each that has samples in use, numbered without gaps, so that one brace pattern names all."""
    todo = [(url, file, n) for url, file, n in zip(urls, files, counts, strict=True) if n]
    digits = max(5, len(str(len(todo) - 1)))
    return [NewShard(out / f"{i:0{digits}d}.tar", url, file, n) for i, (url, file, n) in enumerate(todo)]


def begin(choice: Choice, shards: Sequence[NewShard], out: Path) -> None:
    """Note in the folder what is written there.

    Raises:
        UserError: it holds shards of another choice, or of another program.
    """
    settings = {"plan": choice.plan.hash, "seed": choice.seed, "epoch": choice.epoch, "epochs": choice.epochs}
    settings |= {"holdout": choice.holdout, "shards": [choice.fingerprint(read_meta(one.file)) for one in shards]}
    path = out / SETTINGS
    if path.is_file():
        if json.loads(path.read_bytes()) != settings:
            raise UserError(f"{out} holds a subset by another plan, seed, epoch or data; name another folder in out=.")
    elif any(out.glob("*.tar")):
        raise UserError(f"{out} holds shards that are no subset of this kind; name another folder in out=.")
    else:
        write_whole(path, json.dumps(settings, indent=1))


def is_done(choice: Choice, shard: NewShard) -> bool:
    """Whether a new shard is there, whole, and made from what is there now."""
    try:
        stats = json.loads(shard.stats.read_bytes())
        size = shard.path.stat().st_size
    except (OSError, ValueError):
        return False
    made_from = choice.fingerprint(read_meta(shard.file))
    return (stats.get("successes"), stats.get("bytes"), stats.get("made_from")) == (shard.samples, size, made_from)


def write_shard(choice: Choice, shard: NewShard) -> int:
    """Write one new shard, whole or not at all; how many samples it holds.

    Raises:
        UserError: the shard has changed since it was labelled.
    """
    chosen = choice.read(shard.file)
    with whole_file(shard.path) as part, tarfile.open(part, "w", format=tarfile.GNU_FORMAT) as tar:
        written = sum(_write(tar, name, raw) for name, raw in named_uses(shard.url, chosen))
    stats = {"successes": written, "bytes": shard.path.stat().st_size}
    write_whole(shard.stats, json.dumps({**stats, "made_from": choice.fingerprint(chosen.attributes.meta)}))
    return written


def named_uses(url: str, chosen: Chosen) -> Iterator[tuple[str, RawSample]]:
    """The uses of a shard's samples, each with a key of its own.

    All first uses come before the second ones: side by side, a trainer's small shuffle buffer would leave repeats in
    one batch, where a contrastive loss takes them for each other's negatives.
    """
    total, known = chosen.total, set(chosen.keys)
    for use in range(int(total.max(initial=0))):
        wanted = total > use
        for row, raw in _listed(url, chosen):
            if wanted[row]:
                yield _name(chosen.keys[row], use, known), raw


def _name(key: str, use: int, known: set[str]) -> str:
    name = key if use == 0 else f"{key}_use{use + 1}"
    while use and name in known:
        name += "_"
    return name


def _listed(url: str, chosen: Chosen) -> Iterator[tuple[int, RawSample]]:
    """The good samples of a shard with their rows in its attribute file, which has them in the shard's order."""
    row, keys = 0, chosen.keys
    for raw in read_shard(url, on_bad=lambda damage: None):
        if row == len(keys):
            return
        if raw["__key__"] == keys[row]:  # or else it was bad when the shard was labelled
            yield row, raw
            row += 1
    if row < len(keys):
        raise UserError(f"The shard {url} ends before its sample {keys[row]!r}; it has changed: label it again.")


def _write(tar: tarfile.TarFile, key: str, raw: RawSample) -> int:
    for extension, content in raw.items():
        if not extension.startswith("__"):
            member = tarfile.TarInfo(f"{key}.{extension}")  # of no time and no owner: the same bytes each time
            member.size = len(content)
            tar.addfile(member, _stream(content))
    return 1


def _stream(content: bytes) -> IO[bytes]:
    return io.BytesIO(content)


def write_sizes(sizes: Mapping[str, int], out: Path) -> Path:
    """The file in which open_clip looks up how many samples each shard of a folder holds."""
    return write_whole(out / SIZES, json.dumps(dict(sorted(sizes.items())), indent=1))
