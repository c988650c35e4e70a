"""Tiny shards with known content, for tests."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(number: int, size: int = 16) -> bytes:
    """A JPEG whose colours depend on a number."""
    rng = np.random.default_rng(number)
    colours = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).resize((size, size), Image.Resampling.NEAREST).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_tar(path: Path, samples: Sequence[tuple[str, dict[str, bytes]]]) -> Path:
    """A WebDataset shard: (key, {extension: bytes}) each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, members in samples:
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def sample(number: int, meta: dict[str, Any] | None = None, caption: str | None = None) -> dict[str, bytes]:
    """The members of one sample."""
    members = {"jpg": picture(number), "txt": (caption or f"picture number {number}").encode()}
    return members if meta is None else {**members, "json": json.dumps(meta).encode()}


JOBS = ("nurse", "doctor", "chef")


def people_meta(number: int) -> dict[str, Any]:
    """Gender and occupation of sample `number`: 70 % men, nurses mostly women, a fifth unknown."""
    rng = np.random.default_rng([7, number])
    job = JOBS[int(rng.integers(3))]
    woman = rng.random() < {"nurse": 0.7, "doctor": 0.15, "chef": 0.2}[job]
    gender = None if rng.random() < 0.2 else ("woman" if woman else "man")
    return {"gender": gender, "occupation": job}


def people_shards(folder: Path, sizes: Sequence[int], meta: Callable[[int], dict[str, Any]] = people_meta) -> list[str]:
    """Shards of so many samples each; keys number through."""
    shards, number = [], 0
    for index, size in enumerate(sizes):
        rows = []
        for _ in range(size):
            facts = meta(number)
            caption = f"{facts.get('gender') or 'person'} working as {facts.get('occupation')} {number}"
            rows.append((f"{number:06d}", sample(number, facts, caption)))
            number += 1
        shards.append(str(write_tar(folder / f"train-{index:05d}.tar", rows)))
    return shards


ATTRIBUTES = {
    "name": "json",
    "sources": [
        {"kind": "json", "field": "gender", "positive": "woman", "values": {"woman": ["woman"], "man": ["man"]}},
        {"kind": "json", "field": "occupation", "concepts": list(JOBS)},
    ],
}
