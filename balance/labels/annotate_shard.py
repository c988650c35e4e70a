"""One shard's annotation: which samples are good, their labels, and the attribute file."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from balance.errors import UserError
from balance.labels.annotators import Annotator
from balance.labels.attributes import attribute_path, shard_identity, write_attributes
from balance.stream.samples import BadSample, RawSample, Sample, check_image_header, parse_sample, read_shard

REPEATED = "key repeated in its shard"
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
    """

    annotator: Annotator
    out: Path
    check_images: bool = True
    need_caption: bool = True


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
        self.bad: Counter[str] = Counter()

    def count_bad(self, cause: str) -> None:
        """Count one bad sample, or a shard that ends early."""
        self.bad[cause] += 1

    def add(self, raw: RawSample) -> None:
        """Check a raw sample, and keep what the annotator needs of it."""
        try:
            sample = parse_sample(raw, need_caption=self._task.need_caption)
            if self._task.check_images:
                check_image_header(sample.image)
            if sample.key in self._seen:
                raise BadSample(REPEATED)
        except BadSample as bad:
            self.count_bad(bad.cause)
            return
        self._seen.add(sample.key)
        self._waiting.append(sample if self._with_images else replace(sample, image=b""))
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
        write_attributes(path, self._keys, s, y, self._task.annotator, self._url, self._identity, self.bad)
        return path


def annotate_shard(task: ShardTask, url: str) -> Path:
    """Annotate one shard and write its attribute file.

    Raises:
        UserError: the shard can't be opened, or the annotator can't go on (a table that lacks its keys).
    """
    builder = ShardBuilder(task, url)
    try:
        for raw in read_shard(url, on_bad=builder.count_bad):
            builder.add(raw)
    except OSError as error:
        raise UserError(f"The shard {url} can't be read: {error}.") from error
    return builder.write()
