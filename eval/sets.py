"""Evaluation sets: pictures with captions or labels, read from WebDataset shards.

Two layouts: CLIP_benchmark's (`classnames.txt`, `zeroshot_classification_templates.txt` and `test/*.tar` with `.cls`
members) and plain shards with `.json` labels or captions. Pictures get the evaluation transform of open_clip, exactly.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from balance.errors import UserError
from balance.stream.samples import BadSample, RawSample, check_image_header, image_bytes, parse_sample, read_shard
from balance.stream.shards import expand_shards

Resize = Callable[[Image.Image], Image.Image]
CACHE_BYTES = 1 << 30


@dataclass
class EvalSet:
    """Pictures with what is known of each.

    Attributes:
        name: its name in the configuration.
        encoded: the pictures as they lie in the shards, n of them.
        labels: for each picture its JSON fields, and `cls` where the set has classes.
        captions: for each picture its captions, possibly none.
        classnames: names of the classes, by number.
        templates: prompts for classes, with `{c}` for the name.
        bad: samples left out, by cause.
    """

    name: str
    encoded: list[bytes]
    labels: list[dict[str, Any]]
    captions: list[tuple[str, ...]]
    classnames: list[str] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    bad: dict[str, int] = field(default_factory=dict)
    _pixels: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.encoded)

    def batches(self, resize: Resize, rows: Sequence[int], size: int) -> Iterator[torch.Tensor]:
        """The pictures of some rows as uint8 batches (b, 3, h, w); decoded once if all fit into a gigabyte."""
        if self._pixels is None and rows:
            first = decode(self.encoded[rows[0]], resize)
            if first.numel() * len(rows) <= CACHE_BYTES:
                self._pixels = torch.stack([first, *(decode(self.encoded[row], resize) for row in rows[1:])])
        for start in range(0, len(rows), size):
            if self._pixels is not None:
                yield self._pixels[start : start + size]
            else:
                yield torch.stack([decode(self.encoded[row], resize) for row in rows[start : start + size]])


def decode(image: bytes, resize: Resize) -> torch.Tensor:
    """Decode one picture and apply the evaluation transform; (3, h, w) uint8."""
    with Image.open(io.BytesIO(image)) as picture:
        pixels = np.array(resize(picture).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def load_set(name: str, spec: Any) -> EvalSet:
    """Read an evaluation set, pictures still encoded.

    Args:
        name: its name, for messages.
        spec: a CLIP_benchmark folder, or shards in any form that `data.train` takes.

    Raises:
        UserError: nothing is there, a file of the layout is missing, or no sample can be used.
    """
    folder = Path(spec) if isinstance(spec, str) else None
    if folder is not None and (folder / "classnames.txt").is_file():
        shards = expand_shards(str(folder / "test"), f"eval.sets.{name}")
        found = EvalSet(name, [], [], [], _lines(folder / "classnames.txt"), _templates(folder))
    else:
        shards = expand_shards(spec, f"eval.sets.{name}")
        found = EvalSet(name, [], [], [])
    for shard in shards:
        for raw in read_shard(shard, on_bad=lambda cause: _count(found.bad, cause)):
            try:
                _add(found, raw)
            except BadSample as error:
                _count(found.bad, error.cause)
    if not found.encoded:
        raise UserError(
            f"The evaluation set {name} ({spec}) has no usable sample: {found.bad or 'its shards are empty'}."
        )
    return found


def _add(found: EvalSet, raw: RawSample) -> None:
    image = image_bytes(raw)
    check_image_header(image)
    captions: tuple[str, ...] = ()
    labels: dict[str, Any] = {}
    try:
        sample = parse_sample({"__key__": raw["__key__"], "txt": b"-", **raw})
        labels = dict(sample.meta)
        captions = sample.captions if sample.captions != ("-",) else ()
    except BadSample as error:
        if error.cause != "no caption":
            raise
    if "cls" in raw:
        labels["cls"] = int(raw["cls"])
        if not 0 <= labels["cls"] < max(len(found.classnames), 1):
            raise BadSample("class number without a name")
    found.encoded.append(image)
    found.labels.append(labels)
    found.captions.append(captions)


def _count(bad: dict[str, int], cause: str) -> None:
    bad[cause] = bad.get(cause, 0) + 1


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _templates(folder: Path) -> list[str]:
    path = folder / "zeroshot_classification_templates.txt"
    if not path.is_file():
        raise UserError(f"{folder} has classnames.txt but no {path.name}; add it, one prompt with {{c}} a line.")
    return _lines(path)
