"""Small shards made by hand, for tests."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image


def picture(colour: tuple[int, int, int] = (200, 30, 30), size: int = 16) -> bytes:
    """An encoded JPEG of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(stream, "JPEG")
    return stream.getvalue()


def member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add one file to a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def write_tar(path: Path, samples: Iterable[dict[str, Any]]) -> Path:
    """Write samples `{key, caption?, meta?, image?, raw?}` as a WebDataset shard; `raw` adds members as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for sample in samples:
            key = sample["key"]
            image = sample.get("image", picture())
            if image is not None:
                member(tar, f"{key}.jpg", image)
            if "caption" in sample:
                caption = sample["caption"]
                member(tar, f"{key}.txt", caption if isinstance(caption, bytes) else caption.encode())
            if "meta" in sample:
                meta = sample["meta"]
                member(tar, f"{key}.json", meta if isinstance(meta, bytes) else json.dumps(meta).encode())
            for extension, data in sample.get("raw", {}).items():
                member(tar, f"{key}.{extension}", data)
    return path
