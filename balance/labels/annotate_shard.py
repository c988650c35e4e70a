"""One shard's annotation: which samples are good, their labels, and the attribute file."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from balance.errors import UserError
from balance.labels.annotators import Annotator
from balance.labels.attributes import Faults, attribute_path, shard_identity, write_attributes
from balance.labels.rows import Row, TableRows, read_rows
from balance.stream.damage import Damage
from balance.stream.samples import (
    IMAGE_EXTENSIONS,
    BadSample,
    RawSample,
    Sample,
    check_image_header,
    parse_sample,
    read_shard,
)

REPEATED = "key repeated in its shard"
APART = "members of a sample that do not stand together"
DOTS = "a dot in the key"
NO_KEY = "no key"
NO_CAPTION = "no caption"
_MOST_EXTENSIONS = 8  # named where samples have no image
_BATCH = 4096
_BATCH_WITH_IMAGES = 256


@dataclass(frozen=True)
class ShardTask:
    """What a worker needs beside the shard's address.

    Attributes:
        annotator: what labels the samples.
        out: folder of the attribute files.
        check_images: read each picture's header.
        need_caption: a sample without caption is bad.
        rows: what is read of parquet tables; None for shards.
    """

    annotator: Annotator
    out: Path
    check_images: bool = True
    need_caption: bool = True
    rows: TableRows | None = None

    @property
    def fingerprint(self) -> str:
        """Of all that decides the labels."""
        made = self.annotator.fingerprint
        return made if self.rows is None else self.rows.fingerprint(made)


class ShardBuilder:
    """Collects the annotations of one shard, sample by sample, and writes its file.

    Used by each engine, so that they can't differ in what counts as good.
    """

    def __init__(self, task: ShardTask, url: str) -> None:
        self._task, self._url = task, url
        self._identity = shard_identity(url)
        self._waiting: list[Sample] = []
        self._keys: list[str] = []
        self._seen: set[str] = set()
        self._s: list[np.ndarray[Any, Any]] = []
        self._y: list[np.ndarray[Any, Any]] = []
        self._with_images = "image" in task.annotator.needs
        self._causes: dict[str, str] = {}  # of the bad samples, by key
        self.bad: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.damage: Damage | None = None

    def note_damage(self, damage: Damage) -> None:
        """Note that the shard ends early."""
        self.damage = damage

    def _count_bad(self, raw: RawSample, cause: str) -> None:
        """Count a bad sample, once where its members lie apart, with an example of what was found instead."""
        key, count = raw["__key__"], 1
        if dotted := _dotted_images(raw):
            cause, count = DOTS, dotted
        elif key in self._seen:
            cause = REPEATED
        elif key in self._causes:  # its first part has been counted
            self.bad -= Counter({self._causes[key]: 1})
            cause = APART
        elif other := raw.get("__other__"):
            cause = f"{cause}, but {next(iter(other.values()))}"
        self._causes[key] = cause
        self.bad[cause] += count
        self.examples.setdefault(cause, _describe(raw))

    def add(self, raw: RawSample) -> None:
        """Check a raw sample, and keep what the annotator needs of it."""
        try:
            sample = parse_sample(raw, need_caption=self._task.need_caption)
            if self._task.check_images:
                check_image_header(sample.image)
            if sample.key in self._seen:
                raise BadSample(REPEATED)
        except BadSample as bad:
            self._count_bad(raw, bad.cause)
            return
        self._take(sample)

    def add_row(self, row: Row) -> None:
        """Check a row of a table, and keep what the annotator needs of it."""
        cause = NO_KEY if not row.key else NO_CAPTION if self._task.need_caption and not row.captions else None
        if cause is None and row.key in self._seen:
            cause = REPEATED
        if cause is not None:
            self.bad[cause] += 1
            self.examples.setdefault(cause, f"{row.key!r}"[:90])
            return
        assert row.key is not None
        self._take(Sample(row.key, b"", row.captions, row.meta))

    def _take(self, sample: Sample) -> None:
        self._seen.add(sample.key)
        image = sample.image if self._with_images else b""
        self._waiting.append(replace(sample, image=image, shard=self._url))
        if len(self._waiting) >= (_BATCH_WITH_IMAGES if self._with_images else _BATCH):
            self._flush()

    def _flush(self) -> None:
        try:
            s, y = self._task.annotator.annotate(self._waiting)
        except UserError as error:
            raise UserError(f"Annotating the shard {self._url} failed: {error}.") from error
        self._keys += [sample.key for sample in self._waiting]
        self._s.append(s)
        self._y.append(y)
        self._waiting = []

    def write(self) -> Path:
        """Annotate what is left and write the attribute file."""
        self._flush()
        path = attribute_path(self._task.out, self._url)
        s, y = np.concatenate(self._s), np.concatenate(self._y)
        examples = {cause: self.examples[cause] for cause in self.bad}
        faults = Faults(dict(self.bad), examples, self.damage)
        annotator, made = self._task.annotator, self._task.fingerprint
        differ = annotator.take_disagreements()
        write_attributes(path, self._keys, s, y, annotator, self._url, self._identity, faults, differ, made)
        return path


def _dotted_images(raw: RawSample) -> int:
    """How many images fell into this sample for the dots in their keys: its own is not among them, if it has one."""
    if any(extension in raw for extension in IMAGE_EXTENSIONS):
        return 0
    return sum("." in name and name.rpartition(".")[2] in IMAGE_EXTENSIONS for name in raw)


def _describe(raw: RawSample) -> str:
    """The key of a sample and what it has, in a few words."""
    names = sorted({name for name in raw if not name.startswith("__")} | raw.get("__other__", {}).keys())
    more = ", ..." if len(names) > _MOST_EXTENSIONS else ""
    return f"{raw['__key__'][:80]!r} with {', '.join(f'.{name[:20]}' for name in names[:_MOST_EXTENSIONS])}{more}"


def annotate_shard(task: ShardTask, url: str) -> Path:
    """Annotate one shard, or one part of a table, and write its attribute file.

    Raises:
        UserError: the shard can't be opened, or the annotator can't go on (a table that lacks its keys).
    """
    builder = ShardBuilder(task, url)
    if task.rows is not None:
        for row in read_rows(url, task.rows):
            builder.add_row(row)
        return builder.write()
    for raw in read_shard(url, on_bad=builder.note_damage):
        builder.add(raw)
    return builder.write()
