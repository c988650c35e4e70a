"""Measure decoding with a random crop: open_clip's transform, and this project's exact and fast paths.

    python scripts/bench_decode.py 'shards=../shared/data/flickr8k/train-00000.tar'

Images per CPU second on one core, median of all rounds; ratios to open_clip's transform are taken within a round.
Settings: shards (generated photos of 512 x 384 without it), sizes, pictures, rounds, width (enlarge pictures to it).
"""

import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from open_clip.transform import image_transform
from PIL import Image

from balance.common.terminal import Table, terminal
from balance.errors import UserError
from balance.stream import scaled
from balance.stream.decode import decode_train
from balance.stream.samples import image_bytes, read_shard
from balance.stream.shards import expand_shards
from conf.app.command import run_command, split_options
from scripts.bench_photos import make_photo_shards

OPTIONS: dict[str, Any] = {"shards": None, "sizes": [64, 112, 224], "pictures": 150, "rounds": 5, "width": None}
Crop = tuple[float, ...]


def ways(size: int) -> dict[str, Callable[[bytes, Crop], Any]]:
    """Ways to make a picture of this size from an encoded one and four numbers that decide the crop."""
    transform = image_transform(size, is_train=True)

    def pillow(image: bytes, u: Crop) -> Any:
        with mock.patch.object(scaled, "_libraries", return_value=None):
            return decode_train(image, size, u, fast=True)

    return {
        "open_clip": lambda image, u: transform(Image.open(io.BytesIO(image))),
        "exact": lambda image, u: decode_train(image, size, u),
        "fast, Pillow alone": pillow,
        "fast": lambda image, u: decode_train(image, size, u, fast=True),
    }


def enlarged(image: bytes, width: int) -> bytes:
    """The picture at another width, of the same shape."""
    picture, buffer = Image.open(io.BytesIO(image)).convert("RGB"), io.BytesIO()
    height = round(width * picture.height / picture.width)
    picture.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def main(arguments: list[str]) -> None:
    options, rest = split_options(arguments, OPTIONS)
    if rest:
        raise UserError(f"{rest[0]!r} is no setting; there are {', '.join(OPTIONS)}.")
    n = int(options["pictures"])
    with tempfile.TemporaryDirectory() as scratch:
        given = options["shards"]
        shards = expand_shards(str(given), "shards") if given else make_photo_shards(Path(scratch), 1, n)
        images = list(islice((image_bytes(raw) for url in shards for raw in read_shard(url)), n))
    if options["width"]:
        images = [enlarged(image, int(options["width"])) for image in images]
    rng = np.random.default_rng(0)
    crops = [tuple(rng.random(4)) for _ in images]
    table = Table(title=f"Decoding {len(images)} pictures: images per CPU second", title_justify="left")
    for column in ("pixels", "way", "images/s", "times open_clip", "mean difference to exact, of 255"):
        table.add_column(column, justify="right")
    for size in options["sizes"]:
        found = ways(int(size))
        rates: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(int(options["rounds"])):
            for name, way in found.items():
                started = time.process_time()
                for image, u in zip(images, crops, strict=True):
                    way(image, u)
                rates[name].append(len(images) / (time.process_time() - started))
        exact = [found["exact"](image, u).astype(float) for image, u in zip(images, crops, strict=True)]
        for name, way in found.items():
            ratio = median(own / other for own, other in zip(rates[name], rates["open_clip"], strict=True))
            row = [str(size), name, f"{median(rates[name]):,.0f}", f"{ratio:.2f}"]
            if name.startswith("fast"):
                made = zip(exact, images, crops, strict=True)
                row.append(f"{np.mean([np.abs(one - way(image, u)).mean() for one, image, u in made]):.1f}")
            table.add_row(*row)
    terminal(no_color=True, width=110).print(table)


if __name__ == "__main__":
    run_command(main, __doc__)
